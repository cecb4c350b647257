"""What the particles of a stack are compared by, as a network sees them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError
from ..files import give_back, require_room, writing
from ..models import ImageState, ModelCard, PolarTransformer, load_model
from ..neighbours import DiscHarmonics, StackViews
from ..particles import ParticleStack
from .prepared import PreparedStack, timed
from .settings import StackSettings
from .work import Work

__all__ = [
    "ViewRecorder",
    "clear_outputs",
    "load_joint_model",
    "look_at",
    "require_room_for_views",
    "scratch_folder",
    "scratch_work",
]

# Of folders for a run's files that are gone when it ends.
_SCRATCH = ".scratch-"

# Of `StackViews`, in their order.
_TYPES = (np.complex64, np.float16, np.float32, np.float32)


def clear_outputs(out: Path, names: Iterable[str]) -> None:
    """Remove what an earlier run has left in a folder, so that no mixture of two can remain."""
    with writing(out):
        for name in names:
            (out / name).unlink(missing_ok=True)
        for scratch in out.glob(f"{_SCRATCH}*"):
            shutil.rmtree(scratch)


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A folder of its own below another, of which nothing remains."""
    with writing(out):
        folder = Path(tempfile.mkdtemp(dir=out, prefix=_SCRATCH))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def scratch_work(out: Path) -> Iterator[Work]:
    """Work of which nothing remains."""
    with scratch_folder(out) as folder, Work(folder) as work:
        yield work


class ViewRecorder:
    """Keeps what the images of a stack are compared by, batch by batch, in files.

    Parameters
    ----------
    network : PolarTransformer
    count : int
        Images in all.
    work : Work
        Gets the files.
    """

    files = ("spectra", "transmitted", "centres", "embedding")

    def __init__(self, network: PolarTransformer, count: int, work: Work) -> None:
        self._harmonics = DiscHarmonics(network.box).to(next(network.parameters()).device)
        length, rings = self._harmonics.spectrum_length, len(self._harmonics.orders)
        shapes = ((length,), (rings,), (2,), (network.config.embedding,))
        self.views = StackViews(
            *(
                work.array(name, dtype, (count, *shape))
                for name, dtype, shape in zip(self.files, _TYPES, shapes, strict=True)
            )
        )

    @staticmethod
    def bytes_per_image(network: PolarTransformer) -> int:
        """Room on disk."""
        harmonics = DiscHarmonics(network.box)
        lengths = harmonics.spectrum_length, len(harmonics.orders), 2, network.config.embedding
        return sum(np.dtype(t).itemsize * length for t, length in zip(_TYPES, lengths, strict=True))

    def put(self, rows: slice, state: ImageState, ctf: Tensor | None, codes: Tensor) -> None:
        """Keep some images as `PolarTransformer.encode` returned them."""
        harmonics, views = self._harmonics, self.views
        views.spectra[rows] = harmonics.spectra(state.observed[:, 1]).cpu().numpy()
        views.passed[rows] = 1 if ctf is None else harmonics.transmitted(ctf.square()).cpu().numpy()
        views.centre[rows] = state.centre.cpu().numpy()
        views.embedding[rows] = codes.cpu().numpy()
        give_back(*views)


@torch.inference_mode()
def look_at(network: PolarTransformer, prepared: PreparedStack, work: Work) -> StackViews:
    """Run the network's single-image part over a stack, and keep what images are compared by.

    Parameters
    ----------
    network : PolarTransformer
    prepared : PreparedStack
    work : Work
        For what is too large for memory.
    """
    recorder = ViewRecorder(network, len(prepared), work)
    for rows, images, ctf in prepared.normalised():
        with timed(prepared.seconds, "encode"):
            state, codes = network.encode(images, ctf)
            recorder.put(rows, state, ctf, codes)
        prepared.report("encode", rows.stop, len(prepared))
    return recorder.views


def load_joint_model(settings: StackSettings, device: torch.device) -> tuple[PolarTransformer, ModelCard]:
    """The network that a stack is looked at with.

    Raises
    ------
    ModelError
        Unknown, or one that looks at images for themselves.
    """
    network, card = load_model(settings.model, device)
    if not isinstance(network, PolarTransformer):
        reason = f"a {card.architecture} has no embedding that could find neighbours in a stack"
        raise ModelError(reason, hint="use a polar-transformer")
    return network, card


def require_room_for_views(out: Path, stack: ParticleStack, network: PolarTransformer) -> None:
    """Raise where the disk is too small for `look_at`.

    Raises
    ------
    OutputError
    """
    require_room(out, len(stack) * ViewRecorder.bytes_per_image(network))
