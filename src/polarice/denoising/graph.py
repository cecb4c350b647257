"""Joint denoising of a whole stack: each particle attends to neighbours of its own.

The network's stages run one after another over the stack (encode, each round of attention, decode),
so a particle that is a neighbour of many is computed once. Between stages the features lie in a
scratch file that the system keeps in memory as far as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from ..models import ImageState, PolarTransformer
from .denoiser import in_plane_angles_deg
from .neighbours import NOBODY

__all__ = ["EncodedStack", "GraphResult", "attend_graph", "encode_stack", "scratch_bytes"]

_BATCH = 64


@dataclass(frozen=True)
class EncodedStack:
    """A stack after the network's first look.

    Attributes
    ----------
    polar : ndarray, shape (n, 1, N, M), float16
    features : ndarray, shape (n, c, N, M), float16
        In a scratch file.
    embedding : ndarray, shape (n, e), float32
    """

    polar: NDArray[np.float16]
    features: NDArray[np.float16]
    embedding: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.embedding)


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
    grid, config = network.transform.grid, network.config
    values = grid.n_radii * grid.n_angles * (1 + config.rounds * config.widths[0])
    return count * (2 * values + 4 * config.box**2)


@torch.inference_mode()
def encode_stack(
    network: PolarTransformer,
    batches: Iterable[Tensor],
    count: int,
    scratch: Path,
    progress: Callable[[int], None],
) -> EncodedStack:
    """Run the network's single-image part over a stack.

    Parameters
    ----------
    network : PolarTransformer
    batches : iterable of Tensor, shape (b, y, x)
        Normalised images in the stack's order.
    count : int
        Images in all.
    scratch : Path
        An existing folder for the features.
    progress : callable
        Called with the number of images done.
    """
    grid, channels = network.transform.grid, network.config.widths[0]
    shape = (count, channels, grid.n_radii, grid.n_angles)
    features = np.memmap(scratch / "features-0", np.float16, "w+", shape=shape)
    polar = np.memmap(scratch / "polar", np.float16, "w+", shape=(count, 1, *shape[2:]))
    embedding = np.empty((count, network.config.embedding), np.float32)
    done = 0
    for images in batches:
        state, codes = network.encode(images)
        rows = slice(done, done + len(images))
        polar[rows] = state.polar.cpu().numpy()
        features[rows] = state.features.cpu().numpy()
        embedding[rows] = codes.cpu().numpy()
        done = rows.stop
        progress(done)
    return EncodedStack(polar, features, embedding)


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

    Particles that lie close in the embedding are taken together, because they share neighbours: each
    batch attends, under a mask, to the union of its neighbours. Half sets never share a batch: masked
    or not, company changes the order of sums, and with it the last bits.

    Parameters
    ----------
    network : PolarTransformer
    encoded : EncodedStack
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
    count, rounds, box = len(encoded), network.config.rounds, network.box
    images = np.memmap(scratch / "images", np.float32, "w+", shape=(count, box, box))
    weights, angles = (np.zeros(neighbours.shape, np.float32) for _ in range(2))
    batches = [
        batch
        for half in np.unique(apart)
        for batch in _neighbourly_batches(neighbours, np.flatnonzero(apart == half))
    ]
    features = encoded.features

    def states(rows: NDArray[np.int64]) -> ImageState:
        arrays = (torch.from_numpy(array[rows]) for array in (encoded.polar, features))
        return ImageState(*(array.to(device).float()[None] for array in arrays))

    for index in range(rounds):
        last = index == rounds - 1
        path = scratch / f"features-{index + 1}"
        after = features if last else np.memmap(path, np.float16, "w+", shape=features.shape)
        done = 0
        for rows in batches:
            partners = neighbours[rows]
            there = partners != NOBODY
            union, place = np.unique(partners[there], return_inverse=True)
            mask = np.zeros((1, len(rows), max(len(union), 1)), bool)
            mask[0, np.nonzero(there)[0], place] = True
            keys = states(union if len(union) else rows[:1])
            allowed = torch.from_numpy(mask).to(device)
            state, aligned, attention = network.attend(index, states(rows), keys, allowed)
            if last:
                assert attention.weights is not None
                coefficients = attention.weights[0, np.nonzero(there)[0], place]
                block_weights, block_angles = (np.zeros(partners.shape, np.float32) for _ in range(2))
                block_weights[there] = coefficients.sum(-1).cpu().numpy()
                block_angles[there] = in_plane_angles_deg(coefficients).cpu().numpy()
                weights[rows], angles[rows] = block_weights, block_angles
                images[rows] = network.decode(state, aligned)[0].cpu().numpy()
            else:
                after[rows] = state.features[0].cpu().numpy()
            done += len(rows)
            progress(index, done)
        features = after
    return GraphResult(images, weights, angles)


def _neighbourly_batches(
    neighbours: NDArray[np.int64], members: NDArray[np.int64]
) -> list[NDArray[np.int64]]:
    """Some rows in batches, in an order in which those that share neighbours follow each other."""
    count = len(neighbours)
    places = np.nonzero(neighbours[members] != NOBODY)
    links = (members[places[0]], neighbours[members][places])
    graph = scipy.sparse.csr_matrix((np.ones(len(links[0]), np.float32), links), shape=(count, count))
    graph = graph[members][:, members]
    order = reverse_cuthill_mckee((graph + graph.T).tocsr(), symmetric_mode=True)
    return [members[order[start : start + _BATCH]] for start in range(0, len(members), _BATCH)]
