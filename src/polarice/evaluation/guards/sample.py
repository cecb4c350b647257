"""Some of a stack's particles, and stacks like theirs in which something is changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...imaging import filter_images, soft_disc
from ...neighbours import groups_of
from ...particles import ImageStatistics, ParticleStack, ParticleWriter, Preprocessor, noise_spectrum
from ...particles.crowding import EDGE_PX
from ...simulation import item_generator
from .noise import coloured_noise

__all__ = ["Sample", "evenly"]

_BATCH = 256

Change = Callable[[slice, Tensor], Tensor]


def evenly(groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """About so many rows, spread evenly over the stack and over each of its groups."""
    if count >= len(groups):
        return np.arange(len(groups))
    chosen = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        wanted = max(1, round(count * len(members) / len(groups)))
        chosen.append(members[np.linspace(0, len(members) - 1, wanted).round().astype(int)])
    return np.unique(np.concatenate(chosen))


@dataclass(frozen=True)
class Sample:
    """Some of a stack's particles.

    Attributes
    ----------
    stack : ParticleStack
    rows : ndarray of int, shape (n,)
        Of the stack.
    statistics : ImageStatistics
        Of these rows.
    preprocessor : Preprocessor
        Of the stack.
    """

    stack: ParticleStack
    rows: NDArray[np.int64]
    statistics: ImageStatistics
    preprocessor: Preprocessor

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self) -> list[slice]:
        """Places in the sample, so many at a time."""
        return [slice(s, min(s + _BATCH, len(self))) for s in range(0, len(self), _BATCH)]

    def images(self, places: slice) -> Tensor:
        """Images (b, box, box) without their background, in units of their noise, in the stack's contrast."""
        images = torch.from_numpy(self.stack.images(self.rows[places]))
        found = self.statistics[places]
        return (images - found.background[:, None, None]) / found.noise_sigma[:, None, None]

    def transfer(self, rows: NDArray[np.int64]) -> Tensor | None:
        """CTFs in some rows of the stack, (b, box, box // 2 + 1); None if they are not known."""
        if not self.stack.has_ctf:
            return None
        ctf = self.stack.ctf(rows).evaluate(self.stack.box, self.stack.pixel_size_A)
        return ctf.abs() if self.stack.phase_flipped else ctf

    def flipped(self, places: slice) -> tuple[Tensor, Tensor | None]:
        """Images with protein bright and phases flipped, and the magnitudes of their CTFs if known."""
        images = self.images(places) * self.preprocessor.sign
        transfer = self.transfer(self.rows[places])
        if transfer is None:
            return images, None
        if self.preprocessor.phase_flip:
            images = filter_images(images, torch.where(transfer < 0, -1.0, 1.0))
        return images, transfer.abs()

    def part(self, places: NDArray[np.int64]) -> Sample:
        """Some of the sample."""
        found = self.statistics[torch.from_numpy(places)]
        return Sample(self.stack, self.rows[places], found, self.preprocessor)

    def window(self) -> Tensor:
        """What images are multiplied by before their rings are compared, shape (box, box).

        The edge of the disc that images are masked with is a few pixels wide, and carries what is coarse to
        all rings, where it would count as detail. A raised cosine over the whole disc carries it a few rings.
        """
        radius_px = self.preprocessor.mask_diameter_A / 2 / self.stack.pixel_size_A
        return soft_disc(self.stack.box, radius_px, radius_px)

    def spectrum(self) -> Tensor:
        """Power of the noise in these images, shape (rings,)."""
        box, pixel_A = self.stack.box, self.stack.pixel_size_A
        edge_px = EDGE_PX * box / self.preprocessor.model_box
        disc = soft_disc(box, self.preprocessor.mask_diameter_A / 2 / pixel_A, edge_px)
        return noise_spectrum((self.images(part) * disc for part in self.batches()), disc)

    def spectra(self) -> Tensor:
        """Power of the noise in each image's optics group, shape (n, rings).

        As the stack was scanned, if its CTF is known; else as `noise_spectrum` finds it.
        """
        power, kind, box = self.statistics.noise_power, self.statistics.kind, self.stack.box
        if power is not None and kind is not None:
            # On the rings of the model's box, in units of the noise there.
            rings = torch.arange(box // 2 + 1).clamp(max=power.shape[1] - 1)
            return power[kind][:, rings] * (box / self.preprocessor.model_box) ** 2
        groups = groups_of(len(self), self.stack.optics_groups[self.rows])
        members = [np.flatnonzero(groups == group) for group in range(int(groups.max()) + 1)]
        return torch.stack([self.part(some).spectrum() for some in members])[torch.from_numpy(groups)]

    def noise(self, places: NDArray[np.int64], spectra: Tensor, seed: int) -> Tensor:
        """Noise as that of some particles, in units of it, (b, box, box); each has a seed of its own."""
        noise = torch.empty(len(places), self.stack.box, self.stack.box)
        for index, place in enumerate(places):
            generator = item_generator(seed, int(place))
            noise[index] = coloured_noise(1, self.stack.box, spectra[place], generator)[0]
        return noise

    def write(
        self, folder: Path, change: Change | None = None, places: NDArray[np.int64] | None = None
    ) -> Path:
        """Write the sample as a stack of its own, ``particles.star``.

        Parameters
        ----------
        folder : Path
            Made if absent.
        change : callable, optional
            Called with places and their images without background, in units of their noise and in the
            stack's contrast; returns what is written instead, in the same grey scale.
        places : ndarray of int, optional
            Which of the sample are written; all by default.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows if places is None else self.rows[places]
        halves = self.stack.given_half_sets
        with ParticleWriter(
            folder,
            "particles",
            box=self.stack.box,
            pixel_size_A=self.stack.pixel_size_A,
            source=self.stack,
            rows=rows,
            particles={} if halves is None else {"rlnRandomSubset": halves[rows]},
        ) as writer:
            for part in self.batches():
                images = torch.from_numpy(self.stack.images(self.rows[part]))
                if change is not None:
                    found = self.statistics[part]
                    changed = change(part, self.images(part)) * found.noise_sigma[:, None, None]
                    images = changed + found.background[:, None, None]
                if places is not None:
                    images = images[
                        torch.from_numpy(places[(places >= part.start) & (places < part.stop)] - part.start)
                    ]
                if len(images):
                    writer.append(images.numpy())
        return writer.star_path
