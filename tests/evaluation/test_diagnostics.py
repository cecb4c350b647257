import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import random_rotations
from polarice.denoising import SetDenoiser, SetResult
from polarice.errors import OutputError, PolariceError
from polarice.evaluation import (
    DiagnosticSettings,
    angle_error_deg,
    attention_table,
    benchmark_attention,
    class_average_angles_deg,
    correlation_angles_deg,
    diagnose_attention,
    rotation_self_similarity,
    true_angles_deg,
)
from polarice.evaluation.diagnostics import _sets
from polarice.models import PolarTransformer
from polarice.simulation import StructureBank, example_structure

SMALL = DiagnosticSettings(
    snrs=(0.1, 10.0), pairs=3, sets=1, set_size=4, class_set_size=4, views=(2,), cutoffs=(4.0, 8.0)
)


@pytest.fixture(scope="module")
def bank() -> StructureBank:
    whole = example_structure()
    half = replace(
        whole, name="half", coordinates_A=whole.coordinates_A[::2], atomic_numbers=whole.atomic_numbers[::2]
    )
    return StructureBank.from_structures([whole, half])


def blobs(points: Tensor, turns_deg: Tensor, box: int = 64) -> Tensor:
    """Gaussians at points (n, 2) = (x, y), turned from x towards y about the origin."""
    turn = torch.deg2rad(turns_deg)
    matrix = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).view(-1, 1, 2, 2)
    x, y = (matrix @ points[..., None])[..., 0].unbind(-1)
    axis = torch.arange(box) - box // 2
    columns = torch.exp(-((axis - x[..., None]) ** 2) / 8)
    rows = torch.exp(-((axis - y[..., None]) ** 2) / 8)
    return torch.einsum("bny,bnx->byx", rows, columns)


POINTS = torch.tensor([[9.0, 0.0], [-3.0, 7.0], [-12.0, -6.0], [2.0, -14.0]])


def test_true_angles_turn_one_image_upon_the_other(generator: torch.Generator) -> None:
    base = random_rotations(1, generator)
    turn = torch.tensor([10.0, -80.0, 175.0])
    a = torch.deg2rad(turn)
    zero, one = torch.zeros(3), torch.ones(3)
    about_z = torch.stack([a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero, zero, zero, one], -1)
    rotations = about_z.view(3, 3, 3) @ base
    angles = true_angles_deg(rotations)
    atom = torch.tensor([1.0, 2.0, 3.0])
    seen = torch.view_as_complex((rotations @ atom)[:, :2].contiguous())
    upon = seen[None, :] * torch.polar(torch.ones(3, 3), torch.deg2rad(angles))
    torch.testing.assert_close(upon, seen[:, None].expand(3, 3))
    assert float(angles[0, 2]) == pytest.approx(-165, abs=1e-3)
    assert float(angles[2, 1]) == pytest.approx(-105, abs=1e-3)


def test_angle_errors_go_round_the_circle() -> None:
    found, true = torch.tensor([179.0, -10.0, 0.0, 350.0]), torch.tensor([-179.0, 10.0, 180.0, -10.0])
    assert angle_error_deg(found, true).tolist() == [2, 20, 180, 0]


def test_classical_alignments_find_known_turns(generator: torch.Generator) -> None:
    turns = torch.tensor([0.0, 33.3, -71.2, 160.0, 95.5])
    images = blobs(POINTS, turns)[None]
    true = (turns[:, None] - turns)[None]
    assert float(angle_error_deg(correlation_angles_deg(images, 8.0), true).max()) < 0.2
    noisy = 10 * images + torch.randn(images.shape, generator=generator)
    assert float(angle_error_deg(correlation_angles_deg(noisy, 8.0), true).max()) < 1
    assert float(angle_error_deg(class_average_angles_deg(noisy), true).max()) < 1.5


def test_views_that_a_turn_does_not_change() -> None:
    twofold = blobs(torch.cat([POINTS, -POINTS]), torch.zeros(1))
    assert float(rotation_self_similarity(twofold)) > 0.99
    threefold = sum(blobs(POINTS, torch.tensor([turn])) for turn in (0.0, 120.0, 240.0))
    assert float(rotation_self_similarity(threefold)) > 0.99
    assert float(rotation_self_similarity(blobs(POINTS, torch.zeros(1)))) < 0.6


def test_sets_differ_between_ratios_in_the_strength_of_the_signal_alone(bank: StructureBank) -> None:
    faint, clear = (_sets(bank.subset([0]), 32, 2, 6, 3, snr, (0, 0)) for snr in (0.1, 10.0))
    assert torch.equal(faint.rotations, clear.rotations)
    torch.testing.assert_close(10 * faint.clean, clear.clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        faint.noisy[..., 16, 16] - faint.clean[..., 16, 16],
        clear.noisy[..., 16, 16] - clear.clean[..., 16, 16],
        rtol=0,
        atol=1e-4,
    )
    view = clear.rotations[:, :, 2]
    torch.testing.assert_close(view[:, ::2], view[:, 1::2])
    assert float((view[:, 0] - view[:, 2]).abs().max()) > 0.1


def test_a_pair_shows_the_view_of_the_larger_set_at_its_place(bank: StructureBank) -> None:
    pairs, sets = (_sets(bank.subset([0]), 32, 2, size, 1, 1.0, (0, 0)) for size in (2, 4))
    torch.testing.assert_close(pairs.rotations[:, 0, 2], sets.rotations[:, 0, 2])
    assert float((pairs.rotations[0, 0, 2] - pairs.rotations[1, 0, 2]).abs().max()) > 0.1


class Correlator(SetDenoiser):
    """Attends by correlation: all weight at the best angle, half of it to the next image."""

    def __init__(self) -> None:
        self.box = 32

    def __call__(self, images: Tensor, mask: Tensor | None = None, ctf: Tensor | None = None) -> SetResult:
        size = images.shape[1]
        angles = correlation_angles_deg(images, 8.0)
        attention = torch.nn.functional.one_hot((angles * 96 / 360).round().long() % 96, 96).float()
        # Images of two views, one after the other: attend to the own half.
        half = torch.arange(size) // max(size // 2, 1)
        weights = (half[:, None] == half).float().expand(len(images), -1, -1)
        return SetResult(images, weights, angles, attention, torch.ones(images.shape[:2]))


def test_what_a_known_alignment_gives(bank: StructureBank) -> None:
    found = diagnose_attention(bank, Correlator(), SMALL)
    errors = found.figures["angle_error_deg"]
    clear = errors["pair"]["10"]
    assert clear["median"] < 2
    assert clear["within_10_deg"] == 1
    assert clear["pairs"] == 2 * 3
    assert errors["set"]["10"]["pairs"] == 2 * 6
    assert errors["pair"]["0.1"]["median"] >= errors["correlation"]["0.1"]["median"]
    for by_snr in errors.values():
        for row in by_snr.values():
            assert row["low"] <= row["median"] <= row["high"]
            assert row["lower_quartile"] <= row["median"] <= row["upper_quartile"]
    # All attention lies about the truth, which is in the middle.
    middle = found.profiles[10.0][:, 48 - 2 : 48 + 3].sum(-1)
    np.testing.assert_allclose(middle, 1)
    classes = found.figures["classes"]["2"]["0.1"]
    assert classes["adjusted_rand_index"] == {"mean": 1, "low": 1, "high": 1}
    assert classes["chance_share"] == pytest.approx(1 / 3)
    assert found.pairs[0.1].shape == (2, 32, 32)


def test_views_that_do_not_divide_the_set_are_refused() -> None:
    with pytest.raises(PolariceError, match="equal shares"):
        DiagnosticSettings(class_set_size=16, views=(3,))


def test_benchmark_writes_figures_tables_and_pictures(
    bank: StructureBank, tiny_network: PolarTransformer, tmp_path: Path
) -> None:
    stages: list[tuple[str, int, int]] = []
    out = tmp_path / "attention"
    figures = benchmark_attention(
        bank, out, model=tiny_network, settings=SMALL, progress=lambda *step: stages.append(step)
    )
    assert stages == [("attention", 1, 2), ("attention", 2, 2)]
    assert json.loads((out / "attention.json").read_text()) == figures
    assert (out / "attention.md").read_text() == attention_table(figures)
    for picture in out.glob("*.png"):
        assert matplotlib.image.imread(picture).std() > 0.01
    assert len(list(out.iterdir())) == 6 == len(figures["files"])
    assert all(math.isfinite(row["median"]) for row in figures["angle_error_deg"]["pair"].values())
    with pytest.raises(OutputError, match="not empty"):
        benchmark_attention(bank, out, model=tiny_network, settings=SMALL)
    with pytest.raises(PolariceError, match="has 2 structures"):
        benchmark_attention(bank, tmp_path / "other", model=tiny_network, structures=3)
