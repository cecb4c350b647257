"""Angular convolutions (paper, eq. 5): circular along the angle, local along the radius.

`AngularConv` is eq. 5 as printed: its weights depend on the radius. `ConditionedAngularConv` shares
one small kernel along the radius and lets a gain and an offset depend on it, and
`LowRankAngularConv` mixes a few shared kernels with weights that depend on it; both run as plain
convolutions, many times faster.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["AngularConv", "ConditionedAngularConv", "LowRankAngularConv", "polar_pad"]


def polar_pad(polar: Tensor, radial: int, angular: int, *, centre: bool = True) -> Tensor:
    """Pad polar images (..., N, M) for a convolution.

    Parameters
    ----------
    polar : Tensor, shape (b, c, N, M)
    radial : int
        Rows added at either end: zeros outside; inside, what lies across the centre, i.e. the first
        rows in reverse order turned by half a turn (zeros where ``centre`` is false).
    angular : int
        Columns added at either end, periodically.
    """
    padded: Tensor = _PolarPad.apply(polar, radial, angular, centre)  # type: ignore[no-untyped-call]
    return padded


class _PolarPad(torch.autograd.Function):
    """`polar_pad` with a backward pass that copies once; plain slicing would take most of a training step."""

    @staticmethod
    def forward(ctx: Any, polar: Tensor, radial: int, angular: int, centre: bool) -> Tensor:
        ctx.settings = radial, angular, centre
        radii, angles = polar.shape[-2:]
        padded = polar.new_empty(*polar.shape[:-2], radii + 2 * radial, angles + 2 * angular)
        inner = padded[..., angular : angular + angles]
        inner[..., radial : radial + radii, :] = polar
        inner[..., radial + radii :, :] = 0
        if radial:
            across = polar[..., :radial, :].flip(-2).roll(angles // 2, -1) if centre else 0
            inner[..., :radial, :] = across
        if angular:
            padded[..., :angular] = inner[..., -angular:]
            padded[..., angular + angles :] = inner[..., :angular]
        return padded

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        radial, angular, centre = ctx.settings
        outer = gradients[0]
        angles = outer.shape[-1] - 2 * angular
        inner = outer[..., angular : angular + angles].clone(memory_format=torch.contiguous_format)
        if angular:
            inner[..., -angular:] += outer[..., :angular]
            inner[..., :angular] += outer[..., angular + angles :]
        gradient = inner[..., radial : inner.shape[-2] - radial, :]
        if radial and centre:
            gradient[..., :radial, :] += inner[..., :radial, :].roll(-(angles // 2), -1).flip(-2)
        return gradient, None, None, None


class AngularConv(nn.Module):
    """The angular convolution of eq. 5, with weights h[n, p, q] for each radius n.

    ``y[d, n, m] = bias[d] + Σ_c Σ_{|p| ≤ W} Σ_{|q| ≤ Q} h[n, d, c, p, q] z[c, n + p, m − q]``, with
    z zero outside the radii.

    Parameters
    ----------
    in_channels, out_channels : int
    n_radii : int
        N.
    half_width_radius, half_width_angle : int
        W and Q.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        n_radii: int,
        half_width_radius: int = 2,
        half_width_angle: int = 2,
    ) -> None:
        super().__init__()
        self.half_widths = half_width_radius, half_width_angle
        widths = 2 * half_width_radius + 1, 2 * half_width_angle + 1
        self.weight = nn.Parameter(torch.empty(n_radii, out_channels, in_channels, *widths))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        bound = 1 / math.sqrt(in_channels * widths[0] * widths[1])
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, polar: Tensor) -> Tensor:
        """Convolve polar images (b, c, N, M); returns (b, d, N, M)."""
        batch, channels, radii, angles = polar.shape
        radial, angular = self.half_widths
        padded = polar_pad(polar, radial, angular, centre=False)
        # One group for each radius: its 2 W + 1 neighbouring rows are the group's input channels.
        rows = padded.unfold(2, 2 * radial + 1, 1).permute(0, 2, 1, 4, 3)
        rows = rows.reshape(batch, radii * channels * (2 * radial + 1), angles + 2 * angular)
        # Eq. 5 has z[m − q]: a true convolution, so the kernel is flipped for torch's correlation.
        kernel = self.weight.flip(-1).reshape(-1, channels * (2 * radial + 1), 2 * angular + 1)
        out = functional.conv1d(rows, kernel, groups=radii)
        return out.reshape(batch, radii, -1, angles).transpose(1, 2) + self.bias[:, None, None]


class ConditionedAngularConv(nn.Module):
    """A convolution shared along the radius, with a gain and an offset for each radius and channel.

    Parameters
    ----------
    in_channels, out_channels : int
    n_radii : int
        N of the input.
    kernel : int
        Full width along radius and angle, odd.
    stride : int
        1, or 2 to halve both (then N and M must be even).
    """

    def __init__(
        self, in_channels: int, out_channels: int, n_radii: int, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        self.half_width = kernel // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.gain = nn.Parameter(torch.ones(out_channels, n_radii // stride, 1))
        self.offset = nn.Parameter(torch.zeros(out_channels, n_radii // stride, 1))

    def forward(self, polar: Tensor, gain: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """Convolve polar images (b, c, N, M); returns (b, d, N / stride, M / stride).

        ``gain`` multiplies and ``offset`` adds to each image's channels, both (b, d).
        """
        out = self.conv(polar_pad(polar, self.half_width, self.half_width))
        gains = self.gain if gain is None else self.gain * gain[:, :, None, None]
        offsets = self.offset if offset is None else self.offset + offset[:, :, None, None]
        # In the precision of the convolution: else autocast would do all that follows in full.
        return torch.addcmul(offsets.to(out.dtype), out, gains.to(out.dtype))


class LowRankAngularConv(nn.Module):
    """An angular convolution whose weights are ``h[n, p, q] = Σ_r a_r[n] g_r[p, q]``.

    Parameters
    ----------
    in_channels, out_channels, n_radii : int
    rank : int
        How many shared kernels are mixed.
    kernel : int
        Full width along radius and angle, odd.
    """

    def __init__(
        self, in_channels: int, out_channels: int, n_radii: int, rank: int = 2, kernel: int = 3
    ) -> None:
        super().__init__()
        self.half_width = kernel // 2
        self.conv = nn.Conv2d(in_channels, rank * out_channels, kernel, bias=False)
        self.mix = nn.Parameter(torch.ones(rank, 1, n_radii, 1) / rank)
        self.bias = nn.Parameter(torch.zeros(out_channels, 1, 1))

    def forward(self, polar: Tensor) -> Tensor:
        """Convolve polar images (b, c, N, M); returns (b, d, N, M)."""
        out = self.conv(polar_pad(polar, self.half_width, self.half_width, centre=False))
        parts = out.unflatten(1, (self.mix.shape[0], -1))
        mixed: Tensor = (parts * self.mix).sum(1) + self.bias
        return mixed
