"""The polar transformer: joint denoising of a set of particle images (paper, section 5).

Each image becomes a whitened polar image and, through a polar U-Net, polar features. Then come
rounds of angular attention, each followed by a polar U-Net that sees an image's own features beside
what the others, aligned, say. The noisy polar image itself travels as a value too, so where the
attention is sure the network averages the aligned originals.

Beyond the paper: attention in two rounds (the second aligns what the first has cleaned), an image
never attends to itself (its own features are passed on beside the attended ones), and a null key
lets it attend to nobody: the weight left to the others says how much the set helped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..polar import AttentionResult, PolarGrid, PolarTransform, angular_attention
from .layers import REGULARISER, GainHead, PolarUNet, angular_products

__all__ = ["ImageState", "PolarTransformer", "PolarTransformerConfig", "SetOutput"]


@dataclass(frozen=True)
class PolarTransformerConfig:
    """Shape of a `PolarTransformer`.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    grid : str
        Preset of `PolarGrid`.
    widths : tuple of int
        Channels of the polar U-Nets at each level.
    match_channels : int
        Channels of queries and keys.
    rounds : int
        Rounds of attention.
    embedding : int
        Length of the rotation-invariant embedding that finds neighbours.
    """

    box: int = 64
    grid: str = "compact"
    widths: tuple[int, ...] = (16, 32, 64, 96)
    match_channels: int = 8
    rounds: int = 2
    embedding: int = 64


class ImageState(NamedTuple):
    """What the network knows of each image between two rounds.

    Attributes
    ----------
    polar : Tensor, shape (..., 1, n, m)
        The whitened polar image.
    features : Tensor, shape (..., c, n, m)
    """

    polar: Tensor
    features: Tensor


class SetOutput(NamedTuple):
    """Result of denoising sets.

    Attributes
    ----------
    images : Tensor, shape (s, k, y, x)
    attention : tuple of AttentionResult
        One for each round; the weights have the shape (s, k, k, m).
    embedding : Tensor, shape (s, k, e), or None
        Unit vectors that do not change when an image is rotated; the paper's network has none.
    """

    images: Tensor
    attention: tuple[AttentionResult, ...]
    embedding: Tensor | None

    @property
    def confidence(self) -> Tensor:
        """Weight of the other images in the last round, shape (s, k), 0 to 1."""
        return 1 - self.attention[-1].null_weight


class PolarTransformer(nn.Module):
    """Joint denoiser of sets of images; equivariant to rotating each image by an angle of its own.

    Parameters
    ----------
    config : PolarTransformerConfig
    """

    jointly = True

    def __init__(self, config: PolarTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PolarTransformerConfig()
        grid = PolarGrid.preset(config.grid, config.box)
        radii, channels = grid.n_radii, config.widths[0]
        self.transform = PolarTransform(grid, regulariser=REGULARISER)
        self.encoder = PolarUNet(1, config.widths, radii)
        levels = len(config.widths) - 1
        self.embed = ViewEmbedding(
            config.widths[-1] * (radii >> levels), grid.n_angles >> levels, config.embedding
        )
        self.rounds = nn.ModuleList(
            AttentionRound(channels, config.match_channels, config.widths, grid) for _ in range(config.rounds)
        )
        self.head = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.skip = nn.Parameter(torch.zeros(2, radii, 1))
        self.gain = GainHead(6 * radii)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def encode(self, images: Tensor) -> tuple[ImageState, Tensor]:
        """First look at images (b, y, x), each alone: states and unit embeddings (b, e)."""
        polar = (self.transform(images) / self.transform.noise_std[:, None])[:, None]
        features, coarse = self.encoder(polar)
        return ImageState(polar, features.float()), self.embed(coarse)

    def attend(
        self, index: int, query: ImageState, keys: ImageState, mask: Tensor | None
    ) -> tuple[ImageState, Tensor, AttentionResult]:
        """One round of attention.

        Parameters
        ----------
        index : int
            Which round.
        query : ImageState, leading shape (s, q)
        keys : ImageState, leading shape (s, k)
        mask : Tensor of bool, shape broadcastable to (s, q, k), optional
            Which keys a query may attend to.

        Returns
        -------
        state : ImageState, leading shape (s, q)
        aligned : Tensor, shape (s, q, 1, n, m)
            Weighted mean of the others' polar images.
        attention : AttentionResult
        """
        round_ = self.rounds[index]
        assert isinstance(round_, AttentionRound)
        features, aligned, attention = round_(query, keys, mask)
        return ImageState(query.polar, features), aligned, attention

    def decode(self, state: ImageState, aligned: Tensor) -> Tensor:
        """Images (..., y, x) of final states and the aligned mean of the last round."""
        leading = state.features.shape[:-3]
        own, others = (part.flatten(0, -4)[:, 0] for part in (state.polar, aligned))
        polar = self.head(state.features.flatten(0, -4)).float()[:, 0]
        polar = polar + self.skip[0] * own + self.skip[1] * others
        polar = polar * self.gain(angular_products(polar, own, others))
        images = self.transform.inverse(polar * self.transform.noise_std[:, None])
        unflattened: Tensor = images.unflatten(0, leading)
        return unflattened

    def forward(
        self, images: Tensor, mask: Tensor | None = None, ctf: Tensor | None = None
    ) -> SetOutput:
        """Denoise sets.

        Parameters
        ----------
        images : Tensor, shape (s, k, y, x)
            Normalised as in `polarice.particles.preprocess`.
        mask : Tensor of bool, shape broadcastable to (s, k, k), optional
            True where the first image may use the second.

        Returns
        -------
        SetOutput
        """
        sets, size = images.shape[:2]
        others = ~torch.eye(size, dtype=torch.bool, device=images.device)[None]
        mask = others if mask is None else mask & others
        state, embedding = self.encode(images.flatten(0, 1))
        state = ImageState(*(part.unflatten(0, (sets, size)) for part in state))
        aligned = torch.zeros_like(state.polar)
        attention = []
        for index in range(self.config.rounds):
            state, aligned, result = self.attend(index, state, state, mask)
            attention.append(result)
        return SetOutput(self.decode(state, aligned), tuple(attention), embedding.unflatten(0, (sets, size)))


class ViewEmbedding(nn.Module):
    """Unit vectors that tell views apart and do not change when an image is rotated.

    A rotation multiplies an angular frequency by one phase, the same for all channels and radii, so
    the product of one channel with the conjugate of another is invariant. Unlike magnitudes these
    products keep relative phases, which a mirror image (the view from the other side) turns around.

    Parameters
    ----------
    channels : int
        Channels times radii of the features.
    angles : int
        Their angles.
    size : int
        Length of the vectors.
    """

    def __init__(self, channels: int, angles: int, size: int) -> None:
        super().__init__()
        products = 24
        self.first = nn.Linear(channels, products, bias=False)
        self.second = nn.Linear(channels, products, bias=False)
        self.out = nn.Linear(2 * products * (angles // 2 + 1), size)

    def forward(self, coarse: Tensor) -> Tensor:
        """Embed features (b, c, n, m); returns (b, size)."""
        with torch.autocast(coarse.device.type, enabled=False):
            spectrum = torch.fft.rfft(coarse.float()).flatten(1, 2).transpose(1, 2)
            parts = [
                torch.complex(mix(spectrum.real), mix(spectrum.imag)) for mix in (self.first, self.second)
            ]
            product = torch.view_as_real(parts[0] * parts[1].conj())
            # The square root brings products back to the scale of features.
            product = product / product.square().sum(-1, keepdim=True).add(1e-6).pow(0.25)
            return nn.functional.normalize(self.out(product.flatten(1)), dim=-1)


class AttentionRound(nn.Module):
    """Angular attention, then a polar U-Net on what it brings."""

    def __init__(self, channels: int, match_channels: int, widths: tuple[int, ...], grid: PolarGrid) -> None:
        super().__init__()
        self.match = nn.Conv2d(channels, match_channels, 1, bias=False)
        # Whitened polar images lack the area weight of the L² product: start from it.
        weight = torch.tensor(grid.weights).sqrt().float()
        self.radial_gain = nn.Parameter((weight / weight.mean())[:, None].repeat(match_channels, 1, 1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        # Just below the score of unrelated images at the start, so that it is felt and can be learned.
        self.null_logit = nn.Parameter(torch.tensor(17.0))
        self.refine = PolarUNet(2 * (channels + 1) + 1, widths, grid.n_radii)

    def matchers(self, features: Tensor) -> Tensor:
        """Queries or keys of features (s, k, c, n, m): the same unit-norm projection for both."""
        flat = self.match(features.flatten(0, 1)).float() * self.radial_gain
        flat = flat / flat.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
        matchers: Tensor = flat.unflatten(0, features.shape[:2])
        return matchers

    def forward(
        self, query: ImageState, keys: ImageState, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, AttentionResult]:
        """Refined features (s, q, c, n, m), aligned mean (s, q, 1, n, m), and the attention."""
        queries = self.matchers(query.features)
        attention = angular_attention(
            queries,
            queries if keys is query else self.matchers(keys.features),
            torch.cat([keys.polar, keys.features], 2),
            mask=mask,
            null_logit=self.null_logit,
            scale=self.log_scale.exp(),
        )
        mass = (1 - attention.null_weight)[:, :, None, None, None].expand_as(query.polar)
        seen = torch.cat([query.polar, query.features, attention.output, mass], 2)
        refined, _ = self.refine(seen.flatten(0, 1))
        features = refined.float().unflatten(0, query.polar.shape[:2])
        return features, attention.output[:, :, :1], attention
