"""Intervals over structures, and how many images an error is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["EffectiveImages", "Floats", "Interval", "bootstrap", "effective_images", "resamples"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{figure(self.value)} ({figure(self.low)}–{figure(self.high)})"


@dataclass(frozen=True)
class EffectiveImages:
    """K_eff: the single-image error at K_eff times the SNR is the error in question.

    Attributes
    ----------
    value : float
    beyond : {"", ">", "<"}
        Set where the error lies beyond the single-image curve; the value is then its end.
    low, high : float
        95 % interval, cut at the ends of the curve.
    """

    value: float
    beyond: str
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.beyond} {self.value:.2g}" if self.beyond else f"{self.value:.2g}"


def figure(value: float) -> str:
    """A number with as many digits as an error bar leaves meaningful."""
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:.1f}"


def resamples(structures: int, count: int, seed: int) -> NDArray[np.int64]:
    """Draws with replacement from structures, shape (count, structures)."""
    return np.random.default_rng(seed).integers(0, structures, (count, structures))


def bootstrap(values: Floats, draws: NDArray[np.int64], divisor: Floats | None = None) -> Interval:
    """Mean over structures, or ratio of two such means, with its 95 % percentile interval.

    Parameters
    ----------
    values, divisor : ndarray, shape (structures,)
    draws : ndarray of int, shape (count, structures)
        `resamples`.
    """
    value, spread = values.mean(), values[draws].mean(1)
    if divisor is not None:
        value, spread = value / divisor.mean(), spread / divisor[draws].mean(1)
    low, high = np.percentile(spread, (2.5, 97.5))
    return Interval(float(value), float(low), float(high))


def effective_images(
    errors: Floats, snr: float, curve_snrs: Floats, curve_errors: Floats, draws: NDArray[np.int64]
) -> EffectiveImages:
    """How many images an error is worth, read off the error of single images against their SNR.

    The curve is made monotone (an error stays what a lower SNR has reached) and interpolated linearly
    between logarithms.

    Parameters
    ----------
    errors : ndarray, shape (structures,)
        At the signal-to-noise ratio ``snr``.
    snr : float
    curve_snrs : ndarray, shape (n,)
        Ascending.
    curve_errors : ndarray, shape (n, structures)
        Of single images.
    draws : ndarray of int, shape (count, structures)
        `resamples`; the same structures are drawn for both errors.
    """
    value, beyond = _read_off(errors.mean(), curve_snrs, curve_errors.mean(1))
    means, curves = errors[draws].mean(1), curve_errors[:, draws].mean(2).T
    spread = [_read_off(mean, curve_snrs, curve)[0] for mean, curve in zip(means, curves, strict=True)]
    low, high = np.percentile(spread, (2.5, 97.5))
    return EffectiveImages(value / snr, beyond, float(low) / snr, float(high) / snr)


def _read_off(error: float, snrs: Floats, errors: Floats) -> tuple[float, str]:
    """The SNR at which the curve has an error, and on which side of the curve that lies."""
    falling = np.minimum.accumulate(errors)
    if error > falling[0]:
        return float(snrs[0]), "<"
    if error < falling[-1]:
        return float(snrs[-1]), ">"
    # Where the curve is flat the lowest SNR counts: it takes no more than that.
    first = np.concatenate([[True], falling[1:] < falling[:-1]])
    x, y = np.log(snrs[first])[::-1], np.log(falling[first])[::-1]
    return float(np.exp(np.interp(np.log(error), y, x))), ""
