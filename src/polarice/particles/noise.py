"""How strong the noise is at each frequency, told from the signal by the CTF.

Images ``y = c x + n`` have the mean power ``c² S + N``. Where their CTFs differ, a straight line through
power against c² ends at the noise's power N, whatever lies in the boxes: neighbours in a crowded field pass
through the same CTF as the particle. The corners of the boxes would not do, because they count neighbours as
noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..imaging import frequency_grid

__all__ = ["NoiseMoments", "whitening_filters"]

# How much of the signal's power may be taken for noise, because its strength goes with the defocus.
_SIGNAL_ASTRAY = 0.3
# How much the noise's power changes between rings, were one twice the other's radius, and how far it is from
# white, in units of white noise.
_STEP, _FROM_WHITE = 2.0, 3.0
_LEAST, _MOST = 0.1, 100.0


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


def whitening_filters(spectra: Tensor, box: int) -> Tensor:
    """What makes noise white that has a certain power on each ring.

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
    return torch.lerp(
        spectra[:, inner], spectra[:, outer], (radius - inner).expand(len(spectra), -1, -1)
    ).rsqrt()
