"""The contrast transfer function of the microscope, as in RELION.

With the wavelength λ, spatial frequency k and defocus z(α) = z̄ + Δ cos 2(α − α₀),
``γ = π λ z(α) k² − (π / 2) Cs λ³ k⁴ + phase shift + asin(amplitude contrast)`` and
``CTF = sin γ · exp(−B k² / 4)``: positive at low frequency, so bright protein stays bright.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from .fourier import filter_images, frequency_grid

__all__ = ["CTF", "electron_wavelength_A", "phase_flip"]


def electron_wavelength_A(voltage_kV: Tensor) -> Tensor:
    """Relativistic electron wavelength in Å, with the constants that RELION uses."""
    volts = voltage_kV * 1e3
    return 12.2643247 / torch.sqrt(volts * (1 + volts * 0.978466e-6))


@dataclass(frozen=True)
class CTF:
    """CTF parameters of ``b`` images; every field is a tensor of shape (b,).

    Attributes
    ----------
    defocus_u_A, defocus_v_A : Tensor
        Defocus along the major and the minor axis, Å, positive under focus.
    defocus_angle_deg : Tensor
        Direction of the U axis from x towards y, degrees.
    voltage_kV : Tensor
        Acceleration voltage, kV.
    cs_mm : Tensor
        Spherical aberration, mm.
    amplitude_contrast : Tensor
        Fraction, 0 to 1.
    phase_shift_deg : Tensor
        Phase plate, degrees.
    b_factor_A2 : Tensor
        Envelope ``exp(-B k² / 4)``, Å².
    """

    defocus_u_A: Tensor
    defocus_v_A: Tensor
    defocus_angle_deg: Tensor
    voltage_kV: Tensor
    cs_mm: Tensor
    amplitude_contrast: Tensor
    phase_shift_deg: Tensor
    b_factor_A2: Tensor

    def __len__(self) -> int:
        return len(self.defocus_u_A)

    def __getitem__(self, index: slice | Tensor) -> CTF:
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> CTF:
        """Copy on another device or with another precision."""
        return replace(self, **{f.name: getattr(self, f.name).to(device, dtype) for f in fields(self)})

    def evaluate(self, box: int, pixel_size_A: float | Tensor) -> Tensor:
        """Values on the half spectrum of `torch.fft.rfft2`.

        Parameters
        ----------
        box : int
            Side of the image in pixels.
        pixel_size_A : float or Tensor, shape (b,)
            Å per pixel.

        Returns
        -------
        Tensor, shape (b, box, box // 2 + 1)
        """
        ref = self.defocus_u_A
        pixel = torch.as_tensor(pixel_size_A, device=ref.device, dtype=ref.dtype).expand(len(self))
        fy, fx = frequency_grid(box, device=ref.device, dtype=ref.dtype)
        k2 = (fx * fx + fy * fy) / pixel[:, None, None] ** 2
        column = {f.name: getattr(self, f.name)[:, None, None] for f in fields(self)}
        mean = (column["defocus_u_A"] + column["defocus_v_A"]) / 2
        half_difference = (column["defocus_u_A"] - column["defocus_v_A"]) / 2
        direction = torch.atan2(fy, fx) - torch.deg2rad(column["defocus_angle_deg"])
        defocus = mean + half_difference * torch.cos(2 * direction)
        wavelength = electron_wavelength_A(column["voltage_kV"])
        gamma = math.pi * wavelength * defocus * k2
        gamma = gamma - (math.pi / 2) * column["cs_mm"] * 1e7 * wavelength**3 * k2**2
        gamma = gamma + torch.deg2rad(column["phase_shift_deg"]) + torch.asin(column["amplitude_contrast"])
        return torch.sin(gamma) * torch.exp(-column["b_factor_A2"] * k2 / 4)


def phase_flip(images: Tensor, ctf: Tensor) -> Tensor:
    """Undo the sign changes of a CTF.

    Parameters
    ----------
    images : Tensor, shape (b, L, L)
    ctf : Tensor, shape (b, L, L // 2 + 1)
        `CTF.evaluate`; where it is exactly zero nothing is changed.
    """
    return filter_images(images, torch.where(ctf < 0, -1.0, 1.0).to(images.dtype))
