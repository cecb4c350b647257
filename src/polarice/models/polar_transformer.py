"""The polar transformer: joint denoising of a set of particle images (paper, section 5).

Each image is centred, becomes a whitened polar image and, through a polar U-Net, polar features. Then
come rounds of angular attention, each followed by a polar U-Net that sees an image's own features
beside what the others, aligned, say. The noisy polar image itself travels as a value too, so where the
attention is sure the network averages the aligned originals.

Beyond the paper: scores hold a likelihood of the raw images beside the features' likeness, and keys are
trusted apart from how sure their angle is (`KeyTrust`); attention in several rounds, each of which aligns
what the one before has cleaned. The first work at half the resolution, where most of the signal is and a
round costs little; the others align and average the details. An image never attends to itself
(its own features are passed on beside the attended ones), and a null key lets it attend to nobody: the
weight left to the others says how much the set helped. The network is told each image's CTF: the image
filtered by it travels beside the image, as a value too, and every block is conditioned on the energies
and on what the CTFs of an image and of its helpers let through, so that a set solves for what no single
defocus shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..imaging import fourier_resample
from ..polar import AttentionResult, PolarGrid, PolarTransform
from .attention_round import Attended, AttentionRound, ImageState, Offer, flatten
from .centring import Centring, Recentring, moved
from .layers import REGULARISER, Conditions, GainHead, PolarBlock, PolarUNet, angular_products
from .observation import FrequencyBands, observed_spectra

__all__ = ["PolarTransformer", "PolarTransformerConfig", "SetOutput"]


@dataclass(frozen=True)
class PolarTransformerConfig:
    """Shape of a `PolarTransformer`.

    Attributes
    ----------
    box : int
        Side of the images in pixels, divisible by four.
    grid : str
        Preset of `PolarGrid`.
    widths : tuple of int
        Channels at each level of the polar U-Nets at full resolution.
    coarse_widths : tuple of int
        Channels of the polar U-Nets at half the resolution.
    match_channels : int
        Channels of queries and keys.
    coarse_rounds, fine_rounds : int
        Rounds of attention at half the resolution, then at the full one; one of each at least.
    embedding : int
        Length of the rotation-invariant embedding that finds neighbours.
    """

    box: int = 64
    grid: str = "compact"
    widths: tuple[int, ...] = (16, 32, 64, 96)
    coarse_widths: tuple[int, ...] = (24, 48, 96)
    match_channels: int = 8
    coarse_rounds: int = 3
    fine_rounds: int = 2
    embedding: int = 64


class SetOutput(NamedTuple):
    """Result of denoising sets.

    Attributes
    ----------
    images : Tensor, shape (s, k, y, x)
    attention : tuple of AttentionResult
        One for each round; the weights have the shape (s, k, k, m).
    embedding : Tensor, shape (s, k, e), or None
        Unit vectors that do not change when an image is rotated; the paper's network has none.
    centre : Tensor, shape (s, k, 2), or None
        Where the particles were found in the end, (x, y) in pixels; the paper's network does not look.
    """

    images: Tensor
    attention: tuple[AttentionResult, ...]
    embedding: Tensor | None
    centre: Tensor | None

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
        if min(config.coarse_rounds, config.fine_rounds) < 1:
            raise ValueError("a polar transformer needs a round of attention at either resolution")
        self.transform = PolarTransform(PolarGrid.preset(config.grid, config.box), regulariser=REGULARISER)
        coarse_grid = PolarGrid.preset(config.grid, config.box // 2)
        self.coarse_transform = PolarTransform(coarse_grid, regulariser=REGULARISER)
        radii, coarse_radii = self.transform.grid.n_radii, coarse_grid.n_radii
        channels, coarse_channels = config.widths[0], config.coarse_widths[0]
        self.bands = FrequencyBands(config.box)
        self.centring = Centring(config.box)
        self.conditions = Conditions(3 * coarse_radii + self.bands.count)
        self.encoder = PolarUNet(2, config.coarse_widths, coarse_radii, self.conditions.size)
        levels = len(config.coarse_widths) - 1
        self.embed = ViewEmbedding(
            config.coarse_widths[-1] * (coarse_radii >> levels),
            coarse_grid.n_angles >> levels,
            config.embedding,
        )
        # After the encoder and after each coarse round.
        self.recentrings = nn.ModuleList(
            Recentring(coarse_channels, coarse_grid) for _ in range(config.coarse_rounds + 1)
        )
        self.sharpen_conditions = Conditions(3 * radii + self.bands.count)
        self.sharpen = nn.ModuleList(
            PolarBlock(before, channels, radii, self.sharpen_conditions.size)
            for before in (2 + coarse_channels, channels)
        )
        self.rounds = nn.ModuleList(
            AttentionRound(config.coarse_widths, config.match_channels, coarse_grid)
            for _ in range(config.coarse_rounds)
        )
        self.rounds.extend(
            AttentionRound(config.widths, config.match_channels, self.transform.grid, corrects=more > 0)
            for more in reversed(range(config.fine_rounds))
        )
        self.head = nn.Conv2d(channels, 1, 1)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        self.skip = nn.Parameter(torch.zeros(4, radii, 1))
        self.gain = GainHead(15 * radii + 2 * self.bands.count)

    @property
    def box(self) -> int:
        """Side of the images, in pixels."""
        return self.config.box

    def feature_shape(self, index: int) -> tuple[int, int, int]:
        """Channels, radii and angles of an image's features before round ``index``."""
        fine = index >= self.config.coarse_rounds
        grid = (self.transform if fine else self.coarse_transform).grid
        return (self.config.widths if fine else self.config.coarse_widths)[0], grid.n_radii, grid.n_angles

    def offer_shapes(self, index: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of an image's key and value spectra in round ``index``."""
        channels, radii, angles = self.feature_shape(index)
        return tuple(  # type: ignore[return-value]
            (angles // 2 + 1, (2 + width) * radii) for width in (self.config.match_channels, channels)
        )

    def encode(self, images: Tensor, ctf: Tensor | None = None) -> tuple[ImageState, Tensor]:
        """First look at images, each alone.

        Parameters
        ----------
        images : Tensor, shape (b, y, x)
        ctf : Tensor, shape (b, y, x // 2 + 1), optional
            Magnitude of each image's CTF; none by default.

        Returns
        -------
        state : ImageState
        embedding : Tensor, shape (b, e)
            Unit vectors.
        """
        spectra, ctf = observed_spectra(images, ctf)
        centre = self.centring(spectra)
        observed = torch.fft.irfft2(spectra, s=images.shape[-2:])
        # Twice as bright: white noise of variance one stays so.
        coarse = 2 * fourier_resample(observed, self.box // 2)
        polar = self._coarse_polar(coarse, centre)
        passed = self.bands(ctf.square())
        conditions = self.conditions(torch.cat([angular_products(*polar.unbind(1)), passed], -1))
        features, bottleneck = self.encoder(polar, conditions)
        state = ImageState(observed, coarse, polar, features.float(), passed, centre)
        return self._recentre(0, state), self.embed(bottleneck)

    def _coarse_polar(self, coarse: Tensor, centre: Tensor) -> Tensor:
        """Polar images about (b, 2) of images (b, 2, y // 2, x // 2), whitened."""
        polar: Tensor = self.coarse_transform(moved(coarse, -centre[:, None] / 2))
        return polar / self.coarse_transform.noise_std[:, None]

    def _recentre(self, index: int, state: ImageState) -> ImageState:
        """Look again where the particles lie, and take the coarse polar images about there."""
        centre = state.centre + self.recentrings[index](state.features)
        return state._replace(polar=self._coarse_polar(state.coarse, centre), centre=centre)

    def _sharpen(self, state: ImageState) -> ImageState:
        """Go on at full resolution."""
        polar: Tensor = self.transform(moved(state.observed, -state.centre[:, None]))
        polar = polar / self.transform.noise_std[:, None]
        told = torch.cat([angular_products(*polar.unbind(1)), state.passed], -1)
        conditions = self.sharpen_conditions(told)
        finer = nn.functional.interpolate(state.features, polar.shape[-2:], mode="nearest")
        features = torch.cat([polar, finer], 1)
        for block in self.sharpen:
            features = block(features, conditions)
        return state._replace(polar=polar, features=features.float())

    def offer(self, index: int, keys: ImageState) -> Offer:
        """What images of leading shape (s, k) bring to round ``index``."""
        round_ = self.rounds[index]
        assert isinstance(round_, AttentionRound)
        return round_.offer(keys)

    def attend(
        self, index: int, query: ImageState, keys: Offer, mask: Tensor | None
    ) -> tuple[ImageState, Attended, AttentionResult]:
        """One round of attention.

        Parameters
        ----------
        index : int
            Which round.
        query : ImageState, leading shape (s, q)
        keys : Offer
            Of k images.
        mask : Tensor of bool, shape broadcastable to (s, q, k), optional
            Which keys a query may attend to.

        Returns
        -------
        state : ImageState, leading shape (s, q)
        attended : Attended, leading shape (s, q)
        attention : AttentionResult
        """
        round_ = self.rounds[index]
        assert isinstance(round_, AttentionRound)
        features, attended, attention = round_(query, keys, mask)
        state = query._replace(features=features)
        if index < self.config.coarse_rounds:
            leading = query.centre.shape[:-1]
            flat = self._recentre(index + 1, flatten(state, len(leading)))
            if index == self.config.coarse_rounds - 1:
                flat = self._sharpen(flat)
            state = ImageState(*(part.unflatten(0, leading) for part in flat))
        return state, attended, attention

    def decode(self, state: ImageState, attended: Attended) -> Tensor:
        """Images (..., y, x) of final states and what the last round brought."""
        leading = state.features.shape[:-3]
        state, attended = flatten(state, len(leading)), flatten(attended, len(leading))
        sources = torch.cat([state.polar, attended.polar], 1)
        polar = self.head(state.features).float()[:, 0] + (self.skip * sources).sum(1)
        products = angular_products(polar, *sources.unbind(1))
        polar = polar * self.gain(torch.cat([products, state.passed, attended.passed], -1))
        images = self.transform.inverse(polar * self.transform.noise_std[:, None])
        unflattened: Tensor = moved(images, state.centre).unflatten(0, leading)
        return unflattened

    def forward(self, images: Tensor, mask: Tensor | None = None, ctf: Tensor | None = None) -> SetOutput:
        """Denoise sets.

        Parameters
        ----------
        images : Tensor, shape (s, k, y, x)
            Normalised as in `polarice.particles.preprocess`.
        mask : Tensor of bool, shape broadcastable to (s, k, k), optional
            True where the first image may use the second.
        ctf : Tensor, shape (s, k, y, x // 2 + 1), optional
            Magnitude of each image's CTF; none by default.

        Returns
        -------
        SetOutput
        """
        sets, size = images.shape[:2]
        others = ~torch.eye(size, dtype=torch.bool, device=images.device)[None]
        mask = others if mask is None else mask & others
        flat, embedding = self.encode(images.flatten(0, 1), None if ctf is None else ctf.flatten(0, 1))
        state = ImageState(*(part.unflatten(0, (sets, size)) for part in flat))
        attention = []
        for index in range(len(self.rounds)):
            state, attended, result = self.attend(index, state, self.offer(index, state), mask)
            attention.append(result)
        return SetOutput(
            self.decode(state, attended),
            tuple(attention),
            embedding.unflatten(0, (sets, size)),
            state.centre,
        )


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
