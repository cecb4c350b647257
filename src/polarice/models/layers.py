"""Blocks that the networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..polar import ConditionedAngularConv

__all__ = ["REGULARISER", "Conditions", "GainHead", "PolarBlock", "PolarUNet", "angular_products"]

_GROUPS = 4

# Of the inverse polar transform: damps what a network leaves where there is next to no signal.
REGULARISER = 1e-2


def angular_products(*polar: Tensor) -> Tensor:
    """Means over the angle of all products of polar images.

    Parameters
    ----------
    *polar : Tensor, shape (b, N, M)
        p of them.

    Returns
    -------
    Tensor, shape (b, N p (p + 1) / 2)
    """
    pairs = [(i, j) for i in range(len(polar)) for j in range(i, len(polar))]
    return torch.cat([(polar[i] * polar[j]).mean(-1) for i, j in pairs], -1)


def _logarithms(energies: Tensor) -> Tensor:
    """Energies of any sign and of many orders of magnitude, made fit for a linear layer."""
    return energies.sign() * torch.log1p(10 * energies.abs())


class GainHead(nn.Module):
    """Grey scale of an estimate, from energies that no normalisation has touched.

    Group normalisation takes the amplitude out of the features, so a network that must serve every
    SNR estimates shapes well and amplitudes badly. This head multiplies its estimate by one number.

    Parameters
    ----------
    energies : int
        How many means of products describe an image.
    """

    def __init__(self, energies: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(energies, 32)
        self.out = nn.Linear(32, 1)
        nn.init.normal_(self.out.weight, std=1e-2)
        nn.init.zeros_(self.out.bias)

    def forward(self, energies: Tensor) -> Tensor:
        """Positive gains (b, 1, 1) of energies (b, e)."""
        with torch.autocast(energies.device.type, enabled=False):
            log_gain: Tensor = self.out(functional.relu(self.hidden(_logarithms(energies))))
        return log_gain.clamp(-4, 4).exp()[..., None]


class Conditions(nn.Module):
    """What a network is told of each image beside its pixels: energies, and what the CTF lets through.

    Parameters
    ----------
    energies : int
        Length of the description.
    size : int
        Length of the vectors that the blocks take.
    """

    def __init__(self, energies: int, size: int = 32) -> None:
        super().__init__()
        self.size = size
        self.hidden = nn.Linear(energies, 48)
        self.out = nn.Linear(48, size)

    def forward(self, energies: Tensor) -> Tensor:
        """Vectors (b, size) of energies (b, e)."""
        with torch.autocast(energies.device.type, enabled=False):
            return functional.relu(self.out(functional.relu(self.hidden(_logarithms(energies)))))


class PolarBlock(nn.Module):
    """Angular convolution under conditions, group normalisation, ReLU.

    Parameters
    ----------
    in_channels, out_channels : int
        The latter a multiple of four.
    n_radii : int
        N of the input.
    conditions : int
        Length of the conditions; each channel's gain and offset follows from them.
    stride : int
        1, or 2 to halve radius and angle.
    """

    def __init__(
        self, in_channels: int, out_channels: int, n_radii: int, conditions: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv = ConditionedAngularConv(in_channels, out_channels, n_radii, stride=stride)
        self.conditions = nn.Linear(conditions, 2 * out_channels)
        nn.init.normal_(self.conditions.weight, std=0.02)
        nn.init.zeros_(self.conditions.bias)
        self.norm = nn.GroupNorm(_GROUPS, out_channels)

    def forward(self, polar: Tensor, conditions: Tensor) -> Tensor:
        """Map (b, c, N, M) and (b, conditions) to (b, d, N / stride, M / stride)."""
        with torch.autocast(polar.device.type, enabled=False):
            gain, offset = self.conditions(conditions).chunk(2, -1)
        return functional.relu(self.norm(self.conv(polar, 1 + gain, offset)))


class PolarUNet(nn.Module):
    """A U-Net on the polar grid.

    Equivariant to rotations by whole steps of the coarsest level, and nearly so to all others.

    Parameters
    ----------
    in_channels : int
    widths : sequence of int
        Channels at each level, finest first; N and M must be divisible by 2^(levels − 1), and M once
        more by two.
    n_radii : int
        N.
    conditions : int
        Length of the conditions of all blocks.

    Raises
    ------
    ValueError
        N cannot be halved as often as the widths ask for.
    """

    def __init__(self, in_channels: int, widths: tuple[int, ...], n_radii: int, conditions: int) -> None:
        super().__init__()
        levels = len(widths)
        if n_radii % 2 ** (levels - 1):
            raise ValueError(f"{n_radii} radii cannot be halved {levels - 1} times for {levels} widths")
        radii = [n_radii >> level for level in range(levels)]
        self.enter = PolarBlock(in_channels, widths[0], radii[0], conditions)
        self.down = nn.ModuleList(
            PolarBlock(widths[i], widths[i + 1], radii[i], conditions, stride=2) for i in range(levels - 1)
        )
        self.settle = nn.ModuleList(
            PolarBlock(widths[i + 1], widths[i + 1], radii[i + 1], conditions) for i in range(levels - 1)
        )
        self.up = nn.ModuleList(
            PolarBlock(widths[i + 1] + widths[i], widths[i], radii[i], conditions) for i in range(levels - 1)
        )

    def forward(self, polar: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Features of polar images (b, c, N, M) under conditions (b, conditions).

        Returns
        -------
        fine : Tensor, shape (b, widths[0], N, M)
        coarse : Tensor, shape (b, widths[-1], N >> (levels − 1), M >> (levels − 1))
            The bottleneck.
        """
        if torch.is_autocast_enabled(polar.device.type):
            # Padding and joining at full precision would cost more than the convolutions.
            polar = polar.to(torch.get_autocast_dtype(polar.device.type))
        features = [self.enter(polar, conditions)]
        for down, settle in zip(self.down, self.settle, strict=True):
            features.append(settle(down(features[-1], conditions), conditions))
        coarse = out = features.pop()
        for up, skip in zip(reversed(self.up), reversed(features), strict=True):
            finer = functional.interpolate(out, scale_factor=2, mode="nearest")
            out = up(torch.cat([finer, skip], 1), conditions)
        return out, coarse
