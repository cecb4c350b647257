"""Polar CNN: the single-image network on the polar grid (paper, section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..polar import PolarGrid, PolarTransform
from .layers import REGULARISER, GainHead, PolarUNet, angular_products

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
        self.transform = PolarTransform(grid, regulariser=REGULARISER)
        channels = config.widths[0]
        self.stages = nn.ModuleList(
            PolarUNet(1 if i == 0 else channels + 1, config.widths, grid.n_radii) for i in range(config.depth)
        )
        self.head = nn.Conv2d(channels, 1, 1)
        self.skip = nn.Parameter(torch.zeros(grid.n_radii, 1))
        self.gain = GainHead(3 * grid.n_radii)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images (b, y, x), each alone."""
        noise = self.transform.noise_std[:, None]
        polar = (self.transform(images) / noise)[:, None]
        features = polar
        for index, stage in enumerate(self.stages):
            features, _ = stage(features if index == 0 else torch.cat([polar, features], 1))
        out = (self.head(features).float() + self.skip * polar)[:, 0]
        out = out * self.gain(angular_products(out, polar[:, 0]))
        return self.transform.inverse(out * noise)
