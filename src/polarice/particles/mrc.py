"""MRC stacks on disk: headers and lazy range reads.

The format is MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015). Headers are parsed by mrcfile;
pixels are read through memory maps, so that a stack of any size costs only the images asked for.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.mrcinterpreter import MrcInterpreter
from numpy.typing import ArrayLike, NDArray

from ..errors import ParticleFileError
from ..files import give_back

__all__ = ["MrcHeader", "MrcReader", "read_header"]

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
        If the file is missing, is no MRC file, has a mode that is not read here, is shorter than
        its header says, or longer by an image or more.
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
    surplus = size - header.n_bytes
    if surplus >= shape[1] * shape[2] * header.dtype.itemsize:
        # Pixels of another type, or images that nobody counted: which of them is meant?
        raise ParticleFileError(
            f"is {surplus} bytes longer than its header says ({shape[0]} images of "
            f"{shape[1]} x {shape[2]} in mode {mode})",
            path=path,
            hint="Correct the number of images or the mode, or write the file again",
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
        give_back(stack)
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
