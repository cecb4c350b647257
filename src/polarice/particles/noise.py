"""How strong the noise is at each frequency, told from the signal by the CTF, or else by where it lies.

Images ``y = c x + n`` have the mean power ``c² S + N``. Where their CTFs differ, a straight line through
power against c² ends at the noise's power N, whatever lies in the boxes: neighbours in a crowded field pass
through the same CTF as the particle. The corners of the boxes would not do, because they count neighbours as
noise. Without CTFs the noise is no more than the images show in all, nor than they show along the edge of the
disc that particles lie in: there is little else there, unless they are crowded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import least_squares
from torch import Tensor

from ..imaging import frequency_grid, radial_power, radius_grid, ring_means

__all__ = ["NoiseMoments", "noise_spectrum", "on_half_spectrum", "whitening_filters"]

# How much of the signal's power may be taken for noise, because its strength goes with the defocus.
_SIGNAL_ASTRAY = 0.3
# How much the noise's power changes between rings, were one twice the other's radius, and how far it is from
# white, in units of white noise.
_STEP, _FROM_WHITE = 2.0, 3.0
_LEAST, _MOST = 0.1, 100.0

# Without CTFs: bends of the logarithm between rings, how far it may be from that of white noise, one
# standard deviation each, and what is measured, relative.
_BEND, _LOG_FROM_WHITE, _ERROR = 0.15, 2.0, 0.1
# The edge: so many pixels of where the disc is whole, and where it is not, all but the last.
_INNER_PX, _FAINTEST, _FEWEST_PAIRS = 1.5, 0.3, 20


class NoiseMoments:
    """Collects what tells the noise of images, batch by batch.

    Parameters
    ----------
    box : int
        Side of the images in pixels.
    source_box : int
        Side that they were resampled from: a smaller one has no power above its own Nyquist frequency.
    """

    def __init__(self, box: int, source_box: int) -> None:
        self._box, self.rings = box, box // 2 + 1
        self._known = min(box, source_box) // 2
        fy, fx = frequency_grid(box, dtype=torch.float64)
        self._squared = (fy.square() + fx.square()).mul_(box * box).round_().long().flatten()
        # Of 1, c², c⁴, power, power c², power².
        self._sums = torch.zeros(6, len(self._squared), dtype=torch.float64)

    def add(self, standard: Tensor, transfer: Tensor) -> None:
        """Count images in.

        Parameters
        ----------
        standard : Tensor, shape (b, y, x)
            Background 0, noise of standard deviation 1 if it is white.
        transfer : Tensor, shape (b, y, x // 2 + 1)
            Their CTFs.
        """
        power = torch.fft.rfft2(standard).abs().square() / standard.shape[-1] ** 2
        passed = transfer.square()
        terms = torch.ones_like(power), passed, passed.square(), power, power * passed, power.square()
        self._sums += torch.stack([term.double().sum(0).flatten().cpu() for term in terms])

    def spectrum(self, *, planes: bool = False) -> Tensor:
        """Power of the noise on rings of 0, 1, … cycles per box, shape (box // 2 + 1,); white noise has 1.

        Within a radius the signal is the same; the noise is that within a ring. Rings where signal and noise
        are hard to tell apart follow those beside them.

        Parameters
        ----------
        planes : bool
            Leave out the axes of the spectrum, on which planes lie that the images had.
        """
        # By radius first: along a steep signal, power would seem to fall with c² or to rise.
        by_radius = torch.zeros(6, int(self._squared.max()) + 1, dtype=torch.float64)
        sums = self._sums
        if planes:
            sums = sums.clone().unflatten(1, (-1, self._box // 2 + 1))
            sums[:, 0], sums[:, :, 0] = 0, 0
            sums = sums.flatten(1)
        by_radius.index_add_(1, self._squared, sums)
        count, passed, squared, power, mixed, fourth = by_radius
        slope = passed / squared.clamp_min(1e-12)
        ring = torch.arange(by_radius.shape[1]).sqrt().round().long()
        inside = (ring > 0) & (ring < self._known)

        def by_ring(values: Tensor) -> Tensor:
            return torch.zeros(self.rings, dtype=torch.float64).index_add_(0, ring[inside], values[inside])

        total = by_ring(count).clamp_min(1)
        # A millionth of the images' number is what rounding leaves of none.
        told = (by_ring(count - slope * passed) - 1e-6 * total).clamp_min(0)
        noise = by_ring(power - slope * mixed) / told.clamp_min(1e-12)
        variance = by_ring(fourth) / total / told.clamp_min(1e-12)
        variance += (_SIGNAL_ASTRAY * (by_ring(power) / total - noise)).square()
        seen = (told > 0) & (torch.arange(self.rings) < self._known)
        sure = torch.where(seen, 1 / variance.clamp_min(1e-6), 0)
        prior = torch.full_like(sure, _FROM_WHITE**-2)
        # Most probable, if it walks at random from ring to ring along the logarithm of the radius.
        outer = torch.arange(1, self.rings, dtype=torch.float64)
        walk = torch.eye(self.rings, dtype=torch.float64).diff(dim=0) * (outer / _STEP)[:, None]
        found = torch.linalg.solve(torch.diag(sure + prior) + walk.T @ walk, sure * noise + prior)
        spectrum: Tensor = found.clamp(_LEAST, _MOST).float()
        return spectrum


def noise_spectrum(batches: Iterable[Tensor], mask: Tensor) -> Tensor:
    """Power of the noise where no CTF tells it from the signal.

    The lower, ring by ring, of what images show in all and what they show along the edge of their disc. Both
    are too high: particles add to the one, and others beside them to the other.

    Parameters
    ----------
    batches : iterable of Tensor, shape (b, L, L)
        Images without their background, multiplied by the disc.
    mask : Tensor, shape (L, L)
        The disc.

    Returns
    -------
    Tensor, shape (L // 2 + 1,)
        On rings of 0, 1, … cycles per box; white noise of standard deviation 1 has 1. Ring 0, the background,
        has what ring 1 has.
    """
    box, side = mask.shape[-1], 2 * mask.shape[-1]
    distance = radius_grid(box)
    inner = float(distance[mask > 0.999].max()) - _INNER_PX
    edge = ((distance >= inner) & (mask > _FAINTEST)).to(mask)
    bare = edge / mask.clamp_min(_FAINTEST)
    along, whole, count = torch.zeros(side, side // 2 + 1, dtype=torch.float64), torch.zeros(()), 0
    for images in batches:
        along += torch.fft.rfft2(images * bare, s=(side, side)).abs().square().double().sum(0)
        whole = whole + radial_power(images).double().sum(0)
        count += len(images)
    power = torch.minimum(_of_pairs(along, edge), whole / mask.square().mean()) / count
    return torch.from_numpy(_smooth(power.numpy())).float()


def _of_pairs(power: Tensor, edge: Tensor) -> Tensor:
    """Power by rings (L // 2 + 1,) of what is known on some pixels (L, L), from that in a box of 2 L.

    The spectrum of the mean product of pixels at each distance that occurs, which, unlike that of
    masked images, is not blurred by the mask.
    """
    box, shape = len(edge), (2 * len(edge), 2 * len(edge))
    pairs = torch.fft.irfft2(torch.fft.rfft2(edge.double(), s=shape).abs().square(), s=shape)
    products = torch.fft.irfft2(power, s=shape)
    covariance = torch.where(pairs > _FEWEST_PAIRS, products / pairs.clamp_min(1), 0)
    # Gently to nothing at the largest distance that is kept.
    axis = torch.fft.fftfreq(2 * box) * 2 * box
    apart = torch.hypot(axis[:, None], axis[None]) / box
    covariance = covariance * (0.5 + 0.5 * torch.cos(math.pi * apart.clamp(max=1)))
    return ring_means(torch.fft.rfft2(covariance).real[::2, ::2])


def _smooth(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Most probable power on each ring, if its logarithm bends little; ring 0 is that of ring 1."""
    level, count = float(np.median(power[1:])), len(power) - 1
    measured = (power[1:] / level).clip(1e-2)
    # A power law bends where the frequency is low.
    bend = _BEND * (1 + 8 / np.arange(2, count) ** 2)

    def misfit(log_power: NDArray[np.float64]) -> NDArray[np.float64]:
        above = (np.exp(log_power) - measured) / (_ERROR * measured)
        return np.concatenate([above, np.diff(log_power, 2) / bend, log_power / _LOG_FROM_WHITE])

    found = level * np.exp(least_squares(misfit, np.log(measured.clip(0.3, 3.0)), max_nfev=100).x)
    smooth: NDArray[np.float64] = np.concatenate([found[:1], found])
    return smooth


def on_half_spectrum(spectra: Tensor, box: int) -> Tensor:
    """Spread powers of rings over the frequencies of a box.

    Parameters
    ----------
    spectra : Tensor, shape (g, rings)
        On rings of 0, 1, … cycles per box; the last goes on for ever.
    box : int
        Side of the images in pixels.

    Returns
    -------
    Tensor, shape (g, box, box // 2 + 1)
    """
    fy, fx = frequency_grid(box, device=spectra.device)
    radius = (torch.hypot(fy, fx) * box).clamp(max=spectra.shape[-1] - 1)
    inner = radius.floor().long()
    outer = (inner + 1).clamp(max=spectra.shape[-1] - 1)
    return torch.lerp(spectra[:, inner], spectra[:, outer], (radius - inner).expand(len(spectra), -1, -1))


def whitening_filters(spectra: Tensor, box: int) -> Tensor:
    """What makes noise white that has a certain power on each ring, arguments as of `on_half_spectrum`."""
    return on_half_spectrum(spectra, box).rsqrt()
