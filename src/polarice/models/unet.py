"""Single-image networks on pixels: the Topaz-type U-Net with group normalisation, and DnCNN."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import Conditions, GainHead
from .observation import FrequencyBands, observed_spectra

__all__ = ["DnCNN", "DnCNNConfig", "UNet", "UNetConfig"]

_GROUPS = 4


class _PixelNetwork(nn.Module, ABC):
    """What both networks share: two input images (as observed, and filtered by the CTF) and the grey scale.

    Parameters
    ----------
    box : int
        Side of the images in pixels.
    """

    jointly = False

    def __init__(self, box: int) -> None:
        super().__init__()
        self.box = box
        self.bands = FrequencyBands(box)
        self.gain = GainHead(4 * self.bands.count)

    @abstractmethod
    def estimate(self, seen: Tensor, energies: Tensor) -> Tensor:
        """Estimates (b, y, x) from images (b, 2, y, x) and what their spectra hold (b, 2 bands)."""

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images, each alone.

        Parameters
        ----------
        images : Tensor, shape (b, y, x)
        ctf : Tensor, shape (b, y, x // 2 + 1), optional
            Magnitude of each image's CTF; none by default.
        """
        spectra, ctf = observed_spectra(images, ctf)
        passed = self.bands(ctf.square())
        power = self.bands(spectra[:, 0].abs().square()) / self.box**2
        seen = torch.fft.irfft2(spectra, s=images.shape[-2:])
        estimate = self.estimate(seen, torch.cat([passed, power], -1)).float()
        spectrum = torch.fft.rfft2(estimate)
        products = (spectrum.abs().square(), (spectrum * spectra[:, 1].conj()).real)
        energies = [self.bands(product) / self.box**2 for product in products]
        denoised: Tensor = estimate * self.gain(torch.cat([passed, power, *energies], -1))
        return denoised


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


class UNet(_PixelNetwork):
    """U-Net with group normalisation: max pooling down, nearest neighbour up, no residual output.

    Parameters
    ----------
    config : UNetConfig

    Raises
    ------
    ValueError
        The box cannot be halved as often as the widths ask for.
    """

    def __init__(self, config: UNetConfig | None = None) -> None:
        config = config or UNetConfig()
        super().__init__(config.box)
        self.config = config
        widths = config.widths
        if config.box % 2 ** (len(widths) - 1):
            poolings = len(widths) - 1
            raise ValueError(
                f"a box of {config.box} cannot be halved {poolings} times for {len(widths)} widths"
            )
        self.conditions = Conditions(2 * self.bands.count)
        size = self.conditions.size
        self.down = nn.ModuleList(
            _Block(2 if i == 0 else widths[i - 1], widths[i], size) for i in range(len(widths))
        )
        self.up = nn.ModuleList(
            _Block(widths[i + 1] + widths[i], widths[i], size) for i in range(len(widths) - 1)
        )
        self.head = nn.Conv2d(widths[0] + 2, 1, 3, padding=1)

    def estimate(self, seen: Tensor, energies: Tensor) -> Tensor:
        """Estimates (b, y, x)."""
        conditions = self.conditions(energies)
        x = seen
        features: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(functional.max_pool2d(x, 2) if level else x, conditions)
            features.append(x)
        for up, skip in zip(reversed(self.up), reversed(features[:-1]), strict=True):
            finer = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = up(torch.cat([finer, skip], 1), conditions)
        out: Tensor = self.head(torch.cat([x, seen.to(x.dtype)], 1))
        return out[:, 0]


class _Block(nn.Module):
    """Two convolutions, each followed by gains and offsets of the conditions, normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, conditions: int) -> None:
        super().__init__()
        channels = (in_channels, out_channels, out_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(channels[i], channels[i + 1], 3, padding=1, bias=False) for i in range(2)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(_GROUPS, out_channels) for _ in range(2))
        self.conditions = nn.ModuleList(nn.Linear(conditions, 2 * out_channels) for _ in range(2))
        for linear in self.conditions:
            nn.init.normal_(linear.weight, std=0.02)  # type: ignore[arg-type]
            nn.init.zeros_(linear.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """Map (b, c, y, x) to (b, d, y, x)."""
        for conv, norm, linear in zip(self.convs, self.norms, self.conditions, strict=True):
            x = conv(x)
            with torch.autocast(x.device.type, enabled=False):
                gain, offset = (
                    part[:, :, None, None].to(x.dtype) for part in linear(conditions).chunk(2, -1)
                )
            x = functional.leaky_relu(norm(torch.addcmul(offset, x, 1 + gain)), 0.1)
        return x


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


class DnCNN(_PixelNetwork):
    """DnCNN (Zhang et al. 2017) without its residual connection, as in the paper.

    Parameters
    ----------
    config : DnCNNConfig
    """

    def __init__(self, config: DnCNNConfig | None = None) -> None:
        config = config or DnCNNConfig()
        super().__init__(config.box)
        self.config = config
        width = config.width
        layers: list[nn.Module] = [nn.Conv2d(2, width, 3, padding=1), nn.ReLU()]
        for _ in range(config.depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        layers.append(nn.Conv2d(width, 1, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def estimate(self, seen: Tensor, energies: Tensor) -> Tensor:
        """Estimates (b, y, x)."""
        out: Tensor = self.layers(seen)
        return out[:, 0]
