"""From a particle stack with orientations to half maps, a map and their correlation, file to file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..devices import keep_freed_memory, resolve_device
from ..files import make_folder, prepare_output, require_room
from ..stacks import Progress, StackSettings, clear_outputs, open_stack, require_fit, timed, write_record
from ..symmetry import point_group
from .fsc_files import read_mask
from .halves import HalfMaps, solve_halves
from .map_files import MAP_FILES, write_maps
from .observed import ObservedStack, gather_half
from .settings import ReconstructSettings, misfits

__all__ = ["ReconstructResult", "reconstruct_stack"]

_BYTES_PER_VOXEL = 16


@dataclass(frozen=True)
class ReconstructResult:
    """Maps of a stack.

    Attributes
    ----------
    source : Path
    settings : ReconstructSettings
    observed : ObservedStack
    maps : HalfMaps
    particles : (int, int)
        Images in each half set.
    seconds : dict
        Time of each stage.
    files : dict
        Files written, and what they are.
    """

    source: Path
    settings: ReconstructSettings
    observed: ObservedStack
    maps: HalfMaps
    particles: tuple[int, int]
    seconds: dict[str, float]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know about the choices that were made."""
        stack, found, notices = self.observed.stack, self.observed.found, []
        if self.settings.contrast is None and found.contrast is None:
            notices.append(
                f"The contrast of the particles is not significant (z = {found.contrast_z:+.1f}); they are "
                "taken as bright. Give --contrast if they are dark."
            )
        if not self.observed.ctf:
            why = "as asked" if self.settings.ctf is False else "its parameters are not given"
            notices.append(f"The map is not corrected for the CTF ({why}).")
        if stack.shifts_px() is None:
            notices.append("No origins (_rlnOriginXAngst): particles are taken as centred.")
        if stack.given_half_sets is not None:
            notices.append(
                "The particles were divided into half sets at random. If their orientations come from one "
                "common reference, the half maps are not independent, and their resolution is too good."
            )
        if stack.denoised:
            notices.append("These images were denoised: the map holds a learned prior, and so do its halves.")
        if len(found.copies):
            notices.append(f"{len(found.copies):,} particles repeat the pixels of an earlier row.")
        return tuple(notices)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        told = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self.settings).items()}
        chosen = {"contrast": self.observed.contrast, "ctf": self.observed.ctf}
        return {"polarice": __version__, "source": str(self.source), "settings": told, "chosen": chosen}

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        comparison = self.maps.comparison
        return {
            "particles": list(self.particles),
            **comparison.summary(),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "notices": list(self.notices),
            "files": self.files,
        }


def reconstruct_stack(
    particles: str | Path,
    out: str | Path,
    settings: ReconstructSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ReconstructResult:
    """Make half maps and a map of particles with orientations, file to file.

    Parameters
    ----------
    particles : path-like
        ``.star`` or ``.cs``, with the original images.
    out : path-like
        Folder for ``half1.mrc``, ``half2.mrc``, ``map.mrc``, ``mask.mrc``, ``fsc.star`` and
        ``reconstruct.json``.
    settings : ReconstructSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, done, in all).

    Returns
    -------
    ReconstructResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the device or the output, before any computing.
    """
    settings, out = settings or ReconstructSettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite)
    device = resolve_device(settings.device)
    reading = StackSettings(pixel_size_A=settings.pixel_size_A)
    stack = open_stack(particles, reading, split_halves=settings.split_halves)
    require_fit(stack, misfits(stack, settings))
    group = point_group(settings.symmetry)
    mask = None if settings.mask is None else read_mask(settings.mask, stack.box).to(device)
    require_room(out, _BYTES_PER_VOXEL * stack.box**3)
    if device.type == "cpu":
        keep_freed_memory()
    seconds: dict[str, float] = {}
    count = len(stack)
    with timed(seconds, "check and measure"):
        observed = ObservedStack.measure(
            stack,
            device,
            contrast=settings.contrast,
            ctf=settings.ctf is not False and stack.has_ctf,
            progress=lambda done: report("check and measure", done, count),
        )
    rotations, halves = stack.rotations(), stack.half_sets
    assert rotations is not None
    assert halves is not None
    shifts_px = stack.shifts_px()
    shifts = None if shifts_px is None else torch.from_numpy(shifts_px)
    members = [np.flatnonzero(halves == half) for half in (1, 2)]
    equations, seen = [], 0
    with timed(seconds, "back-project"):
        for rows in members:
            told = partial(_advance, report, seen, count)
            equations.append(gather_half(observed, rows, rotations, shifts, symmetry=group, progress=told))
            seen += len(rows)
    report("solve", 0, 1)
    with timed(seconds, "solve"):
        maps = solve_halves(equations[0], equations[1], stack.pixel_size_A, mask)
    report("solve", 1, 1)
    make_folder(out)
    clear_outputs(out, (*MAP_FILES, "reconstruct.json"))
    sizes = (len(members[0]), len(members[1]))
    result = ReconstructResult(stack.path, settings, observed, maps, sizes, seconds)
    result.files.update(write_maps(maps, out))
    write_record(out / "reconstruct.json", result)
    return result


def _advance(report: Progress, already: int, count: int, done: int) -> None:
    report("back-project", already + done, count)
