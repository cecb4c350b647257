"""One pass over a stack's pixels: background and noise of each image, and the stack's contrast.

The noise level is measured after the Fourier crop to the model's box, because white noise changes its
variance by the crop and real noise is not white. It is the root mean square amplitude between half and
all of the Nyquist frequency: a region of the image outside the particle would do for isolated
particles, but in crowded boxes neighbours raise its standard deviation (9 to 18 % too high for
crowded apoferritin, where the spectral estimate is within 2 %).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import norm
from torch import Tensor

from ..errors import ParticleFileError
from ..imaging import filter_images, fourier_resample, frequency_grid, radius_grid, soft_disc
from .crowding import EDGE_PX, MARGIN_A, PowerProfile
from .noise import NoiseMoments, whitening_filters
from .outliers import find_outliers
from .planes import PlaneMoments, fit_slopes
from .stack import ParticleStack

__all__ = ["Contrast", "ImageStatistics", "StackScan", "contrast_scores", "judge_contrast", "measure", "scan"]

Contrast = Literal["bright", "dark"]

# About one stack of pure noise in 2000 gets beyond this by chance.
SIGNIFICANT_Z = 3.5
# Undoes the CTF where its magnitude is above 0.1, which it reaches near zero frequency.
_WIENER = 0.01
# How many discs images are matched with.
_DISCS = 10
_MOST_PIXELS = 2**23


@dataclass(frozen=True)
class ImageStatistics:
    """Background and noise of ``b`` images in their own grey scale.

    Attributes
    ----------
    background : Tensor, shape (b,)
        Mean grey value outside the inscribed circle.
    noise_sigma : Tensor, shape (b,)
        Standard deviation of the noise in one pixel at the model's box, if the noise is white.
    noise_power : Tensor, shape (g, rings), or None
        Power of each kind of noise on rings of 0, 1, … cycles per box, in units of ``noise_sigma`` squared;
        None where it is taken as white.
    kind : Tensor of int, shape (b,), or None
        Row of `noise_power` for each image.
    slopes : Tensor, shape (b, 2), or None
        How the ice rises along x and y, grey values per pixel of the stack; None where it is even.
    disc_A : Tensor, shape (b,), or None
        Diameter of the soft disc that leaves out the particles beside this one; None where none reach into
        the boxes.
    """

    background: Tensor
    noise_sigma: Tensor
    noise_power: Tensor | None = None
    kind: Tensor | None = None
    slopes: Tensor | None = None
    disc_A: Tensor | None = None

    def __len__(self) -> int:
        return len(self.background)

    def __getitem__(self, index: slice | Tensor) -> ImageStatistics:
        each = (self.kind, self.slopes, self.disc_A)
        return ImageStatistics(
            self.background[index],
            self.noise_sigma[index],
            self.noise_power,
            *(None if part is None else part[index] for part in each),
        )

    def to(self, device: torch.device | str) -> ImageStatistics:
        """Copy on another device."""
        rest = (self.noise_power, self.kind, self.slopes, self.disc_A)
        return ImageStatistics(
            self.background.to(device),
            self.noise_sigma.to(device),
            *(None if part is None else part.to(device) for part in rest),
        )

    def whitening(self, box: int) -> Tensor | None:
        """What makes each image's noise white, (b, box, box // 2 + 1); None where it is taken as that."""
        if self.noise_power is None or self.kind is None:
            return None
        return whitening_filters(self.noise_power, box)[self.kind]


@dataclass(frozen=True)
class StackScan:
    """What a pass over all pixels has found.

    Attributes
    ----------
    model_box : int
        The box that the noise levels are for.
    statistics : ImageStatistics
        Of every particle.
    contrast : {"bright", "dark"} or None
        Whether protein is brighter or darker than the background; None if that is not significant.
    contrast_z : float
        Significance in standard deviations, positive for bright.
    original : Tensor of int, shape (n,)
        First row with the very same pixels; a particle's own row unless it is a copy.
    outlier : Tensor of bool, shape (n,)
        Images unlike the others of their half set.
    plane_share : tuple of float
        For each half set, how much of a plane fitted to an image is taken off as the ice's.
    """

    model_box: int
    statistics: ImageStatistics
    contrast: Contrast | None
    contrast_z: float
    original: Tensor
    outlier: Tensor
    plane_share: tuple[float, ...] = ()

    @property
    def copies(self) -> Tensor:
        """Rows that repeat an earlier one."""
        rows = torch.arange(len(self.original))
        return rows[self.original != rows]


def scan(
    stack: ParticleStack,
    model_box: int,
    *,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> StackScan:
    """Read all images once, check them and measure them.

    Parameters
    ----------
    stack : ParticleStack
    model_box : int
        Box that the images will be resampled to.
    batch_size : int
        Images read at a time; fewer where the box is large.
    progress : callable, optional
        Called after each batch with the number of images done.

    Returns
    -------
    StackScan

    Raises
    ------
    ParticleFileError
        If an image is constant or has values that are not finite or cannot be squared, with the first such
        row.
    """
    batch_size = max(1, min(batch_size, _MOST_PIXELS // stack.box**2))
    flip = stack.has_ctf and not stack.phase_flipped
    count = len(stack)
    halves = torch.from_numpy(np.zeros(count, np.int8) if stack.half_sets is None else stack.half_sets)
    kinds = _kinds_of_noise(stack.optics_groups, halves)
    moments = [NoiseMoments(model_box, stack.box) for _ in range(int(kinds.max()) + 1)]
    tilts = {half: PlaneMoments(model_box, stack.box) for half in halves.unique().tolist()}
    profiles = {half: PowerProfile(model_box, stack.box) for half in tilts}
    # Made at once: small pieces that are kept between large ones that are not would break up the memory.
    statistics = ImageStatistics(torch.empty(count), torch.empty(count))
    scores, prints = torch.empty(count, _DISCS), torch.empty(count, dtype=torch.long)
    extreme, slopes = torch.empty(count), torch.empty(count, 2)
    unusable: list[int] = []
    for start in range(0, count, batch_size):
        rows = slice(start, min(start + batch_size, count))
        images = torch.from_numpy(stack.images(rows))
        low, high = torch.aminmax(images.flatten(1), dim=1)
        bad = ~torch.isfinite(low) | ~torch.isfinite(high) | (low == high)
        prints[rows] = _fingerprints(images)
        cropped = fourier_resample(images, model_box)
        measured = measure(cropped, source_box=stack.box)
        statistics.background[rows], statistics.noise_sigma[rows] = measured.background, measured.noise_sigma
        # Numbers that overflow, or vanish, when they are squared are none that a detector has counted.
        sigma = measured.noise_sigma
        bad |= ~(torch.isfinite(measured.background) & torch.isfinite(sigma) & (sigma > 0))
        if bad.any():
            unusable += (start + torch.nonzero(bad)[:, 0]).tolist()
        standard = (cropped - measured.background[:, None, None]) / sigma[:, None, None]
        extreme[rows] = standard.abs().amax((1, 2))
        slopes[rows] = fit_slopes(images)
        transfer = signs = None
        if stack.has_ctf:
            transfer = stack.ctf(rows).evaluate(model_box, stack.pixel_size_A * stack.box / model_box)
            for kind in kinds[rows].unique().tolist():
                there = kinds[rows] == kind
                moments[kind].add(standard[there], transfer[there])
            signs = torch.where(transfer < 0, -1.0, 1.0) if flip else None
        for half in halves[rows].unique().tolist():
            there = halves[rows] == half
            fitted = slopes[rows][there] / sigma[there, None]
            tilts[half].add(standard[there], fitted)
            profiles[half].add(standard[there], None if signs is None else signs[there], fitted)
        scores[rows] = contrast_scores(standard, transfer if flip else None)
        if progress is not None:
            progress(rows.stop)
    if unusable:
        raise _unusable(stack, unusable)
    contrast, z = judge_contrast(scores)
    shares = {half: tilt.share() for half, tilt in tilts.items()}
    share = torch.empty(count)
    for half, value in shares.items():
        share[halves == half] = value
    if any(shares.values()):
        statistics = replace(statistics, slopes=slopes * share[:, None])
    gaps = {half: profile.gap(shares[half]) for half, profile in profiles.items()}
    side_A = stack.box * stack.pixel_size_A
    if any(gap is not None for gap in gaps.values()):
        disc_A = torch.full((count,), side_A)
        for half, gap in gaps.items():
            if gap is not None:
                radius_A = (gap + EDGE_PX) * side_A / model_box + MARGIN_A
                disc_A[halves == half] = min(side_A, 2 * radius_A)
        statistics = replace(statistics, disc_A=disc_A)
    if stack.has_ctf and not stack.premultiplied:
        uneven = [bool((share[kinds == kind] > 0).any()) for kind in range(len(moments))]
        power = torch.stack(
            [moment.spectrum(planes=plane) for moment, plane in zip(moments, uneven, strict=True)]
        )
        statistics = replace(statistics, noise_power=power, kind=kinds)
    outlier = torch.zeros(count, dtype=torch.bool)
    for half in halves.unique():
        there = halves == half
        outlier[there] = find_outliers(
            statistics.background[there], statistics.noise_sigma[there], extreme[there]
        )
    return StackScan(
        model_box, statistics, contrast, z, _first_of_each(prints), outlier, tuple(shares.values())
    )


def _kinds_of_noise(optics_groups: NDArray[np.int64], halves: Tensor) -> Tensor:
    """Images (n,) of one optics group and half set, from 0: no half may depend on what lies in the other."""
    kinds: Tensor = torch.stack([torch.from_numpy(optics_groups), halves.long()]).unique(
        dim=1, return_inverse=True
    )[1]
    return kinds


def _fingerprints(images: Tensor) -> Tensor:
    """Numbers (b,) that are the same where all pixels are, and else next to never."""
    pixels = images.flatten(1).contiguous().view(torch.int32).long()
    generator = torch.Generator().manual_seed(0)
    # Integers wrap around, so that their sum does not depend on its order.
    factors = torch.randint(-(2**62), 2**62, pixels.shape[1:], generator=generator)
    return (pixels * factors).sum(1)


def _first_of_each(prints: Tensor) -> Tensor:
    """The first row (n,) with each row's number."""
    _, which = prints.unique(return_inverse=True)
    rows = torch.arange(len(prints))
    first = torch.full_like(rows, len(rows)).scatter_reduce_(0, which, rows, "amin")
    return first[which]


def _unusable(stack: ParticleStack, rows: list[int]) -> ParticleFileError:
    image = stack.images(rows[:1])
    if not np.isfinite(image).all():
        reason = "the image has values that are not finite"
    elif image.min() == image.max():
        reason = "the image is constant"
    else:
        reason = "the image has values too large or too small to compute with"
    if len(rows) > 1:
        shown = ", ".join(str(row + 1) for row in rows[1:6]) + (", ..." if len(rows) > 6 else "")
        reason += f"; as unusable are {len(rows) - 1} more (rows {shown})"
    return ParticleFileError(
        reason, path=stack.path, row=rows[0] + 1, hint="Remove these particles from the stack"
    )


def measure(images: Tensor, *, source_box: int | None = None) -> ImageStatistics:
    """Background and noise level of images at the model's box.

    Parameters
    ----------
    images : Tensor, shape (b, L, L)
    source_box : int, optional
        Box before resampling; where it is smaller than ``L`` the noise is measured within the
        frequencies that the source has.

    Returns
    -------
    ImageStatistics
    """
    box = images.shape[-1]
    corners = radius_grid(box, device=images.device) >= box / 2
    background = images[:, corners].mean(-1)
    fy, fx = frequency_grid(box, device=images.device)
    frequency = torch.hypot(fy, fx) * box / min(box, source_box or box)
    # Every column of a half spectrum stands for two but the first and, in an even box, the last.
    weight = torch.full_like(frequency, 2.0)
    weight[:, 0] = 1
    if box % 2 == 0:
        weight[:, -1] = 1
    weight = torch.where((frequency >= 0.25) & (frequency < 0.5), weight, 0)
    power = torch.fft.rfft2(images).abs().square() / box**2
    variance = (power * weight).sum((-2, -1)) / weight.sum()
    return ImageStatistics(background, variance.sqrt())


def contrast_scores(standard: Tensor, transfer: Tensor | None) -> Tensor:
    """Match every image with discs of several radii about its centre.

    The CTF surrounds a particle with a fringe of the opposite sign and as much contrast. It is
    therefore undone first, down to the low frequencies that it almost takes away, whatever that does
    to the noise.

    Parameters
    ----------
    standard : Tensor, shape (b, L, L)
        Background 0, noise of standard deviation 1.
    transfer : Tensor, shape (b, L, L // 2 + 1), or None
        CTFs; None where the sign changes have been undone, or the CTF is not known.

    Returns
    -------
    Tensor, shape (b, radii)
        In units of the noise; positive for bright protein.
    """
    box = standard.shape[-1]
    if transfer is not None:
        standard = filter_images(standard, transfer / (transfer.square() + _WIENER))
    radii = np.geomspace(0.06, 0.42, _DISCS) * box
    discs = torch.stack([soft_disc(box, float(radius), 1.0) for radius in radii])
    discs = discs - discs.mean((-2, -1), keepdim=True)
    discs = discs / discs.flatten(1).norm(dim=1)[:, None, None]
    return torch.einsum("byx,ryx->br", standard, discs.to(standard.device))


def judge_contrast(scores: Tensor) -> tuple[Contrast | None, float]:
    """Sign of the protein's contrast from the scores of a stack's images.

    Parameters
    ----------
    scores : Tensor, shape (n, radii)
        From `contrast_scores`.

    Returns
    -------
    contrast : {"bright", "dark"} or None
        None if it could be chance.
    z : float
        Standard deviations of a normal distribution, corrected for the choice of the best radius
        (Bonferroni) and for few images (Student's t).
    """
    n, tries = scores.shape
    if n < 2:
        return None, 0.0
    mean, error = scores.double().mean(0), scores.double().std(0) / n**0.5
    t = mean / error.clamp_min(1e-30)
    best = float(t[t.abs().argmax()])
    p = min(1.0, float(stdtr(n - 1, -abs(best))) * 2 * tries)
    z = float(np.sign(best)) * max(0.0, float(norm.isf(max(p, 1e-300) / 2)))
    if abs(z) < SIGNIFICANT_Z:
        return None, z
    return ("bright" if z > 0 else "dark"), z
