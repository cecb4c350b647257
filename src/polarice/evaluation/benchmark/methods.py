"""The rows of the benchmark: every way of denoising, as a function of sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ...denoising import aligned_sums, class_average, in_each_frame, signal_power, wiener_filter
from ...errors import ModelError
from ...imaging import soft_disc
from ...models import ModelCard, find_weights, load_model
from .images import Sets
from .settings import BenchmarkSettings

__all__ = ["ORACLE", "Method", "Model", "classical_methods", "load_models", "model_methods", "oracle_methods"]

Family = Literal["input", "classical", "single", "joint", "bound"]

# Names of the bound's methods begin so.
ORACLE = "oracle"

_AT_ONCE = 64


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes
    ----------
    name : str
        Unique.
    label : str
        As a table says it.
    family : str
    denoise : callable
        Maps sets to images (s, k, y, x).
    neighbourhoods : bool
        Measured on neighbourhood sets, not on sets of one or several views.
    set_size : int, optional
        Size that the images' sets are divided into; the whole set by default.
    model : str
        Name of the network behind it.
    """

    name: str
    label: str
    family: Family
    denoise: Callable[[Sets], Tensor]
    neighbourhoods: bool = False
    set_size: int | None = None
    model: str = ""

    def __call__(self, sets: Sets) -> Tensor:
        """Denoised images (s, k, y, x)."""
        return self.denoise(sets)


@dataclass(frozen=True)
class Model:
    """A network under test."""

    name: str
    network: nn.Module
    card: ModelCard

    @property
    def box(self) -> int:
        """Side of its images, in pixels."""
        return int(self.network.box)  # type: ignore[arg-type]

    @property
    def jointly(self) -> bool:
        """Whether it denoises sets."""
        return bool(getattr(self.network, "jointly", False))


def load_models(names: tuple[str, ...], device: torch.device) -> tuple[list[Model], list[str]]:
    """Load what there is; returns the models, all of one box, and a remark for each left out."""
    models: list[Model] = []
    notes = []
    for name in dict.fromkeys(names):
        try:
            network, card = load_model(find_weights(name), device)
        except ModelError as error:
            notes.append(f"{name} is left out: {error}")
            continue
        if models and network.box != models[0].network.box:
            notes.append(
                f"{name} is left out: its box of {network.box} pixels is not that of {models[0].name}"
            )
            continue
        models.append(Model(_unlike(_title(name), models), network, card))
    return models, notes


def _title(name: str) -> str:
    """A weights file's own name, or its folder's where that says more."""
    path = Path(name)
    return path.parent.name if path.stem == "weights" and path.parent.name else path.stem


def _unlike(title: str, models: list[Model]) -> str:
    taken = {model.name for model in models}
    number, unique = 1, title
    while unique in taken:
        number += 1
        unique = f"{title} ({number})"
    return unique


def classical_methods(settings: BenchmarkSettings) -> list[Method]:
    """What needs no network: nothing, the Wiener filter, class averages."""
    return [
        Method("noisy", "noisy images", "input", lambda sets: sets.noisy),
        Method("wiener", "radial Wiener filter", "classical", _wiener),
        Method(
            "class-average",
            f"class average of {settings.set_size}",
            "classical",
            partial(_class_averages, size=settings.set_size),
            set_size=settings.set_size,
        ),
    ]


def model_methods(model: Model, settings: BenchmarkSettings) -> list[Method]:
    """One row for a single-image network, three for a joint one."""
    name, size, views = model.name, settings.set_size, settings.views
    if not model.jointly:
        return [Method(name, name, "single", partial(_singly, model.network), model=name)]
    joint = partial(Method, family="joint", model=name)
    return [
        joint(
            f"{name}/directional",
            f"{name}, directional {size}",
            denoise=partial(_jointly, model.network, size=size),
            set_size=size,
        ),
        joint(
            f"{name}/general",
            f"{name}, general {views} × {size}",
            denoise=partial(_jointly, model.network, size=views * size),
            set_size=views * size,
        ),
        joint(
            f"{name}/neighbourhood",
            f"{name}, neighbourhood {size}",
            denoise=partial(_jointly, model.network, size=size),
            neighbourhoods=True,
            set_size=size,
        ),
    ]


def oracle_methods(models: list[Model], settings: BenchmarkSettings) -> list[Method]:
    """The bound, with each way of denoising the averages of images whose true poses are told.

    No one way is best at every SNR, and networks know a range of them only.
    """
    size = settings.set_size
    label = f"oracle alignment of {size}"
    filtered = Method(
        f"{ORACLE}/wiener",
        label,
        "bound",
        partial(_oracle_filtered, size=size),
        set_size=size,
        model="wiener",
    )
    return [filtered] + [
        Method(
            f"{ORACLE}/{model.name}",
            label,
            "bound",
            partial(_oracle, model.network, size=size),
            set_size=size,
            model=model.name,
        )
        for model in models
        if not model.jointly
    ]


def _wiener(sets: Sets) -> Tensor:
    """Each row of sets is one stack, from which the signal's power is estimated."""
    ctf = sets.ctf if sets.condition.ctf else None
    power = signal_power(sets.noisy, ctf, noise_power=sets.noise_power)
    return wiener_filter(sets.noisy, power[:, None], ctf, noise_power=sets.noise_power)


def _class_averages(sets: Sets, size: int) -> Tensor:
    ctf = sets.ctf if sets.condition.ctf else None
    power = signal_power(sets.noisy, ctf, noise_power=sets.noise_power)
    parts = sets.divided(size)
    result = class_average(
        parts.noisy,
        power.repeat_interleave(len(parts.noisy) // len(power), 0),
        None if ctf is None else parts.ctf,
        noise_power=sets.noise_power,
        max_shift_px=sets.condition.max_shift_px,
    )
    return result.images.view_as(sets.noisy)


def _singly(network: nn.Module, sets: Sets) -> Tensor:
    images, ctf = (part.flatten(0, 1).split(_AT_ONCE) for part in (sets.noisy, sets.ctf))
    return torch.cat([network(*part) for part in zip(images, ctf, strict=True)]).view_as(sets.noisy)


def _jointly(network: nn.Module, sets: Sets, size: int) -> Tensor:
    parts, step = sets.divided(size), max(1, _AT_ONCE // size)
    batches = zip(parts.noisy.split(step), parts.ctf.split(step), strict=True)
    return torch.cat([network(images, None, ctf).images for images, ctf in batches]).view_as(sets.noisy)


def _oracle(network: nn.Module, sets: Sets, size: int) -> Tensor:
    """Sets must show one view each, when they are divided by ``size``.

    The sum of aligned images, each filtered by its CTF, has lost nothing that they say of their common
    view. Whitened, it is an image with the CTF √Σc² and noise of standard deviation 1.
    """
    parts, poses = _true_poses(sets, size)
    weighted, weight = aligned_sums(parts.noisy, *poses, parts.ctf if sets.condition.ctf else None)
    box = sets.noisy.shape[-1]
    transfer = weight.clamp_min(1e-6).sqrt()
    disc = soft_disc(box, box / 2, 4.0, device=sets.noisy.device)
    average = torch.fft.irfft2(weighted / transfer, s=(box, box)) * disc
    # A CTF is at most one: the signal, not its transfer, is √K times as strong.
    transfer = (transfer / size**0.5).clamp_max(1)
    denoised = torch.cat(
        [network(*part) for part in zip(average.split(_AT_ONCE), transfer.split(_AT_ONCE), strict=True)]
    )
    return in_each_frame(denoised / size**0.5, *poses).view_as(sets.noisy)


def _oracle_filtered(sets: Sets, size: int) -> Tensor:
    """The same with a Wiener filter, the signal's power estimated from the noisy images."""
    ctf = sets.ctf if sets.condition.ctf else None
    power = signal_power(sets.noisy, ctf, noise_power=sets.noise_power)
    parts, poses = _true_poses(sets, size)
    weighted, weight = aligned_sums(parts.noisy, *poses, None if ctf is None else parts.ctf)
    power = power.repeat_interleave(len(parts.noisy) // len(power), 0)
    average = torch.fft.irfft2(
        weighted * power / (weight * power + sets.noise_power), s=sets.noisy.shape[-2:]
    )
    return in_each_frame(average, *poses).view_as(sets.noisy)


def _true_poses(sets: Sets, size: int) -> tuple[Sets, tuple[Tensor, Tensor]]:
    parts = sets.divided(size)
    return parts, ((parts.rotations @ parts.rotations[:, :1].mT)[..., :2, :2], parts.shifts_px)
