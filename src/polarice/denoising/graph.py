"""Joint denoising of a whole stack: each particle attends to neighbours of its own.

The network's stages run one after another over the stack (encode, each round of attention, decode),
so a particle that is a neighbour of many is computed once. Between stages the features lie in a
scratch file that the system keeps in memory as far as it can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import give_back, scratch_array
from ..models import ImageState, Offer, PolarTransformer
from ..neighbours import NOBODY, StackViews
from ..polar import AngularSpectra, peak_angles_deg
from ..stacks import ViewRecorder

__all__ = ["EncodedStack", "GraphResult", "attend_graph", "encode_stack", "scratch_bytes"]

_BATCH = 32


@dataclass(frozen=True)
class StackState:
    """What the network knows of every image of a stack between two rounds, in scratch files.

    The fields are those of `ImageState`, with the images in front, in half precision but for the last
    two.
    """

    observed: NDArray[np.float16]
    coarse: NDArray[np.float16]
    polar: NDArray[np.float16]
    features: NDArray[np.float16]
    passed: NDArray[np.float32]
    centre: NDArray[np.float32]

    @classmethod
    def create(cls, network: PolarTransformer, count: int, scratch: Path) -> StackState:
        """Empty files for ``count`` images in a folder."""
        box = network.box
        return cls(
            _file(scratch, "observed", count, 2, box, box),
            _file(scratch, "coarse", count, 2, box // 2, box // 2),
            *_polar_files(network, 0, count, scratch),
            np.empty((count, network.bands.count), np.float32),
            np.empty((count, 2), np.float32),
        )

    def after(self, index: int, network: PolarTransformer, scratch: Path) -> StackState:
        """Files for the state after round ``index``: these, but new ones where the resolution grows."""
        if network.feature_shape(index + 1) == network.feature_shape(index):
            return self
        polar, features = _polar_files(network, index + 1, len(self.centre), scratch)
        return replace(self, polar=polar, features=features)

    def take(self, rows: NDArray[np.int64], device: torch.device) -> ImageState:
        """State of some images; its leading shape is that of the rows."""
        arrays = (torch.from_numpy(getattr(self, f.name)[rows]) for f in fields(self))
        return ImageState(*(array.to(device).float() for array in arrays))

    def put(self, rows: slice | NDArray[np.int64], state: ImageState) -> None:
        """Keep the state of some images."""
        for name, value in state._asdict().items():
            getattr(self, name)[rows] = _storable(value)

    def give_back(self) -> None:
        """Let go of what lies in files."""
        give_back(*(getattr(self, f.name) for f in fields(self)))


def _storable(values: Tensor) -> NDArray[np.float32]:
    """Bounded by what half precision holds: images that are nearly all signal lie beyond."""
    largest = torch.finfo(torch.float16).max
    return values.float().clamp(-largest, largest).cpu().numpy()


def _file(scratch: Path, name: str, *shape: int) -> NDArray[np.float16]:
    return scratch_array(scratch / name, np.float16, shape)


def _polar_files(
    network: PolarTransformer, index: int, count: int, scratch: Path
) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Polar images and features before round ``index``."""
    channels, *grid = network.feature_shape(index)
    place = _place(network, index)
    return (
        _file(scratch, f"polar-{place}", count, 2, *grid),
        _file(scratch, f"features-{place}", count, channels, *grid),
    )


def _place(network: PolarTransformer, index: int) -> str:
    """Rounds of one resolution share their files."""
    return "coarse" if index < network.config.coarse_rounds else "fine"


@dataclass(frozen=True)
class _StackOffer:
    """What every image of a stack offers in a round: spectra in half precision, as pairs of real numbers."""

    key: NDArray[np.float16]
    value: NDArray[np.float16]
    passed: NDArray[np.float32]

    @classmethod
    def create(
        cls, network: PolarTransformer, index: int, count: int, passed: NDArray[np.float32], scratch: Path
    ) -> _StackOffer:
        """Empty files for round ``index``."""
        place = _place(network, index)
        key, value = (
            _file(scratch, f"{name}-{place}", count, *shape, 2)
            for name, shape in zip(("keys", "values"), network.offer_shapes(index), strict=True)
        )
        return cls(key, value, passed)

    def take(self, rows: NDArray[np.int64], device: torch.device) -> Offer:
        """Offers of images (s, k)."""

        def spectra(file: NDArray[np.float16]) -> Tensor:
            parts = torch.from_numpy(file[rows]).to(device).float()
            return torch.view_as_complex(parts).transpose(1, 2)

        passed = torch.from_numpy(self.passed[rows]).to(device)
        return Offer(AngularSpectra(spectra(self.key), spectra(self.value)), passed)

    def put(self, rows: NDArray[np.int64], offer: Offer) -> None:
        """Keep the offers of some images, taken as one set."""
        for file, spectra in zip((self.key, self.value), offer.spectra, strict=True):
            file[rows] = _storable(torch.view_as_real(spectra[0].transpose(0, 1)))

    def give_back(self) -> None:
        """Let go of what lies in files."""
        give_back(self.key, self.value)


@dataclass(frozen=True)
class EncodedStack:
    """A stack after the network's first look.

    Attributes
    ----------
    state : StackState
    views : StackViews
    """

    state: StackState
    views: StackViews

    def __len__(self) -> int:
        return len(self.views.embedding)


@dataclass(frozen=True)
class GraphResult:
    """A stack after joint denoising.

    Attributes
    ----------
    images : ndarray, shape (n, y, x), float32
        In a scratch file, in the stack's order.
    weights : ndarray, shape (n, k)
        Weight of each neighbour in the last round, zero for an empty place.
    angles_deg : ndarray, shape (n, k)
        How far each neighbour must be turned, from x towards y, to lie upon the particle.
    """

    images: NDArray[np.float32]
    weights: NDArray[np.float32]
    angles_deg: NDArray[np.float32]


def scratch_bytes(network: PolarTransformer, count: int) -> int:
    """Room on disk that `encode_stack` and `attend_graph` take for ``count`` images."""
    ends = 0, len(network.rounds) - 1
    states = sum(
        (2 + channels) * radii * angles for channels, radii, angles in map(network.feature_shape, ends)
    )
    offers = sum(2 * math.prod(shape) for index in ends for shape in network.offer_shapes(index))
    # Observed images twice at both resolutions, and half a result.
    return count * (
        2 * (states + offers + round(4.5 * network.box**2)) + ViewRecorder.bytes_per_image(network)
    )


@torch.inference_mode()
def encode_stack(
    network: PolarTransformer,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    count: int,
    scratch: Path,
    progress: Callable[[int], None],
) -> EncodedStack:
    """Run the network's single-image part over a stack.

    Parameters
    ----------
    network : PolarTransformer
    batches : iterable of (Tensor, Tensor or None), shapes (b, y, x) and (b, y, x // 2 + 1)
        Normalised images in the stack's order, and the magnitudes of their CTFs.
    count : int
        Images in all.
    scratch : Path
        An existing folder for the features.
    progress : callable
        Called with the number of images done.
    """
    state = StackState.create(network, count, scratch)
    recorder = ViewRecorder(network, count, scratch)
    done = 0
    for images, ctf in batches:
        part, codes = network.encode(images, ctf)
        rows = slice(done, done + len(images))
        state.put(rows, part)
        state.give_back()
        recorder.put(rows, part, ctf, codes)
        done = rows.stop
        progress(done)
    return EncodedStack(state, recorder.views)


@torch.inference_mode()
def attend_graph(
    network: PolarTransformer,
    encoded: EncodedStack,
    neighbours: NDArray[np.int64],
    apart: NDArray[np.int64],
    scratch: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> GraphResult:
    """Run the rounds of attention over a graph, and decode.

    In each round every image's offer to the others is made once and kept in a file, from which each image
    takes those of its neighbours; so its own state can be overwritten, and is. Half sets never share a batch:
    company may change the order of sums, and with it the last bits.

    Parameters
    ----------
    network : PolarTransformer
    encoded : EncodedStack
        Used up.
    neighbours : ndarray of int, shape (n, k)
        Rows, `NOBODY` in empty places.
    apart : ndarray of int, shape (n,)
        Half set of each particle; the images of one depend on no bit of another.
    scratch : Path
        The folder of `encode_stack`.
    device : torch.device
    progress : callable
        Called with (round, images done).
    """
    count, rounds, box = len(encoded), len(network.rounds), network.box
    images = scratch_array(scratch / "images", np.float32, (count, box, box))
    weights, angles = (np.zeros(neighbours.shape, np.float32) for _ in range(2))
    batches = [
        rows
        for members in (np.flatnonzero(apart == half) for half in np.unique(apart))
        for rows in np.split(members, range(_BATCH, len(members), _BATCH))
    ]
    before = encoded.state
    for index in range(rounds):
        last = index == rounds - 1
        after = before if last else before.after(index, network, scratch)
        offers = _StackOffer.create(network, index, count, before.passed, scratch)
        for rows in batches:
            offers.put(rows, network.offer(index, before.take(rows[None], device)))
            before.give_back()
            offers.give_back()
        done = 0
        for rows in batches:
            partners = neighbours[rows]
            there = torch.from_numpy(partners != NOBODY).to(device)
            # In an empty place lies, under the mask, the particle itself.
            keys = offers.take(np.where(partners == NOBODY, rows[:, None], partners), device)
            query = before.take(rows[:, None], device)
            state, attended, attention = network.attend(index, query, keys, there[:, None])
            if last:
                assert attention.weights is not None
                coefficients = attention.weights[:, 0]
                weights[rows] = coefficients.sum(-1).cpu().numpy()
                angles[rows] = (peak_angles_deg(coefficients) * there).cpu().numpy()
                images[rows] = network.decode(state, attended)[:, 0].cpu().numpy()
                give_back(images)
            else:
                after.put(rows, ImageState(*(part[:, 0] for part in state)))
            for part in (before, after, offers):
                part.give_back()
            done += len(rows)
            progress(index, done)
        before = after
    return GraphResult(images, weights, angles)
