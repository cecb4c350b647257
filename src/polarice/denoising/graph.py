"""Joint denoising of a whole stack: each particle attends to neighbours of its own.

The network's stages run one after another over the stack (encode, each round of attention, decode),
so a particle that is a neighbour of many is computed once. Between stages the features lie in a
scratch file that the system keeps in memory as far as it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..models import ImageState, PolarTransformer
from .denoiser import in_plane_angles_deg
from .neighbours import NOBODY

__all__ = ["EncodedStack", "GraphBatch", "attend_graph", "encode_stack"]

_BATCH = 32


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
class GraphBatch:
    """Some particles after joint denoising.

    Attributes
    ----------
    rows : ndarray of int, shape (b,)
    images : Tensor, shape (b, y, x)
    weights : ndarray, shape (b, k)
        Weight of each neighbour in the last round, zero for an empty place.
    angles_deg : ndarray, shape (b, k)
        How far each neighbour must be turned, from x towards y, to lie upon the particle.
    """

    rows: NDArray[np.int64]
    images: Tensor
    weights: NDArray[np.float32]
    angles_deg: NDArray[np.float32]


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
    scratch: Path,
    device: torch.device,
    progress: Callable[[int, int], None],
) -> Iterator[GraphBatch]:
    """Run the rounds of attention over a graph, and decode.

    Parameters
    ----------
    network : PolarTransformer
    encoded : EncodedStack
    neighbours : ndarray of int, shape (n, k)
        Rows, `NOBODY` in empty places.
    scratch : Path
        The folder of `encode_stack`.
    device : torch.device
    progress : callable
        Called with (round, images done).

    Yields
    ------
    GraphBatch
        In the stack's order.
    """
    features = encoded.features
    rounds = network.config.rounds

    def states(rows: NDArray[np.int64]) -> ImageState:
        shape = rows.shape
        parts = (torch.from_numpy(array[rows.ravel()]) for array in (encoded.polar, features))
        return ImageState(*(part.to(device).float().unflatten(0, shape) for part in parts))

    for index in range(rounds):
        last = index == rounds - 1
        if not last:
            path = scratch / f"features-{index + 1}"
            after = np.memmap(path, np.float16, "w+", shape=features.shape)
        for start in range(0, len(encoded), _BATCH):
            rows = np.arange(start, min(start + _BATCH, len(encoded)))
            partners = neighbours[rows]
            mask = torch.from_numpy(partners != NOBODY).to(device)[:, None]
            keys = states(np.where(partners == NOBODY, 0, partners))
            state, aligned, attention = network.attend(index, states(rows[:, None]), keys, mask)
            if last:
                assert attention.weights is not None
                coefficients = attention.weights[:, 0]
                yield GraphBatch(
                    rows,
                    network.decode(state, aligned)[:, 0],
                    coefficients.sum(-1).cpu().numpy(),
                    in_plane_angles_deg(coefficients).cpu().numpy(),
                )
            else:
                after[rows] = state.features[:, 0].cpu().numpy()
            progress(index, int(rows[-1]) + 1)
        if not last:
            features = after
