"""The images of a field set, part by part: the particle, what lies beside it, and the ice it lies in.

Everything is made on a canvas of twice the box's side and cut out of it, as from a micrograph: a neighbour's
fringes reach into the box, and what leaves the box does not come back on the other side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import PolariceError
from ..imaging import shift_phases
from .like import RealMetadata
from .molecule import molecule_diameter_px
from .noise import item_generator
from .projection import Projector
from .spectrum import NoiseSpectrum, coloured_noise
from .volume import Volume

__all__ = ["GOOD", "NOTHING", "STRANGER", "FieldSettings", "FieldStack"]

GOOD, NOTHING, STRANGER = 0, 1, 2
_PLAN, _NOISE = 105, 106  # what a generator is for
_CANVAS_PIXELS = 2**22
_PLACES = 6
# How far beyond contact a neighbour may lie, as a fraction of the box.
_SLACK = 0.25


@dataclass(frozen=True)
class FieldSettings:
    """The numbers that `field_set` takes, where they are described.

    Raises
    ------
    PolariceError
        When any makes no sense; the message names all of them.
    """

    particles: int
    box: int
    snr: float
    pixel_size_A: float | None
    junk: float
    crowding: float
    gradient: float
    contrast: str
    seed: int

    def __post_init__(self) -> None:
        pixel_is_wrong = self.pixel_size_A is not None and not self.pixel_size_A > 0
        checks = {
            f"particles must be at least 1, not {self.particles}": self.particles >= 1,
            f"the box must be at least 16 pixels, not {self.box}": self.box >= 16,
            f"the signal-to-noise ratio must be positive, not {self.snr}": self.snr > 0,
            f"the pixel size must be positive, not {self.pixel_size_A} Å": not pixel_is_wrong,
            f"the share of junk must lie between 0 and 0.9, not {self.junk}": 0 <= self.junk <= 0.9,
            f"the crowding must lie between 0 and {_PLACES} neighbours, not {self.crowding}": (
                0 <= self.crowding <= _PLACES
            ),
            f"the gradient must not be negative, but it is {self.gradient}": self.gradient >= 0,
            f"protein is bright or dark, not {self.contrast}": self.contrast in ("bright", "dark"),
            f"the seed must not be negative, but it is {self.seed}": self.seed >= 0,
        }
        wrong = [message for message, is_right in checks.items() if not is_right]
        if wrong:
            raise PolariceError("; ".join(wrong))


class FieldStack:
    """Images made in batches as often as they are asked for; protein is bright.

    Parameters
    ----------
    molecule, stranger : Volume
        What good particles show, and what some of the junk does, on the grid of the images.
    like : RealMetadata
    settings : FieldSettings
    spectrum : NoiseSpectrum, optional
        Of the noise; white without it.
    """

    def __init__(
        self,
        molecule: Volume,
        stranger: Volume,
        like: RealMetadata,
        settings: FieldSettings,
        spectrum: NoiseSpectrum | None = None,
    ) -> None:
        self.settings, self.like = settings, like
        self.box, self.pixel_size_A = molecule.box, molecule.pixel_size_A
        self.diameter_px = molecule_diameter_px(molecule)
        self._canvas = 2 * self.box
        self._molecule, self._stranger = Projector(molecule), Projector(stranger)
        self._shifts_px = like.shifts_A / self.pixel_size_A
        if spectrum is None:
            self._amplitudes = torch.ones(self._canvas, self._canvas // 2 + 1)
        else:
            self._amplitudes = spectrum.amplitudes(self._canvas, self.pixel_size_A)

    def batches(self) -> Iterator[slice]:
        """Rows that are made at once."""
        size = max(1, _CANVAS_PIXELS // self._canvas**2)
        for start in range(0, self.settings.particles, size):
            yield slice(start, min(start + size, self.settings.particles))

    def kinds(self, rows: slice) -> Tensor:
        """What some particles are, shape (b,): `GOOD`, `NOTHING` or `STRANGER`."""
        lot, junk = self._plan(rows)[:, 0], self.settings.junk
        return torch.where(lot < junk, torch.where(lot < junk / 2, NOTHING, STRANGER), GOOD)

    def particle(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Images of the particles themselves, without and with CTF, in the volume's grey scale.

        Returns
        -------
        clean, seen : Tensor, shape (b, L, L)
        """
        kinds, rotations = self.kinds(rows), self.like.rotations[rows]
        images = torch.zeros(len(kinds), self.box, self.box)
        for kind, project in ((GOOD, self._molecule), (STRANGER, self._stranger)):
            if (kinds == kind).any():
                images[kinds == kind] = project(rotations[kinds == kind])
        spectra = self._placed(images, self._shifts_px[rows])
        return self._cut(spectra), self._cut(spectra * self._transfer(rows))

    def beside(self, rows: slice) -> Tensor:
        """Images (b, L, L) of other particles in the box, with CTF, in the volume's grey scale.

        Six places surround every particle, in a hexagon turned at random, each a diameter of the molecule
        away or a little farther. The particles there show views of other rows; no two overlap.
        """
        plan, canvas = self._plan(rows), self._canvas
        taken, slack, who = plan[:, 4:].unflatten(1, (3, _PLACES)).unbind(1)
        angle = math.pi / 3 * torch.arange(_PLACES) + 2 * math.pi * plan[:, 3:4]
        distance = self.diameter_px + _SLACK * self.box * slack
        where = torch.stack([distance * angle.cos(), distance * angle.sin()], -1)
        where = where + self._shifts_px[rows][:, None]
        # Farther out a particle would be wrapped to the other side of the canvas; none there touches the box.
        near = where.abs().amax(-1) + self.diameter_px / 2 < canvas - self.box / 2
        image, place = torch.nonzero((taken < self.settings.crowding / _PLACES) & near, as_tuple=True)
        spectra = torch.zeros(len(plan), canvas, canvas // 2 + 1, dtype=torch.complex64)
        # One place after another, so that no more images are in memory than in a batch.
        for p in range(_PLACES):
            here = image[place == p]
            if len(here):
                other = (who[here, p] * len(self.like)).long()
                views = self._molecule(self.like.rotations[other])
                spectra[here] += self._placed(views, where[here, p])
        return self._cut(spectra * self._transfer(rows))

    def ice(self, rows: slice) -> Tensor:
        """Noise of standard deviation 1 and the ice's gradient, shape (b, L, L)."""
        plan = self._plan(rows)
        generators = [item_generator(self.settings.seed, _NOISE, i) for i in range(rows.start, rows.stop)]
        noise = self._crop(coloured_noise(self._amplitudes, generators))
        axis = (torch.arange(self.box) - (self.box - 1) / 2) / self.box
        rise, towards = self.settings.gradient * plan[:, 1], 2 * math.pi * plan[:, 2]
        along_x, along_y = rise * towards.cos(), rise * towards.sin()
        return noise + along_x[:, None, None] * axis + along_y[:, None, None] * axis[:, None]

    def _plan(self, rows: slice) -> Tensor:
        """Uniform numbers (b, 22) that each image's nature follows from."""
        seed, count = self.settings.seed, 4 + 3 * _PLACES
        draws = [
            torch.rand(count, generator=item_generator(seed, _PLAN, i)) for i in range(rows.start, rows.stop)
        ]
        return torch.stack(draws)

    def _transfer(self, rows: slice) -> Tensor:
        return self.like.ctf(rows).evaluate(self._canvas, self.pixel_size_A)

    def _placed(self, images: Tensor, shifts_px: Tensor) -> Tensor:
        """Spectra on the canvas of images (b, L, L), moved."""
        before = self._canvas // 2 - self.box // 2
        after = self._canvas - self.box - before
        spectra: Tensor = torch.fft.rfft2(functional.pad(images, (before, after, before, after)))
        return spectra * shift_phases(self._canvas, shifts_px)

    def _cut(self, spectra: Tensor) -> Tensor:
        return self._crop(torch.fft.irfft2(spectra, s=(self._canvas, self._canvas)))

    def _crop(self, canvas: Tensor) -> Tensor:
        first = self._canvas // 2 - self.box // 2
        return canvas[:, first : first + self.box, first : first + self.box]
