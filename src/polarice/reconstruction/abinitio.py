"""A particle stack in, the same particles with orientations and a map of them out; nobody gives a reference.

Orientations are found in denoised images; maps are made of the original ones: no denoised pixel goes on.
Each half set is oriented apart and refined against its own half map; of the other it only learns how its
frame and hand lie, seven numbers and a sign. Small stacks are oriented together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import __version__
from ..conventions import matrix_to_euler
from ..denoising import DenoiseSettings, denoise_stack
from ..devices import keep_freed_memory, resolve_device
from ..errors import ParticleFileError, PolariceError
from ..files import make_folder, prepare_output, whole
from ..orientations import Orientations
from ..particles import ParticleStack, origin_columns, particle_tables, write_star
from ..stacks import (
    NEIGHBOUR_FILE,
    GivenNeighbours,
    Progress,
    clear_outputs,
    open_stack,
    require_fit,
    timed,
    unreadable,
    write_record,
)
from .denoised_orientations import orient_denoised
from .halves import HalfMaps
from .map_files import MAP_FILES, write_maps
from .observed import ObservedStack
from .refinement import FIRST_RINGS, Refined, RefineSettings, refine_orientations
from .settings import ctf_misfits

__all__ = ["AbInitioResult", "AbInitioSettings", "abinitio"]

_RELION_31 = 30001
_FEWEST = 16
# Images that each half set must have to be oriented apart: fewer find too little in each other.
_APART = 200
_TOGETHER = (
    "Half sets of fewer than {} particles were oriented together before each was refined against its own "
    "half map: at low resolution the half maps are not independent."
)
_DIVIDED = (
    "There are no half sets: particles were denoised with each other and then divided at random "
    "(_rlnRandomSubset), so the half maps are not independent, and their resolution is too good. "
    "`polarice denoise --split-halves` divides them before."
)
_NO_MAP = "Half maps do not agree down to {:.0f} Å, an eighth of the box: do not take this for a map."


@dataclass(frozen=True, kw_only=True)
class AbInitioSettings:
    """How orientations are found.

    Attributes
    ----------
    denoised : path-like, optional
        The stack as `polarice denoise` has written it; without it the stack is denoised first.
    denoising : DenoiseSettings
        How that is done. Its device is that of all computing.
    representatives : int
        Images of each half set between which common lines are looked for; the others take the orientations
        of their neighbours among them to start with.
    shifts : bool
        Find out where the particles lie; otherwise each is taken to be at the centre of its box.
    rounds : int
        Of refinement against half maps; without any, maps are made with the orientations of common lines.
    seed : int
    """

    denoised: str | Path | None = None
    denoising: DenoiseSettings = field(default_factory=DenoiseSettings)
    representatives: int = 500
    shifts: bool = True
    rounds: int = 3
    seed: int = 0


@dataclass(frozen=True)
class AbInitioResult:
    """Orientations of a stack, and a map.

    Attributes
    ----------
    source, star : Path
        Input and output.
    denoised : Path
        The denoised stack that was looked at.
    settings : AbInitioSettings
    refined : Refined
        Poses of all particles, up to one rotation and one mirror image of all, and maps of them.
    from_lines : ndarray, shape (n, 3, 3)
        The orientations of common lines, before refinement, in the same frame.
    confidence : ndarray, shape (n,)
        Share of the other images with which each meets along rays likelier to be one than strangers.
    observed : ObservedStack
        The original images, of which the maps are made.
    representatives : ndarray of int
        Rows of the images between which common lines were looked for.
    seconds : dict
        Time of each stage.
    notices, warnings : tuple of str
        What to know of the run; why its map may be none.
    files : dict
        Files written, and what they are.
    """

    source: Path
    star: Path
    denoised: Path
    settings: AbInitioSettings
    refined: Refined
    from_lines: NDArray[np.float32]
    confidence: NDArray[np.float32]
    observed: ObservedStack
    representatives: NDArray[np.int64]
    seconds: dict[str, float]
    notices: tuple[str, ...]
    warnings: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def maps(self) -> HalfMaps:
        """Of the original images."""
        return self.refined.maps

    @property
    def resolution_A(self) -> tuple[float, ...]:
        """Of the half maps before each round of refinement, and in the end, at 0.143."""
        return self.refined.resolution_A

    @property
    def rotations(self) -> NDArray[np.float32]:
        """From specimen to image coordinates, shape (n, 3, 3)."""
        return self.refined.poses.rotations.numpy()

    @property
    def centre_px(self) -> NDArray[np.float32]:
        """Where each particle lies, shape (n, 2): (x, y) in pixels from the centre of the box."""
        return self.refined.poses.shifts_px.numpy()

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        told = asdict(self.settings)
        told["denoised"] = str(self.denoised)
        told["denoising"] = {k: str(v) if isinstance(v, Path) else v for k, v in told["denoising"].items()}
        return {"polarice": __version__, "source": str(self.source), "settings": told}

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        return {
            "particles": len(self.rotations),
            "representatives": len(self.representatives),
            "mean_confidence": round(float(self.confidence.mean()), 4),
            "resolution_A": [
                round(resolution, 3) if math.isfinite(resolution) else None
                for resolution in self.resolution_A
            ],
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "notices": list(self.notices),
            "warnings": list(self.warnings),
            "files": self.files,
        }


def abinitio(
    particles: str | Path,
    out: str | Path,
    settings: AbInitioSettings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> AbInitioResult:
    """Find the orientations of a stack's particles and a map of them without a reference, file to file.

    Parameters
    ----------
    particles : path-like
        The original stack: ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``particles.star`` (the original images with orientations, origins and
        ``polariceOrientationConfidence``), ``half1.mrc``, ``half2.mrc``, ``map.mrc``, ``mask.mrc``,
        ``fsc.star``, ``abinitio.json`` and, if nobody gives one, ``denoised/``.
    settings : AbInitioSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    resume : bool
        Go on with a run that was interrupted in this folder: what is denoised is kept.
    progress : callable, optional
        Called with (stage, done, in all).

    Returns
    -------
    AbInitioResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, before any computing; or particles that all show one view.
    """
    settings, out = settings or AbInitioSettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite or resume)
    device = resolve_device(settings.denoising.device)
    if device.type == "cpu":
        keep_freed_memory()
    stack = open_stack(particles, settings.denoising)
    denoised = None if settings.denoised is None else ParticleStack.open(settings.denoised)
    wrong = chain(
        _misfits(stack, settings, denoised),
        unreadable(stack, settings.denoising),
        ctf_misfits(stack, settings.denoising.ctf and None),
    )
    require_fit(stack, wrong)
    make_folder(out)
    star, record = out / "particles.star", out / "abinitio.json"
    clear_outputs(out, (star.name, record.name, *MAP_FILES))
    seconds: dict[str, float] = {}
    notices = [_DIVIDED] if stack.half_sets is None else []
    if denoised is None:
        made = _denoise(stack, out / "denoised", settings, resume, overwrite, report, seconds)
        denoised = ParticleStack.open(made)
    if stack.half_sets is None:
        stack.split_halves()
    halves = stack.half_sets
    assert halves is not None
    apart = len(_oriented_together(stack)) > 1
    if not apart:
        notices.append(_TOGETHER.format(_APART))
    with timed(seconds, "find orientations"):
        try:
            found, members = orient_denoised(
                denoised,
                device,
                halves=halves if apart else None,
                representatives=settings.representatives,
                shifts=settings.shifts,
                seed=settings.seed,
                progress=report,
            )
        except PolariceError as error:
            raise ParticleFileError(error.reason, path=stack.path, hint=error.hint) from None
    observed, refined = _refine(stack, found, halves, apart, settings, device, report, seconds)
    field_A, resolution_A = observed.box * observed.pixel_size_A, refined.resolution_A[-1]
    doubtful = resolution_A > field_A / FIRST_RINGS
    warnings = (_NO_MAP.format(field_A / FIRST_RINGS),) if doubtful else ()
    result = AbInitioResult(
        stack.path,
        star,
        denoised.path,
        settings,
        refined,
        refined.start.rotations.numpy(),
        found.confidence.cpu().numpy(),
        observed,
        members,
        seconds,
        tuple(notices),
        warnings,
    )
    angles = matrix_to_euler(refined.poses.rotations.double()).numpy()
    columns = {f"rlnAngle{name}": angles[:, k] for k, name in enumerate(("Rot", "Tilt", "Psi"))}
    columns |= origin_columns(stack, result.centre_px) | {"polariceOrientationConfidence": result.confidence}
    if stack.given_half_sets is not None:
        columns["rlnRandomSubset"] = stack.given_half_sets
    result.files.update(write_maps(refined.maps, out))
    with whole(star) as partial:
        write_star(
            partial, particle_tables(stack, columns), version=stack.version if stack.tables else _RELION_31
        )
    result.files[str(star)] = "the original particles with orientations"
    write_record(record, result)
    return result


def _refine(
    stack: ParticleStack,
    found: Orientations,
    halves: NDArray[np.int8],
    apart: bool,
    settings: AbInitioSettings,
    device: torch.device,
    report: Progress,
    seconds: dict[str, float],
) -> tuple[ObservedStack, Refined]:
    """Maps of the original images, and orientations refined against them."""
    with timed(seconds, "measure the originals"):
        observed = ObservedStack.measure(
            stack,
            device,
            contrast=settings.denoising.contrast,
            ctf=settings.denoising.ctf and stack.has_ctf,
            progress=lambda done: report("measure the originals", done, len(stack)),
        )
    with timed(seconds, "refine and make maps"):
        refined = refine_orientations(
            observed,
            found.rotations,
            found.shifts_px,
            halves,
            RefineSettings(rounds=settings.rounds, search="global", shifts=settings.shifts, apart=apart),
            progress=lambda done, total: report("refine against half maps", done, total),
        )
    return observed, refined


def _misfits(
    stack: ParticleStack, settings: AbInitioSettings, denoised: ParticleStack | None
) -> Iterator[PolariceError]:
    """Why orientations cannot be found in this way."""
    if stack.denoised:
        yield ParticleFileError(
            "these particles are denoised already",
            path=stack.path,
            hint="give the original stack, and this one with --denoised",
        )
    if len(stack) < _FEWEST:
        reason = f"{len(stack)} particles are too few for common lines: at least {_FEWEST} are needed"
        yield ParticleFileError(reason, path=stack.path, hint="bring more particles")
    if stack.half_sets is not None and not {1, 2} <= set(stack.half_sets.tolist()):
        yield ParticleFileError(
            "all particles are in one half set",
            path=stack.path,
            hint="without _rlnRandomSubset particles are divided at random",
        )
    if settings.rounds < 0:
        yield PolariceError("rounds of refinement cannot be fewer than none")
    if settings.representatives < _FEWEST:
        yield PolariceError(f"at least {_FEWEST} representatives are needed")
    if denoised is None:
        return
    hint = "give what polarice denoise has made of this stack"
    if not denoised.denoised:
        yield ParticleFileError("these particles were not denoised", path=denoised.path, hint=hint)
    elif len(denoised) != len(stack) or denoised.box != stack.box:
        reason = (
            f"has {len(denoised)} images of {denoised.box} pixels, "
            f"{stack.path.name} has {len(stack)} of {stack.box}"
        )
        yield ParticleFileError(reason, path=denoised.path, hint=hint)
    elif (table := denoised.path.with_name(NEIGHBOUR_FILE)).is_file():
        # It knows which stack it was made for.
        GivenNeighbours.load(table, stack, 1)
    elif (most := max(_oriented_together(stack))) > settings.representatives:
        reason = f"there is no {NEIGHBOUR_FILE} beside it, which {len(stack)} particles need"
        yield ParticleFileError(
            reason, path=denoised.path, hint=f"use a joint model, or --representatives {most}"
        )


def _oriented_together(stack: ParticleStack) -> list[int]:
    """How many particles are oriented in one go: those of each half set, or all."""
    halves, count = stack.half_sets, len(stack)
    if halves is None:
        sizes = [count // 2, count - count // 2]
    else:
        sizes = [int(np.count_nonzero(halves == half)) for half in (1, 2)]
    return sizes if min(sizes) >= _APART else [count]


def _denoise(
    stack: ParticleStack,
    out: Path,
    settings: AbInitioSettings,
    resume: bool,
    overwrite: bool,
    report: Progress,
    seconds: dict[str, float],
) -> Path:
    """The denoised stack in a folder; one that an earlier run has finished is kept by a resumed one."""
    star = out / "denoised.star"
    table = out / NEIGHBOUR_FILE
    if resume and star.is_file() and table.is_file():
        GivenNeighbours.load(table, stack, 1)
        return star
    with timed(seconds, "denoise"):
        denoise_stack(
            stack.path, out, settings.denoising, overwrite=overwrite or resume, resume=resume, progress=report
        )
    return star
