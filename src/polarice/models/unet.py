"""Single-image networks on pixels: the Topaz-type U-Net with group normalisation, and DnCNN."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import GainHead

__all__ = ["DnCNN", "DnCNNConfig", "UNet", "UNetConfig"]

_GROUPS = 4
# Bands of frequency in cycles per box: a particle's power lives in the first few.
_BAND_EDGES = (0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0, 14.0)


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a `UNet`.

    Attributes
    ----------
    box : int
        Side of the images in pixels, divisible by 2^(levels − 1).
    widths : tuple of int
        Channels at each level, finest first; multiples of four.
    """

    box: int = 64
    widths: tuple[int, ...] = (24, 48, 96, 128)

    @classmethod
    def paper(cls, box: int = 64) -> UNetConfig:
        """Five poolings and 48 channels, as in Topaz-Denoise."""
        return cls(box, (48, 48, 48, 48, 48, 48))


class UNet(nn.Module):
    """U-Net with group normalisation: max pooling down, nearest neighbour up, no residual output.

    Parameters
    ----------
    config : UNetConfig

    Raises
    ------
    ValueError
        The box cannot be halved as often as the widths ask for.
    """

    jointly = False

    def __init__(self, config: UNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or UNetConfig()
        widths = config.widths
        if config.box % 2 ** (len(widths) - 1):
            poolings = len(widths) - 1
            raise ValueError(
                f"a box of {config.box} cannot be halved {poolings} times for {len(widths)} widths"
            )
        self.down = nn.ModuleList(
            nn.Sequential(_block(1 if i == 0 else widths[i - 1], widths[i]), _block(widths[i], widths[i]))
            for i in range(len(widths))
        )
        self.up = nn.ModuleList(
            nn.Sequential(_block(widths[i + 1] + widths[i], widths[i]), _block(widths[i], widths[i]))
            for i in range(len(widths) - 1)
        )
        self.head = nn.Conv2d(widths[0] + 1, 1, 3, padding=1)
        self.gain = GainHead(3 * (len(_BAND_EDGES) + 1))

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images (b, y, x), each alone."""
        x = images[:, None]
        features: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if level else x)
            features.append(x)
        for up, skip in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            x = up(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), skip], 1))
        out: Tensor = self.head(torch.cat([x, images[:, None].to(x.dtype)], 1))
        estimate = out[:, 0].float()
        denoised: Tensor = estimate * self.gain(_band_products(estimate, images.float()))
        return denoised


def _band_products(estimate: Tensor, images: Tensor) -> Tensor:
    """Energies of an estimate and its image, and their product, in bands of frequency; (b, 3 bands)."""
    box = images.shape[-1]
    first, second = torch.fft.rfft2(estimate), torch.fft.rfft2(images)
    fy, fx = torch.fft.fftfreq(box, 1 / box), torch.fft.rfftfreq(box, 1 / box)
    ring = torch.hypot(fy[:, None], fx[None]).flatten()
    bands = torch.bucketize(ring, torch.tensor(_BAND_EDGES))
    weights = functional.one_hot(bands, len(_BAND_EDGES) + 1).to(images)
    # A small box has nothing in the last bands.
    weights = weights / weights.sum(0).clamp_min(1)
    products = [
        (a * b.conj()).real.flatten(1) for a, b in ((first, first), (first, second), (second, second))
    ]
    with torch.autocast(images.device.type, enabled=False):
        return torch.cat([product @ weights for product in products], -1) / box**2


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, out_channels),
        nn.LeakyReLU(0.1),
    )


@dataclass(frozen=True)
class DnCNNConfig:
    """Shape of a `DnCNN`.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    depth, width : int
        Layers and channels; the paper's are 17 and 64.
    """

    box: int = 64
    depth: int = 12
    width: int = 32

    @classmethod
    def paper(cls, box: int = 64) -> DnCNNConfig:
        """Seventeen layers of 64 channels."""
        return cls(box, 17, 64)


class DnCNN(nn.Module):
    """DnCNN (Zhang et al. 2017) without its residual connection, as in the paper.

    Parameters
    ----------
    config : DnCNNConfig
    """

    jointly = False

    def __init__(self, config: DnCNNConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DnCNNConfig()
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, padding=1), nn.ReLU()]
        for _ in range(config.depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Conv2d(width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images (b, y, x), each alone."""
        out: Tensor = self.layers(images[:, None])
        return out[:, 0].float()
