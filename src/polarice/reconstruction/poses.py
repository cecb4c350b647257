"""How particles lie in their images: one pose of each, or several by how likely they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["PoseDraws", "Poses"]


@dataclass(frozen=True)
class Poses:
    """Orientation and place of ``n`` particles.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
        Specimen to image coordinates.
    shifts_px : Tensor, shape (n, 2)
        Where each particle lies, (x, y) from the centre of the box.
    log_likelihood : Tensor, shape (n,)
        How much likelier, natural logarithm, than that the image shows nothing.
    """

    rotations: Tensor
    shifts_px: Tensor
    log_likelihood: Tensor

    def __getitem__(self, index: Any) -> Poses:
        return Poses(self.rotations[index], self.shifts_px[index], self.log_likelihood[index])

    def as_draws(self) -> PoseDraws:
        """A copy, each alone."""
        return PoseDraws(
            self.rotations[:, None].clone(),
            self.shifts_px[:, None].clone(),
            torch.ones_like(self.shifts_px[:, :1]),
        )

    def put(self, index: Tensor, others: Poses) -> None:
        """Write others, wherever they are, in the place of some."""
        self.rotations[index] = others.rotations.to(self.rotations)
        self.shifts_px[index] = others.shifts_px.to(self.shifts_px)
        self.log_likelihood[index] = others.log_likelihood.to(self.log_likelihood)


@dataclass(frozen=True)
class PoseDraws:
    """Several poses of each of ``n`` particles, for all those that its image allows.

    Attributes
    ----------
    rotations : Tensor, shape (n, k, 3, 3)
        Specimen to image coordinates.
    shifts_px : Tensor, shape (n, k, 2)
        Where each particle lies, (x, y) from the centre of the box.
    shares : Tensor, shape (n, k)
        How likely each pose is; together 1.
    """

    rotations: Tensor
    shifts_px: Tensor
    shares: Tensor

    def __getitem__(self, index: Any) -> PoseDraws:
        return PoseDraws(self.rotations[index], self.shifts_px[index], self.shares[index])

    def put(self, index: Tensor, others: PoseDraws) -> None:
        """Write others, wherever they are, in the place of some."""
        self.rotations[index] = others.rotations.to(self.rotations)
        self.shifts_px[index] = others.shifts_px.to(self.shifts_px)
        self.shares[index] = others.shares.to(self.shares)

    @classmethod
    def in_order(cls, index: Tensor, parts: Sequence[PoseDraws]) -> PoseDraws:
        """Those of some particles after those of others, put into the order of their numbers."""
        order = index.argsort()
        return cls(
            torch.cat([part.rotations.to(index.device) for part in parts])[order],
            torch.cat([part.shifts_px.to(index.device) for part in parts])[order],
            torch.cat([part.shares.to(index.device) for part in parts])[order],
        )
