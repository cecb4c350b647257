from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from polarice.denoising import GraphResult, SetDenoiser, attend_graph, encode_stack, graph
from polarice.models import ImageState, Offer, PolarTransformer
from polarice.neighbours import NOBODY
from polarice.polar import AngularSpectra
from polarice.stacks import ViewRecorder, Work

CPU = torch.device("cpu")
K = 6


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Twelve noisy images of three kinds, so that some neighbours matter more than others."""
    generator = torch.Generator().manual_seed(1)
    kinds = torch.nn.functional.interpolate(torch.randn(3, 1, 8, 8, generator=generator), 32)[:, 0]
    return (kinds.repeat(4, 1, 1) + torch.randn(12, 32, 32, generator=generator)).contiguous()


def told(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images, and the CTF of each."""
    ctf = torch.linspace(0.5, 1, 32 * 17).reshape(32, 17)
    return images, ctf.expand(len(images), -1, -1)


def run(
    network: PolarTransformer,
    images: Tensor,
    neighbours: NDArray[np.int64],
    folder: Path,
    apart: NDArray[np.int64] | None = None,
) -> GraphResult:
    if apart is None:
        apart = np.zeros(len(images), np.int64)
    with Work(folder / "work") as work:
        encode_stack(network, lambda rows: told(images[rows]), len(images), work, lambda done: None)
        result = attend_graph(network, neighbours, apart, work, CPU, lambda index, done: None)
        found = GraphResult(*map(np.array, result.arrays))
        work.remove()
    return found


def complete(sets: int, size: int) -> NDArray[np.int64]:
    """Table in which each particle has all others of its set."""
    return np.array(
        [[s * size + j for j in range(size) if j != i] for s in range(sets) for i in range(size)], np.int64
    )


def relative_error(found: NDArray[np.float32], true: NDArray[np.float32]) -> float:
    return float(np.square(found - true).sum() / np.square(true).sum())


def test_complete_graphs_are_sets(tiny_network: PolarTransformer, images: Tensor, tmp_path: Path) -> None:
    """Two sets of six: as the network does them, but for storage in 16 bits after each round."""
    result = run(tiny_network, images, complete(2, K), tmp_path)
    ctf = told(images)[1].unflatten(0, (2, K))
    sets = SetDenoiser(tiny_network, "cpu")(images.unflatten(0, (2, K)), None, ctf)
    assert relative_error(result.images, sets.images.flatten(0, 1).numpy()) < 1e-5
    others = ~torch.eye(K, dtype=torch.bool).expand(2, -1, -1)
    weights = sets.weights[others].reshape(12, K - 1).numpy()
    angles = sets.angles_deg[others].reshape(12, K - 1).numpy()
    np.testing.assert_allclose(result.weights, weights, atol=5e-3)
    np.testing.assert_allclose(result.weights.sum(1), sets.confidence.flatten().numpy(), atol=5e-3)
    # Where the highest of many almost equal coefficients lies may change; where one counts, it may not.
    counts = weights > 0.05
    assert counts.sum() >= 12
    difference = (result.angles_deg - angles + 180) % 360 - 180
    assert np.abs(difference[counts]).max() < 1


def in_half(state: ImageState) -> ImageState:
    """What is left of a state after it has been stored."""
    stored = {
        name: getattr(state, name).half().float() for name in ("observed", "coarse", "polar", "features")
    }
    return state._replace(**stored)


def offer_in_half(offer: Offer) -> Offer:
    """What is left of an offer after it has been stored."""
    spectra = (torch.view_as_complex(torch.view_as_real(x).half().float()) for x in offer.spectra)
    return offer._replace(spectra=AngularSpectra(*spectra))


def test_nothing_but_storage_differs(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same stages in memory, rounded to 16 bits at the same places."""
    stored = images[:K]
    with torch.inference_mode():
        state = in_half(ImageState(*(p[None] for p in tiny_network.encode(*told(stored))[0])))
        table = torch.from_numpy(complete(1, K))
        for index in range(3):
            offer = offer_in_half(tiny_network.offer(index, state))
            # A query of one for each image, whose keys are the others.
            spectra = AngularSpectra(*(x[0].transpose(0, 1)[table].transpose(1, 2) for x in offer.spectra))
            keys = Offer(spectra, offer.passed[0][table])
            query = ImageState(*(part[0][:, None] for part in state))
            state, attended, attention = tiny_network.attend(index, query, keys, None)
            if index < 2:
                state = in_half(ImageState(*(part[:, 0][None] for part in state)))
        expected = tiny_network.decode(state, attended)[:, 0].numpy()
    assert attention.weights is not None
    for batch in (64, 4, 1):
        monkeypatch.setattr(graph, "_BATCH", batch)
        result = run(tiny_network, stored, complete(1, K), tmp_path)
        assert relative_error(result.images, expected) < 1e-8


def test_a_particle_without_neighbours_is_denoised_alone(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path
) -> None:
    table = complete(2, K)
    table[4] = NOBODY
    table[7, 1:] = NOBODY
    result = run(tiny_network, images, table, tmp_path)
    image, ctf = told(images[4:5])
    alone = SetDenoiser(tiny_network, "cpu")(image[None], None, ctf[None]).images[0, 0].numpy()
    assert relative_error(result.images[4], alone) < 1e-5
    assert not result.weights[4].any()
    assert not result.angles_deg[4].any()
    assert result.weights[7, 0] > 0
    assert not result.weights[7, 1:].any()
    # Nobody has anybody: the whole batch.
    lonely = run(tiny_network, images, np.full((12, 3), NOBODY), tmp_path)
    assert relative_error(lonely.images[4], alone) < 1e-5
    assert not lonely.weights.any()


def test_what_half_precision_cannot_hold_stays_finite(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path
) -> None:
    """Images without noise are thousands of its standard deviations bright."""
    result = run(tiny_network, 3e4 * images, complete(2, K), tmp_path)
    for part in (result.images, result.weights, result.angles_deg):
        assert np.isfinite(part).all()


def test_a_stack_may_come_in_any_order(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permute the particles: the result is permuted with them, whatever batches they come in."""
    rng = np.random.default_rng(0)
    table = np.array([rng.choice(np.delete(np.arange(12), i), 4, replace=False) for i in range(12)])
    table[3, 2:] = NOBODY
    before = run(tiny_network, images, table, tmp_path)
    order = rng.permutation(12)
    place = np.argsort(order)
    moved = np.where(table[order] == NOBODY, NOBODY, place[table[order]])
    monkeypatch.setattr(graph, "_BATCH", 5)
    monkeypatch.setattr(graph, "_ENCODED", 7)
    after = run(tiny_network, images[order], moved, tmp_path)
    assert relative_error(after.images, before.images[order]) < 1e-6
    np.testing.assert_allclose(after.weights, before.weights[order], atol=2e-3)


def test_half_sets_share_no_bit(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other images and other neighbours in one half change nothing in the other."""
    monkeypatch.setattr(graph, "_BATCH", 5)
    halves = np.array([0, 1] * 6)
    rng = np.random.default_rng(0)

    def table(seed: int) -> NDArray[np.int64]:
        rng = np.random.default_rng(seed)
        others = [np.flatnonzero((halves == halves[i]) & (np.arange(12) != i)) for i in range(12)]
        return np.array([rng.choice(other, 4, replace=False) for other in others])

    changed, tables = images.clone(), (table(0), table(1))
    changed[1::2] = torch.from_numpy(rng.normal(0, 3, (6, 32, 32)).astype(np.float32))
    tables[1][0::2] = tables[0][0::2]
    before = run(tiny_network, images, tables[0], tmp_path, halves)
    after = run(tiny_network, changed, tables[1], tmp_path, halves)
    for name in ("images", "weights", "angles_deg"):
        np.testing.assert_array_equal(getattr(after, name)[0::2], getattr(before, name)[0::2])
        assert not np.array_equal(getattr(after, name)[1::2], getattr(before, name)[1::2])


def test_progress_and_room(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "_BATCH", 5)
    monkeypatch.setattr(graph, "_ENCODED", 5)
    encoding: list[int] = []
    rounds: list[tuple[int, int]] = []
    used: list[int] = []

    def look_around(index: int, done: int) -> None:
        rounds.append((index, done))
        used.append(
            sum(
                file.stat().st_size
                for file in tmp_path.iterdir()
                if file.suffix != ".npz" and "journal" not in file.name
            )
        )

    with Work(tmp_path) as work:
        views = encode_stack(tiny_network, lambda rows: told(images[rows]), 12, work, encoding.append)
        assert encoding == [5, 10, 12]
        np.testing.assert_allclose(np.linalg.norm(views.embedding, axis=1), 1, rtol=1e-5)
        halves = np.array([0] * 6 + [1] * 6)
        work.drop(*ViewRecorder.files)
        attend_graph(tiny_network, complete(2, K), halves, work, CPU, look_around)
    # Batches of five and one in each half, in each of three rounds.
    assert rounds == [(i, done) for i in (0, 1, 2) for done in (5, 6, 11, 12)]
    assert graph.scratch_bytes(tiny_network, 12, K - 1) == max(used)


class Killed(Exception):
    """The end of a run at any moment."""


def test_a_run_goes_on_where_it_was_interrupted(
    tiny_network: PolarTransformer, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted at every part of every stage, once only or again and again: bit for bit the same."""
    monkeypatch.setattr(graph, "_BATCH", 2)
    monkeypatch.setattr(graph, "_ENCODED", 2)
    monkeypatch.setattr(graph, "_PART", 4)
    halves = np.array([0] * 7 + [1] * 5)
    rng = np.random.default_rng(0)
    others = [np.flatnonzero((halves == halves[i]) & (np.arange(12) != i)) for i in range(12)]
    table = np.array([rng.choice(other, 4, replace=False) for other in others])
    looked: list[int] = []

    def attempt(folder: Path, calls: int) -> GraphResult:
        """A run that is interrupted after so many calls of its progress."""
        left = calls

        def count(*_: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Killed

        def look(rows: slice) -> tuple[Tensor, Tensor]:
            looked.append(rows.start)
            return told(images[rows])

        with Work(folder) as work:
            if not work.has("encoded"):
                encode_stack(tiny_network, look, 12, work, count)
                work.finish("encoded")
            result = attend_graph(tiny_network, table, halves, work, CPU, count)
            return GraphResult(*map(np.array, result.arrays))

    whole = attempt(tmp_path / "whole", 0)
    assert looked == [0, 2, 4, 6, 8, 10]
    # Six batches to encode, and seven in each of three rounds.
    for calls in range(1, 28):
        folder = tmp_path / str(calls)
        with pytest.raises(Killed):
            attempt(folder, calls)
        if calls == 5:
            looked.clear()
        again = attempt(folder, 0)
        if calls == 5:
            assert looked == [8, 10]
        for found, expected in zip(again.arrays, whole.arrays, strict=True):
            np.testing.assert_array_equal(found, expected)
    # A part is four images, two or three batches: a run that ends at every fourth batch comes through.
    for _ in range(100):
        try:
            again = attempt(tmp_path / "often", 4)
            break
        except Killed:
            continue
    for found, expected in zip(again.arrays, whole.arrays, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu(tiny_network: PolarTransformer, images: Tensor, tmp_path: Path) -> None:
    here = run(tiny_network, images, complete(2, K), tmp_path)
    device = torch.device("cuda")
    network = tiny_network.to(device)
    try:
        apart = np.zeros(12, np.int64)
        with Work(tmp_path / "there") as work:

            def look(rows: slice) -> tuple[Tensor, Tensor]:
                seen, ctf = told(images[rows])
                return seen.to(device), ctf.to(device)

            encode_stack(network, look, 12, work, lambda done: None)
            there = attend_graph(network, complete(2, K), apart, work, device, lambda index, done: None)
    finally:
        tiny_network.to(CPU)
    assert relative_error(there.images, here.images) < 1e-4
