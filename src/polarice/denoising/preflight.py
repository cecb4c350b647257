"""What can be wrong with a denoising run: found before any pixel is read and anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from torch import nn

from ..errors import ModelError, ParticleFileError, PolariceError
from ..files import require_room
from ..models import PolarTransformer
from ..particles import ParticleStack
from ..stacks import too_few_for, unreadable
from .graph import scratch_bytes
from .result import DenoiseSettings

__all__ = ["misfits", "require_scratch_room"]


def require_scratch_room(
    out: Path, stack: ParticleStack, network: nn.Module, settings: DenoiseSettings, there: int
) -> None:
    """Raise where the disk is too small for a run that takes so many bytes of it already.

    Raises
    ------
    OutputError
    """
    if isinstance(network, PolarTransformer):
        scratch = scratch_bytes(network, len(stack), settings.neighbours, twice=settings.agreement)
    else:
        scratch = 4 * len(stack) * cast(int, network.box) ** 2
    require_room(out, 4 * len(stack) * stack.box**2 + max(0, scratch - there))


def misfits(stack: ParticleStack, settings: DenoiseSettings, *, jointly: bool) -> Iterator[PolariceError]:
    """Why a stack cannot be denoised in this way.

    Parameters
    ----------
    stack : ParticleStack
    settings : DenoiseSettings
    jointly : bool
        Whether the network denoises sets.
    """
    name = (settings.sets_from or "").removeprefix("_")
    given = name or settings.neighbours_from
    if settings.agreement and not jointly:
        yield ModelError(f"{settings.model} denoises single images: there are no neighbours that could agree")
    if given and not jointly:
        what = "sets" if name else "neighbours"
        yield ModelError(f"{settings.model} denoises single images and has no use for {what}")
    elif name and settings.neighbours_from:
        yield PolariceError("neighbours come from a column or from a file, not from both")
    elif name and not stack.has_column(name):
        hint = "see `polarice info`"
        yield ParticleFileError(f"there is no column _{name}", path=stack.path, hint=hint)
    yield from unreadable(stack, settings)
    if jointly and not given:
        yield from too_few_for(stack, settings.neighbours, "use a single-image model")
