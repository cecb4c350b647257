"""MRC stacks on disk: lazy range reads, and a writer that streams.

The format is MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015). Headers are parsed by mrcfile;
pixels are read through memory maps, so that a stack of any size costs only the images asked for.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.mrcinterpreter import MrcInterpreter
from numpy.typing import ArrayLike, NDArray

from polarice.errors import OutputError, ParticleFileError

__all__ = ["MrcHeader", "MrcReader", "MrcStackWriter", "read_header"]

Floats = NDArray[np.float32]

# MRC mode -> one pixel's type, as in MRC2014 (mode 12 is its float16 extension).
PIXEL_TYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
HEADER_BYTES = 1024
_NSYMBT = 92  # where the header says how long the extended header is


@dataclass(frozen=True)
class MrcHeader:
    """What the header of an MRC file says.

    Attributes
    ----------
    path : Path
    shape : tuple of int
        (n, y, x): a single image or a volume is a stack of its sections.
    mode : int
        MRC mode of the pixels.
    dtype : numpy.dtype
        Type of one pixel with the file's byte order.
    offset : int
        Bytes before the first pixel.
    pixel_size_A : float
        Å per pixel along x; 0 where the header does not say.
    """

    path: Path
    shape: tuple[int, int, int]
    mode: int
    dtype: np.dtype[Any]
    offset: int
    pixel_size_A: float

    @property
    def n_bytes(self) -> int:
        """Size of a whole file with this header."""
        return self.offset + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def read_header(path: str | Path) -> MrcHeader:
    """Parse an MRC header and hold it against the size of the file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    MrcHeader

    Raises
    ------
    ParticleFileError
        If the file is missing, is no MRC file, has a mode that is not read here, or is shorter than
        its header says.
    """
    path = Path(path)
    try:
        with open(path, "rb") as handle:
            raw = bytearray(handle.read(HEADER_BYTES))
            size = handle.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise ParticleFileError("the file does not exist", path=path) from None
    except OSError as error:
        raise ParticleFileError(f"cannot be read ({error.strerror})", path=path) from None
    if len(raw) < HEADER_BYTES:
        raise ParticleFileError(f"is no MRC file: it has only {size} bytes", path=path)
    head, extended = _parse(raw)
    shape = (int(head.nz), int(head.ny), int(head.nx))
    mode = int(head.mode)
    if min(shape) < 1 or max(shape[1:]) > 100_000 or extended < 0:
        raise ParticleFileError(f"is no MRC file: its header says a size of {shape} (z, y, x)", path=path)
    if mode not in PIXEL_TYPES:
        raise ParticleFileError(
            f"has MRC mode {mode}; the modes read are {', '.join(map(str, PIXEL_TYPES))}",
            path=path,
            hint="Convert it to mode 2 (float32)",
        )
    header = MrcHeader(
        path=path,
        shape=shape,
        mode=mode,
        dtype=np.dtype(PIXEL_TYPES[mode]).newbyteorder(head.mode.dtype.byteorder),
        offset=HEADER_BYTES + extended,
        pixel_size_A=float(head.cella.x) / int(head.mx) if int(head.mx) > 0 else 0.0,
    )
    if size < header.n_bytes:
        raise ParticleFileError(
            f"is truncated: its header says {header.n_bytes} bytes ({shape[0]} images of "
            f"{shape[1]} x {shape[2]} in mode {mode}), the file has {size}",
            path=path,
            hint="Copy or write the file again",
        )
    return header


def _parse(raw: bytearray) -> tuple[Any, int]:
    """Parse the header record, and the length of the extended header, which is not read."""
    with warnings.catch_warnings():
        # Many programs leave out the map identifier or the machine stamp; the checks that follow decide.
        warnings.simplefilter("ignore", RuntimeWarning)
        parsed = MrcInterpreter(BytesIO(_without_extended(raw)), permissive=True, header_only=True)
    head = parsed.header
    extended = int(np.frombuffer(raw, f"{head.mode.dtype.byteorder}i4", 1, _NSYMBT)[0])
    return head, extended


def _without_extended(raw: bytearray) -> bytes:
    """Header that promises no extended header, which mrcfile would read whatever its length."""
    return bytes(raw[:_NSYMBT]) + bytes(4) + bytes(raw[_NSYMBT + 4 :])


class MrcReader:
    """Reads images out of any number of MRC files with a bounded number of them open.

    Parameters
    ----------
    max_open : int
        How many files stay mapped; the one used longest ago is closed first.
    """

    def __init__(self, max_open: int = 32) -> None:
        self.max_open = max_open
        self._headers: dict[Path, MrcHeader] = {}
        self._maps: OrderedDict[Path, np.ndarray[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # A map would be pickled as the whole stack.
        return {"max_open": self.max_open, "_headers": self._headers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _maps=OrderedDict(), _lock=threading.Lock())

    def header(self, path: Path) -> MrcHeader:
        """Header of a file, parsed once.

        Raises
        ------
        ParticleFileError
            As `read_header`.
        """
        known = self._headers.get(path)
        if known is None:
            known = self._headers[path] = read_header(path)
        return known

    def read(self, path: Path, indices: ArrayLike) -> Floats:
        """Images of one file, in the order asked for.

        Parameters
        ----------
        path : Path
        indices : array-like of int, shape (n,)
            Counted from 0. Runs of consecutive images are read together.

        Returns
        -------
        ndarray, shape (n, y, x), float32

        Raises
        ------
        ParticleFileError
            As `read_header`, and for an index that the file does not have.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        header = self.header(path)
        count = header.shape[0]
        outside = wanted[(wanted < 0) | (wanted >= count)]
        if len(outside):
            raise ParticleFileError(f"has {count} images, none with index {outside[0] + 1}", path=path)
        out = np.empty((len(wanted), *header.shape[1:]), dtype=np.float32)
        order = np.argsort(wanted, kind="stable")
        breaks = np.flatnonzero(np.diff(wanted[order]) != 1) + 1
        stack = self._map(header)
        for run in np.split(order, breaks):
            if len(run):
                first = wanted[run[0]]
                out[run] = stack[first : first + len(run)]
        return out

    def _map(self, header: MrcHeader) -> np.ndarray[Any, Any]:
        with self._lock:
            known = self._maps.get(header.path)
            if known is not None:
                self._maps.move_to_end(header.path)
                return known
            try:
                if header.path.stat().st_size < header.n_bytes:
                    raise ParticleFileError("has become shorter since it was opened", path=header.path)
                mapped = np.memmap(header.path, header.dtype, "r", header.offset, header.shape)
            except OSError as error:
                raise ParticleFileError(f"cannot be read ({error})", path=header.path) from None
            self._maps[header.path] = mapped
            while len(self._maps) > self.max_open:
                self._maps.popitem(last=False)
            return mapped


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
        try:
            self._handle = open(self.partial, "wb")
            self._handle.write(bytes(HEADER_BYTES))
        except OSError as error:
            raise OutputError(f"cannot be written ({error})", path=self.partial) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        else:
            self.finish()
            self.partial.replace(self.path)

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
        try:
            self._handle.write(np.ascontiguousarray(block).data)
        except OSError as error:
            raise OutputError(f"cannot be written ({error})", path=self.partial) from None
        self._merge_statistics(block, low, high)
        self.count += len(block)

    def _merge_statistics(self, block: Floats, low: float, high: float) -> None:
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
        try:
            self._handle.seek(0)
            self._handle.write(self._header().tobytes())
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
        except OSError as error:
            raise OutputError(f"cannot be written ({error})", path=self.partial) from None
        self._handle = None

    def discard(self) -> None:
        """Close and remove the partial file."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
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
