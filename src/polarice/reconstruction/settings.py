"""What a reconstruction is asked for, and what can be wrong with its particles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import ParticleFileError, PolariceError
from ..particles import Contrast, ParticleStack

__all__ = ["ReconstructSettings", "ctf_misfits", "misfits"]

_FEWEST, _SMALLEST_BOX = 16, 16
# Directions that all lie within about six degrees of one axis leave most of Fourier space empty.
_ALIKE = 0.99


@dataclass(frozen=True, kw_only=True)
class ReconstructSettings:
    """How a map is made.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    pixel_size_A : float, optional
        Overrides what the files say.
    contrast : {"bright", "dark"}, optional
        Contrast of the protein; found out by default. In maps it is bright.
    ctf : bool, optional
        Correct for the CTF; by default where its parameters are given.
    mask : path-like, optional
        A map between 0 and 1; made from the map by default.
    symmetry : str
        Point group of the specimen, ``C1`` for none; see `polarice.symmetry.point_group`.
    split_halves : bool
        Put particles that no half set is known of into two, at random.
    allow_denoised : bool
        Take images that polarice has denoised, which carry a learned prior.
    """

    device: str = "auto"
    pixel_size_A: float | None = None
    contrast: Contrast | None = None
    ctf: bool | None = None
    mask: str | Path | None = None
    symmetry: str = "C1"
    split_halves: bool = False
    allow_denoised: bool = False


def misfits(stack: ParticleStack, settings: ReconstructSettings) -> Iterator[PolariceError]:
    """Why no map can be made of a stack in this way.

    Parameters
    ----------
    stack : ParticleStack
    settings : ReconstructSettings
    """
    path = stack.path
    if stack.denoised and not settings.allow_denoised:
        reason = "these particles were denoised, so a map of them would hold a learned prior"
        hint = (
            "give the original stack with these orientations, or say --allow-denoised to look at such a map"
        )
        yield ParticleFileError(reason, path=path, hint=hint)
    yield from _unposed(stack)
    halves = stack.half_sets
    if len(stack) < _FEWEST:
        yield ParticleFileError(
            f"{len(stack)} images are too few for a map: at least {_FEWEST} are needed", path=path
        )
    elif halves is None:
        hint = "say --split-halves to divide the particles at random"
        yield ParticleFileError("there are no half sets (_rlnRandomSubset)", path=path, hint=hint)
    elif np.bincount(halves, minlength=3)[1:].min() < _FEWEST // 2:
        fewest = int(np.bincount(halves, minlength=3)[1:].min())
        yield ParticleFileError(
            f"a half set has {fewest} images, at least {_FEWEST // 2} are needed", path=path
        )
    yield from ctf_misfits(stack, settings.ctf)
    if stack.box < _SMALLEST_BOX:
        yield ParticleFileError(f"a box of {stack.box} pixels is too small for a map", path=path)


def _unposed(stack: ParticleStack) -> Iterator[PolariceError]:
    """Orientations that are missing or all alike."""
    rotations = stack.rotations()
    if rotations is None:
        missing = [
            f"_rlnAngle{name}" for name in ("Rot", "Tilt", "Psi") if not stack.has_column(f"rlnAngle{name}")
        ]
        hint = "give particles after a 3D refinement or classification"
        yield ParticleFileError(
            f"has no orientations: missing {', '.join(missing)}", path=stack.path, hint=hint
        )
    elif bool(torch.isfinite(rotations).all()) and len(stack) > 1:
        directions = rotations[:, 2].double()
        spread = torch.linalg.eigvalsh(directions.T @ directions / len(directions))
        if float(spread[-1]) > _ALIKE:
            reason = "all particles are seen from one side, which does not make a map"
            hint = "give particles after a 3D refinement, not after a 2D classification"
            yield ParticleFileError(reason, path=stack.path, hint=hint)


def ctf_misfits(stack: ParticleStack, ctf: bool | None) -> Iterator[PolariceError]:
    """CTFs that are missing or have been applied already.

    Parameters
    ----------
    stack : ParticleStack
    ctf : bool, optional
        Whether they are to be used; by default where their parameters are given.
    """
    if ctf is False:
        return
    if stack.premultiplied:
        reason = "these images were multiplied by their CTFs, which is not supported"
        yield ParticleFileError(reason, path=stack.path, hint="extract them without that")
    partly = any(stack.has_column(f"rlnDefocus{axis}") for axis in "UV")
    if not stack.has_ctf and (ctf or partly):
        missing = ", ".join(f"_{name}" for name in stack.missing_ctf_columns)
        hint = "add the columns, or ignore the CTF with --no-ctf"
        yield ParticleFileError(f"the CTF lacks {missing}", path=stack.path, hint=hint)
