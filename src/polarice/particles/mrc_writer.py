"""A writer of MRC stacks that streams, and shows the file only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import ArrayLike, NDArray

from ..errors import OutputError
from ..files import writing
from .mrc import HEADER_BYTES

__all__ = ["MrcStackWriter"]


class MrcStackWriter:
    """Streams float32 images into an MRC stack that appears under its name only when whole.

    Used as a context manager; the images go to ``<name>.partial`` beside the final name, which is
    renamed on success and removed when an exception leaves the block.

    Parameters
    ----------
    path : path-like
        Final name; a file that is there is replaced at the end.
    box : int
        Side of the images in pixels.
    pixel_size_A : float
        Å per pixel, for the header.
    """

    def __init__(self, path: str | Path, box: int, pixel_size_A: float) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.box = box
        self.pixel_size_A = pixel_size_A
        self.count = 0
        self._handle: BinaryIO | None = None
        self._min, self._max = np.inf, -np.inf
        self._mean, self._square = 0.0, 0.0

    def __enter__(self) -> Self:
        with writing(self.path):
            self._handle = open(self.partial, "wb")
            self._handle.write(bytes(HEADER_BYTES))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
            return
        try:
            self.finish()
            with writing(self.path):
                self.partial.replace(self.path)
        except BaseException:
            self.discard()
            raise

    def append(self, images: ArrayLike) -> None:
        """Write the next images.

        Parameters
        ----------
        images : array-like, shape (n, box, box) or (box, box)

        Raises
        ------
        OutputError
            If the shape is another one, a value is not finite, or the disk refuses.
        """
        block = np.asarray(images, dtype="<f4")
        block = block[None] if block.ndim == 2 else block
        if block.shape[1:] != (self.box, self.box):
            raise OutputError(
                f"images of shape {block.shape} do not fit a stack with a box of {self.box}", path=self.path
            )
        if block.size == 0:
            return
        low, high = float(block.min()), float(block.max())
        if not np.isfinite([low, high]).all():
            raise OutputError(
                f"an image after number {self.count} has values that are not finite", path=self.path
            )
        if self._handle is None:
            raise OutputError("the stack is not open for writing", path=self.path)
        with writing(self.path):
            self._handle.write(np.ascontiguousarray(block).data)
        self._merge_statistics(block, low, high)
        self.count += len(block)

    def _merge_statistics(self, block: NDArray[np.float32], low: float, high: float) -> None:
        """Add a block to the running mean and sum of squared deviations (Chan et al. 1979)."""
        old, new = self.count * self.box**2, block.size
        mean = float(block.mean(dtype=np.float64))
        square = float(np.square(block.astype(np.float64) - mean).sum())
        step = mean - self._mean
        self._square += square + step * step * old * new / (old + new)
        self._mean += step * new / (old + new)
        self._min, self._max = min(self._min, low), max(self._max, high)

    def finish(self) -> None:
        """Write the header and close the partial file, which keeps its name.

        Raises
        ------
        OutputError
            If no image was appended, or the disk refuses.
        """
        if self._handle is None:
            return
        if self.count == 0:
            self.discard()
            raise OutputError("no image was written", path=self.path)
        with writing(self.path):
            self._handle.seek(0)
            self._handle.write(self._header().tobytes())
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
        self._handle = None

    def discard(self) -> None:
        """Close and remove the partial file."""
        if self._handle is not None:
            # What is still to be written would be refused again; the file is closed all the same.
            with suppress(OSError):
                self._handle.close()
            self._handle = None
        with suppress(OSError):
            self.partial.unlink(missing_ok=True)

    def _header(self) -> np.ndarray[Any, Any]:
        head = np.zeros((), dtype=HEADER_DTYPE.newbyteorder("<"))
        head["nx"] = head["ny"] = head["mx"] = head["my"] = self.box
        head["nz"], head["mz"] = self.count, 1  # ispg 0 and mz 1: a stack of images, no volume
        head["mode"] = 2
        head["cella"] = (self.box * self.pixel_size_A, self.box * self.pixel_size_A, self.pixel_size_A)
        head["cellb"] = (90, 90, 90)
        head["mapc"], head["mapr"], head["maps"] = 1, 2, 3
        head["dmin"], head["dmax"], head["dmean"] = self._min, self._max, self._mean
        head["rms"] = np.sqrt(self._square / (self.count * self.box**2))
        head["nversion"] = 20141
        head["map"] = b"MAP "
        head["machst"] = (0x44, 0x44, 0, 0)
        head["nlabl"] = 1
        labels: Sequence[bytes] = [b"polarice".ljust(80)] + [b""] * 9
        head["label"] = labels
        return head
