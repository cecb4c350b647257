"""A particle stack in; its classes, their averages and their members out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..devices import keep_freed_memory, mixed_precision, resolve_device
from ..errors import ParticleFileError, PolariceError
from ..files import make_folder, prepare_output, whole
from ..models import ModelCard
from ..neighbours import DiscHarmonics, StackViews, ViewEstimator, learn_from_stack
from ..particles import MrcStackWriter, ParticleStack, Preprocessor, StackScan, write_star
from ..stacks import (
    PreparedStack,
    Progress,
    StackSettings,
    clear_outputs,
    load_joint_model,
    look_at,
    require_fit,
    require_room_for_views,
    resolved_configuration,
    scratch_work,
    timed,
    unreadable,
    write_record,
)
from .averages import average_classes, average_denoised
from .centring import centre_on_classes
from .classes import Classes, first_classes, refine_classes, without_member
from .tables import class_tables, member_tables

__all__ = ["ClassifyResult", "ClassifySettings", "classify_stack"]

_RELION_31 = 30001
# What a run leaves; classes.html is the command line's.
_FILES = (
    "classes_data.star",
    "classes_model.star",
    "classes_averages.mrcs",
    "classes_denoised.mrcs",
    "classify.json",
    "classes.html",
)


@dataclass(frozen=True, kw_only=True)
class ClassifySettings(StackSettings):
    """How a stack is classified.

    Attributes
    ----------
    classes : int
        How many, at most.
    denoised : path-like, optional
        The stack as `polarice denoise` has written it, to be averaged as well.
    """

    classes: int = 100
    denoised: str | Path | None = None


@dataclass(frozen=True)
class ClassifyResult:
    """Classes of a stack, largest first.

    Attributes
    ----------
    source : Path
    settings : ClassifySettings
    card : ModelCard
    preprocessor : Preprocessor
    found : StackScan
    label : ndarray of int, shape (n,)
        Class of each particle, from 0.
    probability : ndarray, shape (n,)
        Of that class among all.
    evidence : ndarray, shape (n,)
        How much likelier a particle is of its class than of any view, natural logarithm.
    angles_deg : ndarray, shape (n,)
        How far a particle must be turned from x towards y to lie upon its class.
    centre_px : ndarray, shape (n, 2)
        Where it lies, (x, y) in pixels of the stack from the centre of the box.
    averages : ndarray, shape (k, y, x)
        Of the original images.
    denoised_averages : ndarray, shape (k, y, x), or None
    seconds : dict
        Time of each stage.
    notices : tuple of str
    files : dict
        Files written, and what they are.
    """

    source: Path
    settings: ClassifySettings
    card: ModelCard
    preprocessor: Preprocessor
    found: StackScan
    label: NDArray[np.int64]
    probability: NDArray[np.float32]
    evidence: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    centre_px: NDArray[np.float32]
    averages: NDArray[np.float32]
    denoised_averages: NDArray[np.float32] | None
    seconds: dict[str, float]
    notices: tuple[str, ...]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> NDArray[np.int64]:
        """How many particles each class has, shape (k,)."""
        return np.bincount(self.label, minlength=len(self.averages))

    def configuration(self) -> dict[str, Any]:
        """The resolved configuration as plain values."""
        return resolved_configuration(self.source, self.settings, self.preprocessor, self.card)

    def summary(self) -> dict[str, Any]:
        """Figures of the run as plain values."""
        return {
            "particles": len(self.label),
            "classes": len(self.averages),
            "largest_class": int(self.members.max()),
            "smallest_class": int(self.members.min()),
            "mean_probability": round(float(self.probability.mean()), 4),
            "seconds": {stage: round(seconds, 2) for stage, seconds in self.seconds.items()},
            "images_per_s": round(len(self.label) / sum(self.seconds.values()), 1),
            "notices": list(self.notices),
            "files": self.files,
        }


def classify_stack(
    particles: str | Path,
    out: str | Path,
    settings: ClassifySettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ClassifyResult:
    """Sort the particles of a stack into classes of one view each, file to file.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``classes_data.star`` (particles), ``classes_model.star`` (classes),
        ``classes_averages.mrcs``, ``classes_denoised.mrcs`` (if there are denoised images) and
        ``classify.json``.
    settings : ClassifySettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, done, in all).

    Returns
    -------
    ClassifyResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing; or a stack
        in which nothing stands out of the noise.
    """
    settings, out = settings or ClassifySettings(), Path(out)
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite)
    device = resolve_device(settings.device)
    network, card = load_joint_model(settings, device)
    stack = ParticleStack.open(particles, pixel_size_A=settings.pixel_size_A)
    denoised = None if settings.denoised is None else ParticleStack.open(settings.denoised)
    require_fit(stack, chain(_misfits(stack, settings, denoised), unreadable(stack, settings)))
    require_room_for_views(out, stack, network)
    prepared = PreparedStack.measure(stack, settings, network.box, device, report)
    if device.type == "cpu":
        keep_freed_memory()
    make_folder(out)
    clear_outputs(out, _FILES)
    with scratch_work(out) as work:
        with mixed_precision(device, settings.mixed_precision):
            views = look_at(network, prepared, work)
        classes, centre = _classes(prepared, views, settings.classes)
    order = torch.argsort(-torch.bincount(classes.label, minlength=settings.classes), stable=True)
    label = torch.argsort(order)[classes.label]
    count = int(label.max()) + 1
    centre_px = centre * (stack.box / network.box)
    averages = average_classes(prepared, label, classes.angles_deg, centre_px, count)
    denoised_averages = None
    if denoised is not None:
        with timed(prepared.seconds, "average"):
            denoised_averages = average_denoised(denoised, label, classes.angles_deg, centre_px, count)
    result = ClassifyResult(
        stack.path,
        settings,
        card,
        prepared.preprocessor,
        prepared.found,
        label.cpu().numpy(),
        classes.probability.cpu().numpy(),
        classes.evidence.cpu().numpy(),
        classes.angles_deg.cpu().numpy(),
        centre_px.cpu().numpy(),
        averages,
        denoised_averages,
        prepared.seconds,
        prepared.notices,
    )
    _write(result, stack, out)
    return result


def _misfits(
    stack: ParticleStack, settings: ClassifySettings, denoised: ParticleStack | None
) -> Iterator[PolariceError]:
    """Why the settings do not fit the stack."""
    if settings.classes < 1:
        yield PolariceError("at least one class is needed")
    if settings.classes > len(stack) // 2:
        reason = f"{len(stack)} particles are too few for {settings.classes} classes"
        hint = f"ask for fewer with --classes {max(1, len(stack) // 10)}"
        yield ParticleFileError(reason, path=stack.path, hint=hint)
    if denoised is None:
        return
    if len(denoised) != len(stack) or denoised.box != stack.box:
        reason = (
            f"has {len(denoised)} images of {denoised.box} pixels, "
            f"{stack.path.name} has {len(stack)} of {stack.box}"
        )
        hint = "give what polarice denoise has made of this stack"
        yield ParticleFileError(reason, path=denoised.path, hint=hint)
    elif not denoised.denoised:
        yield ParticleFileError("these particles were not denoised", path=denoised.path)


@torch.inference_mode()
def _classes(prepared: PreparedStack, views: StackViews, count: int) -> tuple[Classes, Tensor]:
    """Classes, and where each particle lies in the network's pixels."""
    seconds, device = prepared.seconds, prepared.device
    harmonics = DiscHarmonics(prepared.preprocessor.model_box).to(device)
    members = np.arange(len(prepared))
    with timed(seconds, "find neighbours"):
        learned = learn_from_stack(harmonics, views, members, device)
        estimator = ViewEstimator(learned.likelihood)
        if not estimator.informed:
            raise ParticleFileError(
                "nothing in these images stands out of the noise, so they have no classes",
                path=prepared.stack.path,
                hint="bring more particles, or look at them with polarice info",
            )
        first = first_classes(learned, count, lambda *done: prepared.report("find neighbours", *done))
    with timed(seconds, "classify"):
        images = estimator.images(learned.features)
        classes = refine_classes(
            estimator, images, first, progress=lambda *done: prepared.report("classify", *done)
        )
        label = classes.label
        all_members = torch.ones_like(label, dtype=torch.bool)
        unseen = without_member(estimator, classes.views, label, images, all_members)
        centre, images = centre_on_classes(harmonics, learned, lambda: views.parts(members, device), unseen)
        classes = refine_classes(
            estimator,
            images,
            classes.views,
            label,
            progress=lambda *done: prepared.report("classify", *done),
        )
    return classes, centre


def _write(result: ClassifyResult, stack: ParticleStack, out: Path) -> None:
    """Write everything, the STAR files last."""
    for name, images in (("averages", result.averages), ("denoised", result.denoised_averages)):
        path = out / f"classes_{name}.mrcs"
        if images is None:
            continue
        with MrcStackWriter(path, stack.box, stack.pixel_size_A) as writer:
            writer.append(images)
        pixels = "original" if name == "averages" else "denoised"
        result.files[str(path)] = f"class averages of {pixels} pixels"
    model, data = out / "classes_model.star", out / "classes_data.star"
    result.files[str(data)] = "particles with their classes, angles and shifts"
    result.files[str(model)] = "classes with their averages, for RELION to show"
    with whole(model) as partial:
        tables = class_tables(stack, out / "classes_averages.mrcs", result.members)
        write_star(partial, tables, version=_RELION_31)
    with whole(data) as partial:
        told = result.probability, result.evidence, result.angles_deg, result.centre_px
        tables = member_tables(stack, result.label, *told)
        write_star(partial, tables, version=stack.version if stack.tables else _RELION_31)
    write_record(out / "classify.json", result)
