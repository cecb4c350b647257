"""Joint denoising of a whole stack: each particle attends to neighbours of its own.

The network's stages run one after another over the stack (encode, each round of attention, decode),
so a particle that is a neighbour of many is computed once. Between stages the features lie in files, which
the system keeps in memory as far as it can, and from which an interrupted run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import gather, give_back
from ..models import ImageState, Offer, PolarTransformer
from ..neighbours import NOBODY, StackViews
from ..polar import AngularSpectra, AttentionResult, peak_angles_deg
from ..stacks import ViewRecorder, Work

__all__ = ["GraphResult", "attend_graph", "encode_stack", "scratch_bytes"]

_ENCODED, _BATCH = 64, 32
# Images after which what is done is put on record.
_PART = 512


@dataclass(frozen=True)
class StackState:
    """What the network knows of every image of a stack before a round, in files.

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
    def before(cls, index: int, network: PolarTransformer, count: int, work: Work) -> StackState:
        """Files for ``count`` images before round ``index``."""
        box, (channels, *grid) = network.box, network.feature_shape(index)
        half = np.float16
        return cls(
            work.array("observed", half, (count, 2, box, box)),
            work.array("coarse", half, (count, 2, box // 2, box // 2)),
            work.array(f"polar-{index}", half, (count, 2, *grid)),
            work.array(f"features-{index}", half, (count, channels, *grid)),
            work.array("passed", np.float32, (count, network.bands.count)),
            work.array(f"centre-{index}", np.float32, (count, 2)),
        )

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All fields."""
        return [getattr(self, field.name) for field in fields(self)]

    def take(self, rows: NDArray[np.int64], device: torch.device) -> ImageState:
        """State of some images; its leading shape is that of the rows."""
        arrays = (torch.from_numpy(gather(getattr(self, f.name), rows)) for f in fields(self))
        return ImageState(*(array.to(device).float() for array in arrays))

    def put(self, rows: slice | NDArray[np.int64], state: ImageState, *, changed: bool = False) -> None:
        """Keep the state of some images, or what a round has changed of it."""
        for name in ("polar", "features", "centre") if changed else state._fields:
            getattr(self, name)[rows] = _storable(getattr(state, name))


def _storable(values: Tensor) -> NDArray[np.float32]:
    """Bounded by what half precision holds: images that are nearly all signal lie beyond."""
    largest = torch.finfo(torch.float16).max
    return values.float().clamp(-largest, largest).cpu().numpy()


@dataclass(frozen=True)
class _StackOffer:
    """What every image of a stack offers in a round: spectra in half precision, as pairs of real numbers."""

    key: NDArray[np.float16]
    value: NDArray[np.float16]
    passed: NDArray[np.float32]

    @classmethod
    def of(cls, state: StackState, index: int, network: PolarTransformer, work: Work) -> _StackOffer:
        """Files for round ``index``."""
        passed = state.passed
        key, value = (
            work.array(f"{name}-{index}", np.float16, (len(passed), *shape, 2))
            for name, shape in zip(("keys", "values"), network.offer_shapes(index), strict=True)
        )
        return cls(key, value, passed)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """Those that a round writes."""
        return [self.key, self.value]

    def take(self, rows: NDArray[np.int64], device: torch.device) -> Offer:
        """Offers of images (s, k)."""

        def spectra(file: NDArray[np.float16]) -> Tensor:
            parts = torch.from_numpy(gather(file, rows)).to(device).float()
            return torch.view_as_complex(parts).transpose(1, 2)

        passed = torch.from_numpy(self.passed[rows]).to(device)
        return Offer(AngularSpectra(spectra(self.key), spectra(self.value)), passed)

    def put(self, rows: NDArray[np.int64], offer: Offer) -> None:
        """Keep the offers of some images, taken as one set."""
        for file, spectra in zip((self.key, self.value), offer.spectra, strict=True):
            file[rows] = _storable(torch.view_as_real(spectra[0].transpose(0, 1)))


@dataclass(frozen=True)
class GraphResult:
    """A stack after joint denoising.

    Attributes
    ----------
    images : ndarray, shape (n, y, x), float32
        In a file of the run's, in the stack's order.
    weights : ndarray, shape (n, k)
        Weight of each neighbour in the last round, zero for an empty place.
    angles_deg : ndarray, shape (n, k)
        How far each neighbour must be turned, from x towards y, to lie upon the particle.
    centre : ndarray, shape (n, 2)
        Where each particle was found in the end, (x, y) in pixels from the centre of the box.
    """

    images: NDArray[np.float32]
    weights: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    centre: NDArray[np.float32]

    @classmethod
    def empty(
        cls, network: PolarTransformer, table: tuple[int, ...], work: Work, name: str = ""
    ) -> GraphResult:
        """Files for a table (n, k), whose names begin with that of the pass."""
        return cls(
            work.array(f"{name}images", np.float32, (table[0], network.box, network.box)),
            work.array(f"{name}weights", np.float32, table),
            work.array(f"{name}angles", np.float32, table),
            work.array(f"{name}centre", np.float32, (table[0], 2)),
        )

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """All fields."""
        return [self.images, self.weights, self.angles_deg, self.centre]

    def put(
        self,
        rows: NDArray[np.int64],
        images: Tensor,
        centre: Tensor,
        attention: AttentionResult,
        there: Tensor,
    ) -> None:
        """Keep images (b, 1, y, x), and what the last round says of the neighbours that are there (b, k)."""
        assert attention.weights is not None
        coefficients = attention.weights[:, 0]
        self.images[rows] = images[:, 0].cpu().numpy()
        self.centre[rows] = centre[:, 0].cpu().numpy()
        self.weights[rows] = coefficients.sum(-1).cpu().numpy()
        self.angles_deg[rows] = (peak_angles_deg(coefficients) * there).cpu().numpy()


def scratch_bytes(network: PolarTransformer, count: int, neighbours: int, *, twice: bool = False) -> int:
    """Room on disk that `encode_stack` and `attend_graph`, once or twice, take for so many images at most."""
    box, rounds = network.box, len(network.rounds)

    def state(index: int) -> int:
        channels, radii, angles = network.feature_shape(index)
        return 2 * (2 + channels) * radii * angles + 2 * 4

    def round_(index: int) -> int:
        offer = sum(4 * math.prod(shape) for shape in network.offer_shapes(index))
        return state(index) + offer + (state(index + 1) if index < rounds - 1 else 0)

    always = 2 * (2 * box**2 + box**2 // 2) + 4 * network.bands.count
    result = 4 * box**2 + 2 * 4 * neighbours + 2 * 4
    if twice:
        always += state(0) + result + 4 * (box // 2 + 1)
    first = state(0) + ViewRecorder.bytes_per_image(network)
    return count * (always + max(first, *(result + round_(index) for index in range(rounds))))


@torch.inference_mode()
def encode_stack(
    network: PolarTransformer,
    look: Callable[[slice], tuple[Tensor, Tensor | None]],
    count: int,
    work: Work,
    progress: Callable[[int], None],
) -> StackViews:
    """Run the network's single-image part over a stack.

    Parameters
    ----------
    network : PolarTransformer
    look : callable
        Returns the normalised images (b, y, x) of some rows, and the magnitudes of their CTFs
        (b, y, x // 2 + 1) or None.
    count : int
        Images in all.
    work : Work
        Gets the features.
    progress : callable
        Called with the number of images done.
    """
    state = StackState.before(0, network, count, work)
    recorder = ViewRecorder(network, count, work)
    parts = [range(start, min(start + _PART, count)) for start in range(0, count, _PART)]
    for part in work.parts("encode", parts, *state.arrays, *recorder.views):
        for start in part[::_ENCODED]:
            rows = slice(start, min(start + _ENCODED, part.stop))
            images, ctf = look(rows)
            seen, codes = network.encode(images, ctf)
            state.put(rows, seen)
            recorder.put(rows, seen, ctf, codes)
            give_back(*state.arrays)
            progress(rows.stop)
    return recorder.views


@torch.inference_mode()
def attend_graph(
    network: PolarTransformer,
    neighbours: NDArray[np.int64],
    apart: NDArray[np.int64],
    work: Work,
    device: torch.device,
    progress: Callable[[int, int], None],
    *,
    name: str = "",
    again: bool = False,
) -> GraphResult:
    """Run the rounds of attention over a graph, and decode.

    In each round every image's offer to the others is made once and kept in a file, from which each image
    takes those of its neighbours. Half sets never share a batch: company may change the order of sums, and
    with it the last bits.

    Parameters
    ----------
    network : PolarTransformer
    neighbours : ndarray of int, shape (n, k)
        Rows, `NOBODY` in empty places.
    apart : ndarray of int, shape (n,)
        Half set of each particle; the images of one depend on no bit of another.
    work : Work
        In which `encode_stack` has left its features; they are used up, unless ``again`` says otherwise.
    device : torch.device
    progress : callable
        Called with (round, images done).
    name : str
        Of this pass over the stack, if there is more than one.
    again : bool
        Keep the features for another pass.
    """
    count, rounds = len(neighbours), len(network.rounds)
    batches = [
        rows
        for members in (np.flatnonzero(apart == half) for half in np.unique(apart))
        for rows in np.split(members, range(_BATCH, len(members), _BATCH))
    ]
    ends = np.cumsum([len(rows) for rows in batches]).tolist()
    size = max(1, _PART // _BATCH)
    # Batches, and how many images are done after each.
    parts = [
        list(zip(batches[start : start + size], ends[start : start + size], strict=True))
        for start in range(0, len(batches), size)
    ]
    result = GraphResult.empty(network, neighbours.shape, work, name)
    for index in range(rounds):
        stage = f"{name}round {index + 1}"
        if work.has(stage):
            continue
        before = StackState.before(index, network, count, work)
        offers = _StackOffer.of(before, index, network, work)
        for part in work.parts(f"{stage}: offers", parts, *offers.arrays):
            for rows, _ in part:
                offers.put(rows, network.offer(index, before.take(rows[None], device)))
                give_back(*before.arrays, *offers.arrays)
        after = None if index == rounds - 1 else StackState.before(index + 1, network, count, work)
        written = result.arrays if after is None else after.arrays
        for part in work.parts(stage, parts, *written):
            for rows, done in part:
                partners = neighbours[rows]
                there = torch.from_numpy(partners != NOBODY).to(device)
                # In an empty place lies, under the mask, the particle itself.
                keys = offers.take(np.where(partners == NOBODY, rows[:, None], partners), device)
                query = before.take(rows[:, None], device)
                state, attended, attention = network.attend(index, query, keys, there[:, None])
                if after is None:
                    result.put(rows, network.decode(state, attended), state.centre, attention, there)
                else:
                    after.put(rows, ImageState(*(part[:, 0] for part in state)), changed=True)
                give_back(*before.arrays, *offers.arrays, *written)
                progress(index, done)
        work.finish(stage)
        used = (
            ("keys", "values") if again and index == 0 else ("polar", "features", "centre", "keys", "values")
        )
        work.drop(*(f"{part}-{index}" for part in used))
    return result
