"""Which device to compute on, and who else computes; asked for, never guessed in silence."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch

from .errors import DeviceError

__all__ = [
    "Workers",
    "keep_freed_memory",
    "mixed_precision",
    "release_freed_memory",
    "resolve_device",
    "workers",
]


def resolve_device(name: str = "auto") -> torch.device:
    """Device of a name.

    Parameters
    ----------
    name : {"auto", "cpu", "cuda", "mps"} or "cuda:N"
        ``auto`` takes the first of cuda, mps and cpu that is there. Of several CUDA devices each process of
        ``torchrun`` takes one.

    Raises
    ------
    DeviceError
        The device is unknown or absent: nothing falls back to the CPU unasked.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, there in present.items() if there)
    if name == "cuda" and present["cuda"] and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    kind, _, index = name.partition(":")
    if kind not in present or (index and not index.isdigit()):
        raise DeviceError(f"unknown device {name!r}", hint="choose auto, cpu, cuda or mps")
    missing = not present[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count())
    if missing:
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise DeviceError(f"the device {name} is absent", hint=f"this machine has {there}")
    return torch.device(name)


class Workers(NamedTuple):
    """The processes that share a run.

    Attributes
    ----------
    rank : int
        Number of this one; the first, 0, does what only one can do.
    size : int
        How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            torch.distributed.barrier()


@contextmanager
def workers() -> Iterator[Workers]:
    """The processes that ``torchrun`` has started, or this one alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Workers()
        return
    # They meet rarely, and one of them may have long work to do alone.
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()


def keep_freed_memory() -> None:
    """Tell the C library to keep memory that is freed for the next tensor.

    By default it hands large blocks back to the system and gets them anew, page by page, at every
    operation: a third of the time of a training step on a CPU. Elsewhere than on glibc nothing happens.
    """
    mallopt = _of_the_c_library("mallopt")
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def release_freed_memory() -> None:
    """Give the system what `keep_freed_memory` has kept so far: after a stage that needs more than others."""
    trim = _of_the_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_the_c_library(name: str) -> Callable[..., int] | None:
    """A function that glibc has."""
    if not sys.platform.startswith("linux"):
        return None
    found: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return found


def mixed_precision(device: torch.device, wanted: bool = True) -> torch.autocast:
    """Context of convolutions in bfloat16, where wanted and where the device has instructions for it.

    The networks are trained so; their images differ from those in full precision by a relative squared
    error of a few 1e-5.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type == "cpu" and _has_bfloat16()
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted and able)


def _has_bfloat16() -> bool:
    # Older versions of torch cannot say.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16", False))
