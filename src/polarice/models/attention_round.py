"""One round of attention between images, and what passes between rounds."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from ..polar import (
    AngularSpectra,
    AttentionResult,
    KeyTrust,
    PolarGrid,
    angular_spectra,
    attend_to_spectra,
)
from .layers import Conditions, PolarUNet, angular_products
from .observation import FrequencyBands

__all__ = ["Attended", "AttentionRound", "ImageState", "Offer", "flatten"]


class ImageState(NamedTuple):
    """What the network knows of each image between two rounds.

    Attributes
    ----------
    observed : Tensor, shape (..., 2, y, x)
        The image and the same filtered by its CTF.
    coarse : Tensor, shape (..., 2, y // 2, x // 2)
        Both at half the resolution.
    polar : Tensor, shape (..., 2, n, m)
        Both about the centre, polar and whitened: the coarse ones before a coarse round.
    features : Tensor, shape (..., c, n, m)
    passed : Tensor, shape (..., b)
        Mean squared CTF in bands of frequency.
    centre : Tensor, shape (..., 2)
        Where the particle lies, (x, y) in pixels from the centre of the box.
    """

    observed: Tensor
    coarse: Tensor
    polar: Tensor
    features: Tensor
    passed: Tensor
    centre: Tensor


class Offer(NamedTuple):
    """What images bring to a round of attention for others to use.

    Attributes
    ----------
    spectra : AngularSpectra, leading shape (s, f, k)
    passed : Tensor, shape (s, k, b)
        Mean squared CTF in bands of frequency.
    """

    spectra: AngularSpectra
    passed: Tensor


class Attended(NamedTuple):
    """What a round of attention brings an image from the others.

    Attributes
    ----------
    polar : Tensor, shape (..., 2, n, m)
        Weighted mean of their polar images, aligned.
    passed : Tensor, shape (..., b)
        Weighted mean of their squared CTFs.
    """

    polar: Tensor
    passed: Tensor


State = TypeVar("State", ImageState, Attended)


def flatten(state: State, dimensions: int) -> State:
    """Join the leading dimensions of every part."""
    return type(state)(*(part.flatten(0, dimensions - 1) for part in state))


class Matchers(NamedTuple):
    """What images are compared by.

    Attributes
    ----------
    query, key : Tensor, shape (s, k, c, n, m)
    trust : KeyTrust
        Of each image as a query.
    """

    query: Tensor
    key: Tensor
    trust: KeyTrust


class AttentionRound(nn.Module):
    """Angular attention, then a polar U-Net on what it brings.

    Scores are the sum of two: the cosine of learned features, alike for queries and keys, and a
    log-likelihood, the product of an estimate of either image with the other as it was observed. The
    first finds out who shows the same view; the second, whose noise no network has touched, by which
    angle.

    Parameters
    ----------
    widths : tuple of int
        Channels of the polar U-Net at each level; queries and states have the first.
    match_channels : int
        Channels of queries and keys.
    grid : PolarGrid
    corrects : bool
        Add what the U-Net finds to an image's features, little at first, instead of replacing them.
    """

    def __init__(
        self, widths: tuple[int, ...], match_channels: int, grid: PolarGrid, corrects: bool = False
    ) -> None:
        super().__init__()
        channels = widths[0]
        self.correction = nn.Parameter(torch.full((channels, 1, 1), 0.1)) if corrects else None
        self.match = nn.Conv2d(channels, match_channels, 1, bias=False)
        # Whitened polar images lack the area weight of the L² product: start from it.
        weight = torch.tensor(grid.weights).sqrt().float()
        self.radial_gain = nn.Parameter((weight / weight.mean())[:, None].repeat(match_channels, 1, 1))
        self.log_scale = nn.Parameter(torch.tensor(math.log(20.0)))
        self.estimate = nn.Conv2d(channels, 1, 1, bias=False)
        nn.init.normal_(self.estimate.weight, std=1e-3)
        self.estimate_gain = nn.Parameter((weight.square() / weight.square().mean())[:, None])
        # Just below the score of unrelated images at the start, so that it is felt and can be learned.
        self.threshold = nn.Parameter(torch.tensor(17.0))
        self.ceiling = nn.Parameter(torch.tensor(3.0))
        self.matching = Conditions(3 * grid.n_radii + FrequencyBands.count)
        self.trust = nn.Linear(self.matching.size, 4)
        nn.init.normal_(self.trust.weight, std=1e-3)
        nn.init.zeros_(self.trust.bias)
        self.conditions = Conditions(10 * grid.n_radii + 2 * FrequencyBands.count + 1)
        self.refine = PolarUNet(2 * (channels + 2) + 1, widths, grid.n_radii, self.conditions.size)

    def matchers(self, state: ImageState) -> Matchers:
        """What images of leading shape (s, k) are compared by."""
        leading = state.centre.shape[:-1]
        state = flatten(state, len(leading))
        features = self.match(state.features).float() * self.radial_gain
        features = features / features.square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()
        told = self.matching(torch.cat([angular_products(*state.polar.unbind(1)), state.passed], -1))
        with torch.autocast(told.device.type, enabled=False):
            gains, offsets = self.trust(told).split([2, 2], -1)
        # Bounded, or an early mistake could close the attention for good.
        estimate_gain, evidence_gain = gains.clamp(-4, 1).exp().unbind(-1)
        threshold, ceiling = (offsets.clamp(-5, 5) + torch.stack([self.threshold, self.ceiling])).unbind(-1)
        estimate = self.estimate(state.features).float() * self.estimate_gain
        estimate = estimate * estimate_gain[:, None, None, None]
        filtered = state.polar[:, 1:]
        query = torch.cat([self.log_scale.exp() * features, estimate, filtered], 1)
        key = torch.cat([features, filtered, estimate], 1)
        trust = KeyTrust(*(part.unflatten(0, leading) for part in (threshold, evidence_gain, ceiling)))
        return Matchers(query.unflatten(0, leading), key.unflatten(0, leading), trust)

    def offer(self, keys: ImageState) -> Offer:
        """What images of leading shape (s, k) bring for others to use."""
        value = torch.cat([keys.polar, keys.features], 2)
        return Offer(angular_spectra(self.matchers(keys).key, value), keys.passed)

    def forward(
        self, query: ImageState, keys: Offer, mask: Tensor | None
    ) -> tuple[Tensor, Attended, AttentionResult]:
        """Refined features (s, q, c, n, m), what the keys say, and the attention."""
        asking = self.matchers(query)
        null = torch.zeros_like(self.threshold)
        attention = attend_to_spectra(
            asking.query, keys.spectra, mask=mask, null_logit=null, trust=asking.trust
        )
        radii = query.polar.shape[-2]
        attention = attention._replace(output=attention.output.unflatten(2, (-1, radii)))
        attended = Attended(attention.output[:, :, :2], attention.key_weights @ keys.passed)
        mass = 1 - attention.null_weight[..., None]
        polar = torch.cat([query.polar, attended.polar], 2).flatten(0, 1)
        told = torch.cat([query.passed, attended.passed, mass], -1).flatten(0, 1)
        conditions = self.conditions(torch.cat([angular_products(*polar.unbind(1)), told], -1))
        presence = mass[..., None, None].expand_as(query.polar[:, :, :1])
        seen = torch.cat([query.polar, query.features, attention.output, presence], 2)
        refined, _ = self.refine(seen.flatten(0, 1), conditions)
        features = refined.float().unflatten(0, query.polar.shape[:2])
        if self.correction is not None:
            features = query.features + self.correction * features
        return features, attended, attention
