from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from polarice.denoising import (
    DenoiseSettings,
    GraphResult,
    agreement_columns,
    denoise_stack,
    measure_agreement,
    parts_of,
)
from polarice.errors import ModelError
from polarice.imaging import fourier_ring_correlation, move_images, soft_disc, turn_matrices
from polarice.neighbours import NOBODY
from polarice.particles import ParticleStack
from polarice.simulation import SimulationResult
from polarice.stacks import Work

BOX = 32


def graph(images: torch.Tensor, weights: NDArray[np.float32], angles: NDArray[np.float32]) -> GraphResult:
    centre = np.zeros((len(images), 2), np.float32)
    return GraphResult(images.numpy(), weights, angles, centre)


def test_parts_divide_each_half_set() -> None:
    halves = np.repeat([0, 1], [31, 20])
    parts = parts_of(halves)
    for half in (0, 1):
        assert abs(2 * parts[halves == half].sum() - (halves == half).sum()) <= 1
    np.testing.assert_array_equal(parts, parts_of(halves))


def test_turned_and_moved_copies_agree_and_noise_does_not(tmp_path: Path) -> None:
    """Two particles: one has its picture in the other part, turned and off the centre, the other noise."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randn(1, 8, 8, generator=generator)
    picture = torch.nn.functional.interpolate(picture[None], BOX, mode="bicubic")[0] * soft_disc(BOX, 11, 4)
    # Turned by 40 degrees from x towards y, then moved to (2, −1).
    moved = torch.tensor([[2.0, -1.0]])
    back = turn_matrices(-torch.deg2rad(torch.tensor([40.0])))
    copy = move_images(picture, back, -(back @ moved[..., None])[..., 0])
    noise = torch.randn(1, BOX, BOX, generator=generator)
    images = torch.cat([picture, copy, noise])
    # Nobody's neighbour counts for nothing, and one of the own part is not asked.
    neighbours = np.array([[1, 2, NOBODY], [NOBODY] * 3, [1, NOBODY, NOBODY]])
    weights = np.where(neighbours == NOBODY, 0, 0.5).astype(np.float32)
    angles = np.array([[-40, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    apart = graph(images, weights, angles)
    apart.centre[1] = moved[0].numpy()
    with Work(tmp_path / "work") as work:
        agreement = measure_agreement(
            apart,
            apart,
            neighbours,
            np.array([0, 1, 0]),
            lambda rows: torch.ones(1, BOX, BOX),
            work,
            lambda done: None,
        )
    assert (agreement[0, :8] > 0.98).all()
    assert not agreement[1].any()
    expected = fourier_ring_correlation(noise, move_images(copy, torch.eye(2)[None], moved), pooled=False)
    np.testing.assert_allclose(agreement[2], expected[0], atol=1e-3)


def test_columns() -> None:
    agreement = np.zeros((2, 17), np.float32)
    agreement[0, :9] = 1
    columns = agreement_columns(agreement, 64.0)
    np.testing.assert_allclose(columns["polariceAgreement"], [1, 0])
    # Half way between ring 8 and ring 9; nothing agrees: no finer than the box.
    np.testing.assert_allclose(columns["polariceAgreementResolution"], [64 / 8.5, 64])


def test_a_run_writes_agreement_and_changes_nothing_else(
    example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    settings = DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", mixed_precision=False)
    plain = denoise_stack(example_stack.particles, tmp_path / "plain", settings)
    twice = denoise_stack(example_stack.particles, tmp_path / "twice", replace(settings, agreement=True))
    assert (tmp_path / "plain" / "denoised.mrcs").read_bytes() == (
        tmp_path / "twice" / "denoised.mrcs"
    ).read_bytes()
    assert plain.agreement is None
    assert twice.agreement is not None
    stack = ParticleStack.open(twice.star)
    columns = agreement_columns(twice.agreement, stack.box * stack.pixel_size_A)
    for name, values in columns.items():
        np.testing.assert_allclose(stack.numeric(name), values, rtol=1e-5, atol=1e-6)
    with np.load(tmp_path / "twice" / "neighbours.npz") as arrays:
        np.testing.assert_array_equal(arrays["agreement"], twice.agreement)


class Stopped(BaseException):
    """As an interrupt is."""


@pytest.mark.parametrize("at", ["attend again (1 of 3)", "attend again (3 of 3)", "compare two estimates"])
def test_a_run_stopped_in_the_second_pass_goes_on(
    at: str, example_stack: SimulationResult, joint_weights: Path, tmp_path: Path
) -> None:
    settings = DenoiseSettings(
        model=str(joint_weights), neighbours=4, device="cpu", mixed_precision=False, agreement=True
    )

    def stop(stage: str, done: int, total: int) -> None:
        if stage == at:
            raise Stopped

    whole = denoise_stack(example_stack.particles, tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        denoise_stack(example_stack.particles, tmp_path / "out", settings, progress=stop)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".unfinished"]
    again = denoise_stack(example_stack.particles, tmp_path / "out", settings, resume=True)
    assert again.star.read_bytes() == whole.star.read_bytes()
    assert again.agreement is not None
    np.testing.assert_array_equal(again.agreement, whole.agreement)


def test_the_other_part_is_not_looked_at(
    example_stack: SimulationResult, joint_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second pass nobody has a neighbour of the other part, nor of the other half set."""
    from polarice.denoising import run

    tables = []

    def spy(network: object, neighbours: NDArray[np.int64], *rest: object, **more: object) -> GraphResult:
        tables.append(neighbours)
        return attend(network, neighbours, *rest, **more)  # type: ignore[arg-type]

    attend = run.attend_graph
    monkeypatch.setattr(run, "attend_graph", spy)
    settings = DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", agreement=True)
    denoise_stack(example_stack.particles, tmp_path, settings)
    together, apart = tables
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    parts = parts_of(halves - 1)
    rows = np.arange(len(halves))
    there = apart != NOBODY
    assert (apart[there] == together[there]).all()
    asked = np.broadcast_to(rows[:, None], apart.shape)
    assert (parts[apart[there]] == parts[asked[there]]).all()
    left_out = (together != NOBODY) & ~there
    assert (parts[together[left_out]] != parts[asked[left_out]]).all()


def test_single_images_have_no_neighbours_to_agree(
    example_stack: SimulationResult, single_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no neighbours that could agree"):
        denoise_stack(
            example_stack.particles, tmp_path, DenoiseSettings(model=str(single_weights), agreement=True)
        )
