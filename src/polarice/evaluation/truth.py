"""What a simulation knows of its particles, and how far orientations and a map lie from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ParticleFileError
from ..particles import ParticleStack
from ..reconstruction import (
    HalfMaps,
    ImageSource,
    MapComparison,
    PoseDraws,
    Poses,
    compare_maps,
    gather_half,
    solve_halves,
)
from ..simulation import Volume, read_map
from .orientations import orientation_errors, register_orientations

__all__ = ["Compared", "Truth"]


@dataclass(frozen=True)
class Compared:
    """Orientations and a map beside the truth.

    Attributes
    ----------
    errors_deg : Tensor, shape (n,)
        Angles between found and true orientations after the best rotation and hand.
    mirrored : bool
        Whether the mirror image fitted better.
    maps : HalfMaps
        Of the same images with the orientations in the truth's frame.
    fsc : MapComparison
        Of the map and the true one, within the map's mask.
    """

    errors_deg: Tensor
    mirrored: bool
    maps: HalfMaps
    fsc: MapComparison

    def figures(self) -> dict[str, Any]:
        """Figures as plain values."""
        return {
            "mean_error_deg": round(float(self.errors_deg.mean()), 3),
            "median_error_deg": round(float(self.errors_deg.median()), 3),
            "resolution_to_truth_A": round(self.fsc.resolution_A(0.5), 3),
        }


@dataclass(frozen=True)
class Truth:
    """True orientations and places of particles, and the true map.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
    shifts_px : Tensor, shape (n, 2)
    volume : Volume
    """

    rotations: Tensor
    shifts_px: Tensor
    volume: Volume

    @classmethod
    def load(cls, folder: str | Path) -> Truth:
        """Read what `polarice simulate` has left in a folder.

        Raises
        ------
        PolariceError
            Something of it is missing or broken.
        """
        stack = ParticleStack.open(Path(folder) / "particles.star")
        rotations, shifts = stack.rotations(), stack.shifts_px()
        if rotations is None or shifts is None:
            raise ParticleFileError("has no true orientations and origins", path=stack.path)
        return cls(rotations, torch.from_numpy(shifts), read_map(Path(folder) / "volume.mrc"))

    @property
    def poses(self) -> Poses:
        """Of all particles."""
        return Poses(self.rotations, self.shifts_px, torch.zeros(len(self.rotations)))

    def require_fit(self, particles: str | Path) -> None:
        """Refuse particles that cannot be those of the simulation.

        Raises
        ------
        ParticleFileError
            Their number or box is another.
        """
        stack = ParticleStack.open(particles)
        mine = len(self.rotations), self.volume.box
        if (len(stack), stack.box) != mine:
            raise ParticleFileError(
                f"has {len(stack)} images of {stack.box} pixels, the simulation {mine[0]} of {mine[1]}",
                path=stack.path,
                hint="give --truth the folder that `polarice simulate` made these particles in",
            )

    def errors_deg(self, rotations: Tensor) -> Tensor:
        """Angles (n,) between orientations and the true ones after the best rotation and hand."""
        return orientation_errors(rotations, self.rotations).angles_deg

    def compare(
        self,
        source: ImageSource,
        poses: Poses,
        halves: NDArray[np.int8],
        draws: PoseDraws | None = None,
    ) -> Compared:
        """Put orientations into the truth's frame, and make the map anew in it.

        The frame's rotation and hand follow from all orientations together, its origin from all shifts: those
        in two frames differ by the projections of one vector.

        Parameters
        ----------
        source : ImageSource
            The original images.
        poses : Poses
            Of n particles.
        halves : ndarray of int, shape (n,)
        draws : PoseDraws, optional
            What the map is made of, in the frame of the poses; these alone by default.
        """
        frame = register_orientations(poses.rotations, self.rotations)
        registered = frame.rotations(poses.rotations.double())
        errors = orientation_errors(poses.rotations, self.rotations)
        # Whoever is far off says nothing of the origin.
        near = errors.angles_deg <= 2 * errors.angles_deg.median()
        sides = registered[near, :2].reshape(-1, 3)
        apart = (poses.shifts_px - self.shifts_px)[near].double().reshape(-1, 1)
        frame = frame._replace(origin_px=torch.linalg.lstsq(sides, apart).solution[:, 0])
        moved = frame.draws(poses.as_draws() if draws is None else draws)
        equations = [
            gather_half(
                source,
                np.flatnonzero(halves == half),
                moved.rotations,
                moved.shifts_px,
                shares=moved.shares,
            )
            for half in (1, 2)
        ]
        maps = solve_halves(equations[0], equations[1], source.pixel_size_A)
        true = self.volume.density.to(maps.whole)
        return Compared(
            errors.angles_deg,
            errors.mirrored,
            maps,
            compare_maps(maps.whole, true, source.pixel_size_A, maps.mask),
        )
