"""Polar CNN: the single-image network on the polar grid (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..polar import PolarGrid, PolarTransform
from .centring import Centring, Recentring, moved
from .layers import REGULARISER, Conditions, GainHead, PolarUNet, angular_products
from .observation import FrequencyBands, observed_spectra

__all__ = ["PolarCNN", "PolarCNNConfig"]


@dataclass(frozen=True)
class PolarCNNConfig:
    """Shape of a `PolarCNN`.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    grid : str
        Preset of `PolarGrid`.
    widths : tuple of int
        Channels of each polar U-Net at each level.
    depth : int
        How many polar U-Nets follow each other.
    """

    box: int = 64
    grid: str = "compact"
    widths: tuple[int, ...] = (16, 32, 64, 96)
    depth: int = 2


class PolarCNN(nn.Module):
    """Single-image denoiser, equivariant to rotation: polar U-Nets between P and its inverse.

    Parameters
    ----------
    config : PolarCNNConfig
    """

    jointly = False

    def __init__(self, config: PolarCNNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PolarCNNConfig()
        grid = PolarGrid.preset(config.grid, config.box)
        radii, channels = grid.n_radii, config.widths[0]
        self.transform = PolarTransform(grid, regulariser=REGULARISER)
        self.bands = FrequencyBands(config.box)
        self.centring = Centring(config.box)
        self.conditions = Conditions(3 * radii + self.bands.count)
        self.stages = nn.ModuleList(
            PolarUNet(2 if i == 0 else channels + 2, config.widths, radii, self.conditions.size)
            for i in range(config.depth)
        )
        self.recentrings = nn.ModuleList(Recentring(channels, grid) for _ in range(config.depth - 1))
        self.head = nn.Conv2d(channels, 1, 1)
        self.skip = nn.Parameter(torch.zeros(2, radii, 1))
        self.gain = GainHead(6 * radii + self.bands.count)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images, each alone.

        Parameters
        ----------
        images : Tensor, shape (b, y, x)
        ctf : Tensor, shape (b, y, x // 2 + 1), optional
            Magnitude of each image's CTF; none by default.
        """
        return self.locate(images, ctf)[0]

    def locate(self, images: Tensor, ctf: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Denoised images (b, y, x) as in `forward`, and where the particles lie, (x, y) in pixels (b, 2)."""
        spectra, ctf = observed_spectra(images, ctf)
        observed = torch.fft.irfft2(spectra, s=images.shape[-2:])
        centre = self.centring(spectra)
        polar = self._polar(observed, centre)
        passed = self.bands(ctf.square())
        conditions = self.conditions(torch.cat([angular_products(*polar.unbind(1)), passed], -1))
        features = self.stages[0](polar, conditions)[0]
        for recentring, stage in zip(self.recentrings, self.stages[1:], strict=True):
            centre = centre + recentring(features)
            polar = self._polar(observed, centre)
            features = stage(torch.cat([polar, features], 1), conditions)[0]
        out = self.head(features).float()[:, 0] + (self.skip * polar).sum(1)
        products = angular_products(out, *polar.unbind(1))
        out = out * self.gain(torch.cat([products, passed], -1))
        denoised = self.transform.inverse(out * self.transform.noise_std[:, None])
        return moved(denoised, centre), centre

    def _polar(self, observed: Tensor, centre: Tensor) -> Tensor:
        """Polar images about (b, 2) of images (b, 2, y, x), whitened."""
        polar: Tensor = self.transform(moved(observed, -centre[:, None]))
        return polar / self.transform.noise_std[:, None]
