"""The angle at which a function of the angle is highest."""

from __future__ import annotations

from torch import Tensor

__all__ = ["peak_angles_deg"]


def peak_angles_deg(values: Tensor) -> Tensor:
    """Angle of the highest value, refined by a parabola through its neighbours.

    Parameters
    ----------
    values : Tensor, shape (..., m)
        Over m uniform angles, such as attention coefficients or likelihoods.

    Returns
    -------
    Tensor, shape (...)
        Degrees in [-180, 180).
    """
    m = values.shape[-1]
    peak = values.argmax(-1, keepdim=True)
    left, top, right = (values.gather(-1, (peak + step) % m)[..., 0] for step in (-1, 0, 1))
    curvature = (2 * top - left - right).clamp_min(1e-12)
    offset = (0.5 * (right - left) / curvature).clamp(-0.5, 0.5)
    degrees = (peak[..., 0] + offset) * (360 / m)
    return (degrees + 180) % 360 - 180
