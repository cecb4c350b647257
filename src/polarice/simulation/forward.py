"""The images of a simulated stack before noise, and what is true about them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..conventions import matrix_to_euler
from ..imaging import CTF, filter_images, shift_images
from .noise import item_generator
from .projection import Projector
from .settings import SimulationSettings
from .views import uniform_views, view_sets
from .volume import Volume

__all__ = ["SimulatedStack"]

_BATCH = 256
_ASTIGMATISM_A = 500.0
_OPTICS = 103  # what a generator is for


class SimulatedStack:
    """Poses and CTFs drawn once, images made in batches as often as they are asked for.

    Parameters
    ----------
    volume : Volume
        On the grid of the images.
    settings : SimulationSettings
    """

    def __init__(self, volume: Volume, settings: SimulationSettings) -> None:
        self.settings = settings
        self.pixel_size_A = volume.pixel_size_A
        self._projector = Projector(volume)
        n, seed = settings.particles, settings.seed
        self.sets = None
        if settings.views == "sets":
            self.rotations, self.sets = view_sets(n, settings.set_size, settings.set_angle_deg, seed)
        else:
            self.rotations = uniform_views(n, seed)
        draws = torch.stack([torch.rand(5, generator=item_generator(seed, _OPTICS, i)) for i in range(n)])
        distance = settings.max_shift_px * draws[:, 0].sqrt()
        direction = 2 * math.pi * draws[:, 1]
        self.shifts_px = torch.stack([distance * direction.cos(), distance * direction.sin()], -1)
        low, high = settings.defocus_A
        mean, difference = low + (high - low) * draws[:, 2], _ASTIGMATISM_A * draws[:, 3]
        constant = torch.ones(n)
        self.ctf = CTF(
            defocus_u_A=mean + difference / 2,
            defocus_v_A=mean - difference / 2,
            defocus_angle_deg=180 * draws[:, 4],
            voltage_kV=settings.voltage_kV * constant,
            cs_mm=settings.cs_mm * constant,
            amplitude_contrast=settings.amplitude_contrast * constant,
            phase_shift_deg=0 * constant,
            b_factor_A2=0 * constant,
        )

    def batches(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows, CTF-free images and images as seen through the CTF, in the volume's grey scale."""
        for start in range(0, self.settings.particles, _BATCH):
            rows = slice(start, min(start + _BATCH, self.settings.particles))
            clean = self._projector(self.rotations[rows])
            if self.settings.max_shift_px > 0:
                clean = shift_images(clean, self.shifts_px[rows])
            seen = clean
            if self.settings.ctf:
                transfer = self.ctf[rows].evaluate(self.settings.box, self.pixel_size_A)
                seen = filter_images(clean, transfer)
            yield rows, clean, seen

    def poses(self) -> dict[str, Any]:
        """STAR columns of the true poses, half sets and sets."""
        rot, tilt, psi = matrix_to_euler(self.rotations.double()).unbind(-1)
        origin_A = -self.shifts_px * self.pixel_size_A
        group = torch.arange(self.settings.particles) if self.sets is None else self.sets
        columns = {
            "rlnAngleRot": rot,
            "rlnAngleTilt": tilt,
            "rlnAnglePsi": psi,
            "rlnOriginXAngst": origin_A[:, 0],
            "rlnOriginYAngst": origin_A[:, 1],
            "rlnRandomSubset": group % 2 + 1,
        }
        if self.sets is not None:
            columns["rlnClassNumber"] = self.sets + 1
        return columns

    def ctf_columns(self) -> dict[str, Any]:
        """STAR columns of the defocus; none without a CTF."""
        if not self.settings.ctf:
            return {}
        return {
            "rlnDefocusU": self.ctf.defocus_u_A,
            "rlnDefocusV": self.ctf.defocus_v_A,
            "rlnDefocusAngle": self.ctf.defocus_angle_deg,
        }

    def optics_columns(self) -> dict[str, Any]:
        """Optics columns of the microscope; none without a CTF."""
        if not self.settings.ctf:
            return {}
        return {
            "rlnVoltage": self.settings.voltage_kV,
            "rlnSphericalAberration": self.settings.cs_mm,
            "rlnAmplitudeContrast": self.settings.amplitude_contrast,
        }
