"""The paper's own networks (section 6.1), for exact reproduction: slow, and kept as they are printed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..polar import AngularConv, PolarGrid, PolarTransform, angular_attention
from .polar_transformer import SetOutput

__all__ = ["PaperConfig", "PaperPolarCNN", "PaperPolarTransformer"]

_GROUPS = 4


@dataclass(frozen=True)
class PaperConfig:
    """Shape of the paper's networks.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    grid : str
        Preset of `PolarGrid`.
    half_width : int
        W and Q. The paper's "width 5" is read as a full width (half width 2); 5 is the other reading.
    channels, match_channels : int
        Channels of the convolutions, and of the key and query network.
    depth : int
        Layers of the polar CNN.
    before, match, after : int
        Layers of the transformer's preprocessing, key and query, and postprocessing networks.
    """

    box: int = 64
    grid: str = "paper"
    half_width: int = 2
    channels: int = 8
    match_channels: int = 16
    depth: int = 25
    before: int = 5
    match: int = 17
    after: int = 9


class _AngularStack(nn.Sequential):
    """Layers of angular convolution, group normalisation and ReLU."""

    def __init__(self, in_channels: int, channels: int, depth: int, radii: int, half_width: int) -> None:
        layers: list[nn.Module] = []
        for index in range(depth):
            width = in_channels if index == 0 else channels
            layers.append(AngularConv(width, channels, radii, half_width, half_width))
            layers += [nn.GroupNorm(_GROUPS, channels), nn.ReLU()]
        super().__init__(*layers)


class PaperPolarCNN(nn.Module):
    """Twenty-five angular convolutions of eight channels between P and its inverse.

    Parameters
    ----------
    config : PaperConfig
    """

    jointly = False

    def __init__(self, config: PaperConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PaperConfig()
        grid = PolarGrid.preset(config.grid, config.box)
        self.transform = PolarTransform(grid)
        self.stack = _AngularStack(1, config.channels, config.depth, grid.n_radii, config.half_width)
        # The paper does not say how eight channels become one: a last angular convolution.
        self.head = AngularConv(config.channels, 1, grid.n_radii, config.half_width, config.half_width)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise images (b, y, x), each alone."""
        polar = self.head(self.stack(self.transform(images)[:, None]))
        return self.transform.inverse_fourier(polar[:, 0])


class PaperPolarTransformer(nn.Module):
    """The paper's polar transformer: one round of angular attention between angular convolutions.

    Parameters
    ----------
    config : PaperConfig
    """

    jointly = True

    def __init__(self, config: PaperConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PaperConfig()
        grid = PolarGrid.preset(config.grid, config.box)
        radii, width = grid.n_radii, config.half_width
        self.transform = PolarTransform(grid)
        self.before = _AngularStack(1, config.channels, config.before, radii, width)
        self.match = _AngularStack(config.channels, config.match_channels, config.match, radii, width)
        self.after = _AngularStack(config.channels, config.channels, config.after, radii, width)
        self.head = AngularConv(config.channels, 1, radii, width, width)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def forward(self, images: Tensor, mask: Tensor | None = None, ctf: Tensor | None = None) -> SetOutput:
        """Denoise sets (s, k, y, x); ``mask`` (s, k, k) is true where the first may use the second."""
        sets = images.shape[:2]
        features = self.before(self.transform(images).flatten(0, 1)[:, None])
        matchers = self.match(features).unflatten(0, sets)
        attended = angular_attention(matchers, matchers, features.unflatten(0, sets), mask=mask)
        polar = self.head(self.after(attended.output.flatten(0, 1)))
        denoised = self.transform.inverse_fourier(polar[:, 0]).unflatten(0, sets)
        return SetOutput(denoised, (attended,), None, None)
