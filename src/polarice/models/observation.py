"""What a network is told of an image beside its pixels: what the CTF has let through."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..imaging import frequency_grid

__all__ = ["FrequencyBands", "observed_spectra"]

# Upper edges in cycles per box: a particle's power lives in the first few.
_EDGES = (1.5, 2.5, 3.5, 4.5, 6.0, 8.0, 10.0, 13.0, 16.0, 20.0, 25.0)


def observed_spectra(images: Tensor, ctf: Tensor | None) -> tuple[Tensor, Tensor]:
    """Spectra of images and of images filtered by their own CTFs.

    With white noise the second, summed over aligned images, and the sum of the squared CTFs are all
    that least squares needs to know of many images with a CTF each.

    Parameters
    ----------
    images : Tensor, shape (b, y, x)
        Phases flipped.
    ctf : Tensor, shape (b, y, x // 2 + 1), or None
        Magnitudes; None for no CTF at all.

    Returns
    -------
    spectra : Tensor, shape (b, 2, y, x // 2 + 1), complex
    ctf : Tensor, shape (b, y, x // 2 + 1)
    """
    spectrum = torch.fft.rfft2(images.float())
    ctf = torch.ones_like(spectrum.real) if ctf is None else ctf.to(spectrum.real)
    return torch.stack([spectrum, spectrum * ctf], 1), ctf


class FrequencyBands(nn.Module):
    """Means over rings of frequency.

    Parameters
    ----------
    box : int
        Side of the images in pixels.

    Attributes
    ----------
    count : int
        How many bands there are.
    """

    count = len(_EDGES) + 1

    def __init__(self, box: int) -> None:
        super().__init__()
        fy, fx = frequency_grid(box)
        ring = (torch.hypot(fy, fx) * box).flatten()
        rings = functional.one_hot(torch.bucketize(ring, torch.tensor(_EDGES)), self.count).float()
        # The corners belong to no ring, and a small box has nothing in the last bands.
        rings = rings * (ring <= box / 2)[:, None]
        self.register_buffer("_rings", rings / rings.sum(0).clamp_min(1), persistent=False)

    _rings: Tensor

    def forward(self, power: Tensor) -> Tensor:
        """Means (..., count) of half spectra (..., y, x // 2 + 1)."""
        with torch.autocast(power.device.type, enabled=False):
            return power.flatten(-2) @ self._rings
