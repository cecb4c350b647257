"""Axes, angles, shifts, defocus, contrast and units: one page, and the converters.

Images
    ``(b, y, x)``, float32; the origin is the pixel ``(L // 2, L // 2)``.
Orientation
    RELION's ZYZ Euler angles (rot, tilt, psi) in degrees. The rotation matrix ``A`` takes the
    specimen's coordinates to the image's: an atom at ``r`` is seen at ``(A r)[:2] = (x, y)``.
Shift
    ``rlnOriginX/YAngst`` (Å) say how the image must be moved to centre the particle: a particle that
    lies at ``+s`` from the centre has the origin ``-s``. Inside polarice a *shift* is where the
    particle lies, in pixels, ``(x, y)``.
Defocus
    Å, positive under focus; ``defocus_angle_deg`` from the x axis towards y.
Contrast
    Protein is bright inside polarice; the CTF is positive at low frequency, as in RELION.
SNR
    ``mean(clean**2) / noise variance`` over the whole box, clean taken after the CTF.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "euler_to_matrix",
    "in_plane_angle_deg",
    "matrix_to_euler",
    "nearest_rotations",
    "random_rotations",
    "view_angle_deg",
]


def euler_to_matrix(angles_deg: Tensor) -> Tensor:
    """Rotation matrices of RELION's Euler angles.

    Parameters
    ----------
    angles_deg : Tensor, shape (..., 3)
        (rot, tilt, psi) in degrees.

    Returns
    -------
    Tensor, shape (..., 3, 3)
        ``A``, which takes specimen coordinates (x, y, z) to image coordinates.
    """
    rot, tilt, psi = torch.deg2rad(angles_deg).unbind(-1)
    ca, sa, cb, sb, cg, sg = rot.cos(), rot.sin(), tilt.cos(), tilt.sin(), psi.cos(), psi.sin()
    rows = [
        torch.stack([cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb], -1),
        torch.stack([-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], -1),
        torch.stack([sb * ca, sb * sa, cb], -1),
    ]
    return torch.stack(rows, -2)


def matrix_to_euler(matrix: Tensor) -> Tensor:
    """RELION's Euler angles of rotation matrices: the inverse of `euler_to_matrix`.

    Parameters
    ----------
    matrix : Tensor, shape (..., 3, 3)

    Returns
    -------
    Tensor, shape (..., 3)
        (rot, tilt, psi) in degrees, tilt in [0, 180]; at a pole, rot is zero.
    """
    sin_tilt = torch.hypot(matrix[..., 2, 0], matrix[..., 2, 1])
    tilt = torch.atan2(sin_tilt, matrix[..., 2, 2])
    at_pole = sin_tilt < 1e-6
    zero = torch.zeros_like(tilt)
    rot = torch.where(at_pole, zero, torch.atan2(matrix[..., 2, 1], matrix[..., 2, 0]))
    psi_pole = torch.atan2(matrix[..., 0, 1], matrix[..., 1, 1])
    psi = torch.where(at_pole, psi_pole, torch.atan2(matrix[..., 1, 2], -matrix[..., 0, 2]))
    return torch.rad2deg(torch.stack([rot, tilt, psi], -1))


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    """Rotation matrices drawn uniformly (Haar measure) by normalised quaternions.

    Parameters
    ----------
    n : int
        How many.
    generator : torch.Generator
        Where the randomness comes from; its device is the result's.

    Returns
    -------
    Tensor, shape (n, 3, 3), float32
    """
    q = torch.randn(n, 4, generator=generator, device=generator.device)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def nearest_rotations(matrices: Tensor) -> Tensor:
    """Rotations that lie nearest to matrices, by the sum of squared differences.

    Parameters
    ----------
    matrices : Tensor, shape (..., 3, 3)

    Returns
    -------
    Tensor, shape (..., 3, 3)
    """
    u, _, vh = torch.linalg.svd(matrices)
    sign = torch.linalg.det(u @ vh)
    nearest: Tensor = torch.cat([u[..., :2], u[..., 2:] * sign[..., None, None]], -1) @ vh
    return nearest


def view_angle_deg(first: Tensor, second: Tensor) -> Tensor:
    """Angle between the viewing directions of two sets of rotation matrices, in degrees.

    Parameters
    ----------
    first, second : Tensor, shape (..., 3, 3)
        Broadcast against each other.

    Returns
    -------
    Tensor, shape (...)
        Between 0 and 180; in-plane rotation does not count.
    """
    cosine = (first[..., 2, :] * second[..., 2, :]).sum(-1)
    return torch.rad2deg(cosine.clamp(-1, 1).arccos())


def in_plane_angle_deg(first: Tensor, second: Tensor) -> Tensor:
    """How far the second image must be turned to lie upon the first, from their rotation matrices.

    Parameters
    ----------
    first, second : Tensor, shape (..., 3, 3)
        Broadcast against each other.

    Returns
    -------
    Tensor, shape (...)
        Degrees in [-180, 180) from x towards y. Between different views, the turn that brings them closest.
    """
    relative = first @ second.transpose(-1, -2)
    sine = relative[..., 1, 0] - relative[..., 0, 1]
    cosine = relative[..., 0, 0] + relative[..., 1, 1]
    return (torch.rad2deg(torch.atan2(sine, cosine)) + 180) % 360 - 180
