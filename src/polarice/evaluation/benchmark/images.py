"""The benchmark's images: sets of every kind, of structures that are named by their place in a bank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...imaging import soft_disc
from ...simulation import SetBatch, SetSampler, StructureBank, uniform_views, view_sets
from .settings import BenchmarkSettings, Condition

__all__ = ["ImageSource", "Sets"]

_MASK_EDGE_PX = 4.0
# What orientations are drawn for.
_VIEWS, _NEIGHBOURHOODS, _STRANGERS, _SERIES = 201, 202, 203, 204


@dataclass(frozen=True)
class Sets:
    """Sets of images with what is known of them.

    Attributes
    ----------
    noisy, clean : Tensor, shape (s, k, y, x)
    ctf : Tensor, shape (s, k, y, x // 2 + 1)
        Magnitude of the CTF.
    rotations : Tensor, shape (s, k, 3, 3)
    shifts_px : Tensor, shape (s, k, 2)
    measured : Tensor of bool, shape (s, k)
        Images whose error counts.
    condition : Condition
    """

    noisy: Tensor
    clean: Tensor
    ctf: Tensor
    rotations: Tensor
    shifts_px: Tensor
    measured: Tensor
    condition: Condition

    def divided(self, size: int) -> Sets:
        """The same images in smaller sets of ``size`` consecutive ones."""
        names = ("noisy", "clean", "ctf", "rotations", "shifts_px", "measured")
        parts = {name: getattr(self, name).flatten(0, 1).unflatten(0, (-1, size)) for name in names}
        return replace(self, **parts)

    @property
    def noise_power(self) -> float:
        """Power of the noise, of which a disc leaves only a part."""
        box = self.noisy.shape[-1]
        return float(soft_disc(box, box / 2, _MASK_EDGE_PX).square().mean())


class ImageSource:
    """Makes the images of a benchmark.

    Parameters
    ----------
    bank : StructureBank
    settings : BenchmarkSettings
    box : int
    device : torch.device
        Where the images are wanted.
    """

    def __init__(
        self, bank: StructureBank, settings: BenchmarkSettings, box: int, device: torch.device
    ) -> None:
        self.bank, self.settings, self.box, self.device = bank, settings, box, device

    def views(self, structures: Sequence[int], condition: Condition) -> Sets:
        """For each structure one set of ``views`` views with ``set_size`` rotated copies each, in order."""
        size, views = self.settings.set_size, self.settings.views
        rotations = [view_sets(views * size, size, 0.0, self._seed(_VIEWS, i))[0] for i in structures]
        return self._draw(structures, condition, torch.stack(rotations))

    def neighbourhoods(self, structures: Sequence[int], condition: Condition) -> Sets:
        """For each structure ``views`` sets of images from about one side, with strangers among them."""
        size, cap_deg = self.settings.set_size, self.settings.cap_deg
        images = self.settings.views * size
        stranger = torch.arange(images) % size >= size - self.settings.strangers
        rotations = []
        for index in structures:
            near, _ = view_sets(images, size, cap_deg, self._seed(_NEIGHBOURHOODS, index))
            any_view = uniform_views(images, self._seed(_STRANGERS, index))
            rotations.append(torch.where(stranger[:, None, None], any_view, near))
        drawn = self._draw(structures, condition, torch.stack(rotations))
        measured = ~stranger.expand(len(structures), -1)
        return replace(drawn, measured=measured.to(self.device)).divided(size)

    def series(self, structures: Sequence[int], condition: Condition, views: int, images: int) -> Sets:
        """For each structure one set of which any ``views`` consecutive images show as many views."""
        sets = [view_sets(images, images // views, 0.0, self._seed(_SERIES, i))[0] for i in structures]
        mixed = [one.unflatten(0, (views, -1)).transpose(0, 1).flatten(0, 1) for one in sets]
        return self._draw(structures, condition, torch.stack(mixed))

    def batches(self, structures: Sequence[int], images: int, at_once: int = 128) -> Iterator[Sequence[int]]:
        """Structures in parts of not many images."""
        step = max(1, at_once // images)
        for start in range(0, len(structures), step):
            yield structures[start : start + step]

    def _seed(self, purpose: int, structure: int) -> int:
        state = np.random.SeedSequence([self.settings.seed, purpose, structure]).generate_state(1, np.uint32)
        return int(state[0])

    def _draw(self, structures: Sequence[int], condition: Condition, rotations: Tensor) -> Sets:
        config = condition.sampler(self.box, rotations.shape[1])
        parts = []
        for index, views in zip(structures, rotations, strict=True):
            sampler = SetSampler(self.bank.subset([index]), config, seed=self.settings.seed)
            parts.append(sampler.batch(index, 1, views[None]))
        whole = SetBatch(*(torch.cat(field).to(self.device) for field in zip(*parts, strict=True)))
        return Sets(
            noisy=whole.noisy,
            clean=whole.clean,
            ctf=whole.ctf,
            rotations=whole.rotations,
            shifts_px=whole.shifts_px,
            measured=torch.ones(whole.noisy.shape[:2], dtype=torch.bool, device=self.device),
            condition=condition,
        )
