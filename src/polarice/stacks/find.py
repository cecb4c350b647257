"""A particle stack in, its table of neighbours out."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..devices import keep_freed_memory, mixed_precision, release_freed_memory, resolve_device
from ..files import make_folder, prepare_output
from ..models import ModelCard
from ..neighbours import NOBODY, DiscHarmonics, StackViews, find_companions
from ..particles import Preprocessor, StackScan
from .neighbour_file import NEIGHBOUR_FILE, NeighbourTable
from .preflight import open_stack, require_fit, too_few_for, unreadable
from .prepared import PreparedStack, Progress, timed
from .record import resolved_configuration, write_record
from .settings import NeighbourSettings
from .views import clear_outputs, load_joint_model, look_at, require_room_for_views, scratch_work

__all__ = ["GUESSES", "NeighbourResult", "find_neighbours", "search_stack"]

GUESSES = "Nothing that tells views apart stands out of the noise of these images: neighbours are guesses."


@dataclass(frozen=True)
class NeighbourResult:
    """Neighbours of a stack's particles, and how they were found.

    Attributes
    ----------
    source : Path
    settings : NeighbourSettings
    card : ModelCard
        Of the network that took the first look.
    preprocessor : Preprocessor
    found : StackScan
    table : NeighbourTable
    seconds : dict
        Time of each stage.
    notices : tuple of str
    files : dict
        Files written, and what they are.
    """

    source: Path
    settings: NeighbourSettings
    card: ModelCard
    preprocessor: Preprocessor
    found: StackScan
    table: NeighbourTable
    seconds: dict[str, float]
    notices: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return resolved_configuration(self.source, self.settings, self.preprocessor, self.card)

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        rows, probability = self.table.rows, self.table.probability
        there = rows != NOBODY
        return {
            "particles": len(rows),
            "mean_probability": round(float(probability[there].mean()), 4) if there.any() else 0.0,
            "expected_neighbours": round(float(probability.sum(1).mean()), 2),
            "mirrored": int(self.table.mirrored.sum()),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "images_per_s": round(len(rows) / sum(self.seconds.values()), 1),
            "notices": list(self.notices),
            "files": self.files,
        }


def find_neighbours(
    particles: str | Path,
    out: str | Path,
    settings: NeighbourSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> NeighbourResult:
    """Find which particles of a stack show one view, file to file.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``neighbours.npz`` and ``neighbours.json``.
    settings : NeighbourSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, images done, images in all).

    Returns
    -------
    NeighbourResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing.
    """
    settings, out = settings or NeighbourSettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite)
    device = resolve_device(settings.device)
    network, card = load_joint_model(settings, device)
    stack = open_stack(particles, settings, split_halves=settings.split_halves)
    too_few = too_few_for(stack, settings.neighbours, "bring more particles")
    require_fit(stack, chain(unreadable(stack, settings), too_few))
    require_room_for_views(out, stack, network)
    prepared = PreparedStack.measure(stack, settings, network.box, device, report)
    make_folder(out)
    path, configuration = out / NEIGHBOUR_FILE, out / "neighbours.json"
    clear_outputs(out, (path.name, configuration.name, "neighbours.html"))
    if device.type == "cpu":
        keep_freed_memory()
    with (
        scratch_work(out) as work,
        mixed_precision(device, settings.mixed_precision),
    ):
        views = look_at(network, prepared, work)
        table = search_stack(
            prepared, views, settings.neighbours, prepared.halves, mirrored=settings.mirrored
        )
    table.save(path, stack)
    files = {str(path): "neighbours of each particle, angles, shifts and probabilities"}
    result = NeighbourResult(
        stack.path,
        settings,
        card,
        prepared.preprocessor,
        prepared.found,
        table,
        prepared.seconds,
        (*prepared.notices, *prepared.half_set_notices, *(() if table.informed else (GUESSES,))),
        files,
    )
    write_record(configuration, result)
    return result


def search_stack(
    prepared: PreparedStack,
    views: StackViews,
    count: int,
    groups: NDArray[np.int64],
    *,
    mirrored: bool = False,
) -> NeighbourTable:
    """Find the likeliest neighbours of a stack's particles, in pixels of the stack.

    Parameters
    ----------
    prepared : PreparedStack
    views : StackViews
        Of its images.
    count : int
        Neighbours asked for.
    groups : ndarray of int, shape (n,)
        Images of different groups are not compared; a group lies within a half set.
    mirrored : bool
        Look at every image as its mirror image too.
    """
    total, box = len(prepared), prepared.preprocessor.model_box
    with timed(prepared.seconds, "find neighbours"):
        found = find_companions(
            DiscHarmonics(box),
            views,
            count,
            prepared.halves,
            groups,
            prepared.device,
            lambda done: prepared.report("find neighbours", done, total),
            mirrored=mirrored,
            original=prepared.found.original.numpy(),
        )
    release_freed_memory()
    return NeighbourTable.of_search(found, prepared.stack.box / box)
