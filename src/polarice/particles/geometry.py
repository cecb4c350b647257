"""Images of several boxes and pixel sizes, brought to one of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..imaging import fourier_resample

__all__ = ["SAME_SIZE", "Geometry"]

# Pixel sizes that differ by less, as a ratio, are one pixel size.
SAME_SIZE = 1.001


@dataclass(frozen=True)
class Geometry:
    """Box and pixel size that images are brought to.

    Attributes
    ----------
    box : int
        Side in pixels.
    pixel_size_A : float
        Å per pixel.
    """

    box: int
    pixel_size_A: float

    @classmethod
    def common(cls, boxes: NDArray[np.int64], pixel_sizes_A: NDArray[np.float64]) -> Geometry:
        """What images can be brought to without being padded: the coarsest pixel, the smallest field of view.

        Parameters
        ----------
        boxes : ndarray, shape (g,)
        pixel_sizes_A : ndarray, shape (g,)
        """
        coarsest = float(pixel_sizes_A.max())
        if coarsest <= SAME_SIZE * pixel_sizes_A.min():
            return cls(int(boxes.min()), float(np.median(pixel_sizes_A)))
        narrowest_A = float((boxes * pixel_sizes_A).min())
        return cls(int(narrowest_A * SAME_SIZE / coarsest) // 2 * 2, coarsest)

    def bring(self, images: NDArray[np.float32], pixel_size_A: float) -> NDArray[np.float32]:
        """Crop images, and resample them in Fourier space; grey values and the origin stay.

        Parameters
        ----------
        images : ndarray, shape (n, y, x)
            With at least this field of view.
        pixel_size_A : float
            Theirs; not coarser.

        Returns
        -------
        ndarray, shape (n, box, box)
        """
        box, ratio = images.shape[-1], pixel_size_A / self.pixel_size_A
        if max(ratio, 1 / ratio) > SAME_SIZE:
            # A part of the field whose side is next to whole in either pixel size.
            sides = np.arange(min(box, int(np.ceil(self.box / ratio))), box + 1)
            wanted = np.maximum(np.rint(sides * ratio), self.box)
            best = int(np.abs(wanted / (sides * ratio) - 1).argmin())
            cropped = torch.from_numpy(_centre(images, int(sides[best])))
            images = fourier_resample(cropped, int(wanted[best])).numpy()
        return _centre(images, self.box)


def _centre(images: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """The middle of images, origin upon origin."""
    start = images.shape[-1] // 2 - box // 2
    return images[:, start : start + box, start : start + box]
