"""Where the molecule is in a map: a mask with a soft edge, made from the map itself."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .shells import frequency_radius

__all__ = ["low_pass", "soft_ball", "soft_mask"]

_RESOLUTION_A, _LEAST_PX = 15.0, 4.0
_EXTEND_PX, _EDGE_PX = 3.0, 6.0
_BINS = 256
# Blobs smaller than this share of the largest are noise.
_LEAST_PART = 0.1


def low_pass(volume: Tensor, resolution_px: float, edge_shells: float = 2.0) -> Tensor:
    """The volume without detail finer than a resolution, with a raised-cosine edge in Fourier space.

    Parameters
    ----------
    volume : Tensor, shape (L, L, L)
    resolution_px : float
        In voxels; two is everything.
    edge_shells : float
        Width of the edge, which the resolution is in the middle of.
    """
    box = len(volume)
    radius = frequency_radius(box, volume.device)
    phase = ((radius - box / resolution_px) / edge_shells + 0.5).clamp(0, 1)
    gain = (0.5 * (1 + torch.cos(math.pi * phase))).to(volume)
    filtered: Tensor = torch.fft.irfftn(torch.fft.rfftn(volume) * gain, s=volume.shape)
    return filtered


def soft_ball(box: int, radius_px: float, edge_px: float, like: Tensor) -> Tensor:
    """Ball about the origin whose raised-cosine edge ends at a radius, shape (box, box, box)."""
    axis = torch.arange(box, device=like.device, dtype=like.dtype) - box // 2
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    phase = ((distance - (radius_px - edge_px)) / edge_px).clamp(0, 1)
    return 0.5 * (1 + torch.cos(math.pi * phase))


def soft_mask(volume: Tensor, pixel_size_A: float, resolution_A: float = _RESOLUTION_A) -> Tensor:
    """Mask of what stands out of a map.

    The map is low-passed, cut where grey values fall into two kinds (Otsu 1979, IEEE Trans. Syst. Man
    Cybern. 9, 62), rid of small blobs, widened by 3 voxels and given a raised-cosine edge of 6.

    Parameters
    ----------
    volume : Tensor, shape (L, L, L)
        Protein bright.
    pixel_size_A : float
    resolution_A : float
        Of the low-pass filter; at least four voxels.

    Returns
    -------
    Tensor, shape (L, L, L)
        From 0 to 1; zero outside the sphere inscribed in the box.
    """
    box = len(volume)
    smooth = low_pass(volume, max(resolution_A / pixel_size_A, _LEAST_PX)).cpu().double().numpy()
    ball = soft_ball(box, box / 2, 2.0, torch.empty(0)).numpy()
    inside = ball > 0
    core = (smooth > _otsu(smooth[inside])) & inside
    label, count = ndimage.label(core)
    sizes = np.bincount(label.ravel(), minlength=count + 1)[1:]
    large = 1 + np.flatnonzero(sizes >= _LEAST_PART * sizes.max(initial=1))
    distance = ndimage.distance_transform_edt(~np.isin(label, large))
    phase = np.clip((distance - _EXTEND_PX) / _EDGE_PX, 0, 1)
    return torch.from_numpy(0.5 * (1 + np.cos(np.pi * phase)) * ball).to(volume)


def _otsu(values: NDArray[np.float64]) -> float:
    """Threshold that parts values into two classes with the least variance within them."""
    counts, edges = np.histogram(values, _BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2
    return float(edges[1 + int(between.argmax())])
