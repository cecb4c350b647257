"""Guards say what is so of networks whose faults are known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from polarice.denoising import DenoiseSettings, pipeline
from polarice.errors import PolariceError
from polarice.evaluation import GuardSettings, guard_report, guard_stack
from polarice.evaluation.guards import evenly, run
from polarice.evaluation.guards.checks import RingSums, beyond_shell, shell_for
from polarice.evaluation.guards.planted import foreign_structure, places_for
from polarice.evaluation.guards.sample import Sample
from polarice.imaging import filter_images, frequency_grid
from polarice.imaging.rings import ring_numbers
from polarice.models import ModelCard, shipped_models
from polarice.particles import ParticleStack, ParticleWriter, read_star, write_star
from polarice.simulation import SimulationResult, example_structure, simulate
from polarice.stacks import PreparedStack

BOX = 32


class Stamp(nn.Module):
    """Draws one picture into everything."""

    box = BOX

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        picture = torch.randn(BOX, BOX, generator=torch.Generator().manual_seed(3))
        return picture.expand(len(images), -1, -1)


class Shrink(nn.Module):
    """Takes half of everything away: it draws nothing, and cleans nothing."""

    box = BOX

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        return images / 2


class Threshold(nn.Module):
    """Keeps what stands out of the noise when blurred."""

    box = BOX

    def forward(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        fy, fx = frequency_grid(BOX)
        blurred = filter_images(images, torch.exp(-(fy * fy + fx * fx) / 2 / 0.06**2))
        return torch.where(blurred > 0.9, blurred, 0.0)


@pytest.fixture(scope="module")
def clear_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles that can be seen by eye."""
    folder = tmp_path_factory.mktemp("clear")
    return simulate(example_structure(), folder, particles=96, box=BOX, snr=1.0, ctf=True).particles


Judged = dict[str, bool | None]


@pytest.fixture
def judge(
    clear_stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[nn.Module], tuple[Judged, dict[str, object]]]:
    def judge(network: nn.Module) -> tuple[Judged, dict[str, object]]:
        for module in (run, pipeline):
            monkeypatch.setattr(module, "load_model", lambda *_: (network, ModelCard("fake", {})))
        settings = GuardSettings(denoising=DenoiseSettings(device="cpu"), particles=96)
        result = guard_stack(clear_stack, tmp_path / "out", settings)
        return {one.guard: one.passed for one in result.verdicts}, result.figures

    return judge


def test_a_network_that_draws_into_everything_fails(judge: Callable) -> None:
    passed, figures = judge(Stamp())
    assert passed["noise"] is False
    assert figures["noise"]["energy"] == pytest.approx(1, rel=0.3)
    assert passed["phases"] is False
    assert figures["phases"]["correlation"] > 0.9
    # None of it is in the particles.
    share, error = figures["phases"]["true_share"]
    assert abs(share) < 4 * error
    assert passed["foreign"] is False
    # What depends on no network works with any.
    assert passed["duplicates"] is True
    assert passed["agreement"] is None


def test_a_network_that_only_shrinks_invents_nothing_but_keeps_noise(judge: Callable) -> None:
    passed, figures = judge(Shrink())
    assert passed["phases"] is True
    assert abs(figures["phases"]["mean_abs_ring_correlation"]) < 0.05
    assert passed["noise"] is False
    # The particles have as much signal as noise, and a grey scale that was measured on them.
    assert 0.1 < figures["noise"]["energy"] < 0.9
    assert passed["foreign"] is True


def test_a_network_that_leaves_noise_alone_passes(judge: Callable) -> None:
    passed, figures = judge(Threshold())
    assert passed["noise"] is True
    assert figures["noise"]["energy"] < 0.01


@pytest.fixture(scope="module")
def jointly(joint_weights: Path) -> GuardSettings:
    told = DenoiseSettings(model=str(joint_weights), neighbours=6, device="cpu", mixed_precision=False)
    return GuardSettings(denoising=told, particles=40)


def test_a_joint_network_and_its_page(
    example_stack: SimulationResult, jointly: GuardSettings, tmp_path: Path
) -> None:
    result = guard_stack(example_stack.particles, tmp_path, jointly)
    page = guard_report(tmp_path / "guard.html", result)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guard.html", "guard.json", "sample"]
    assert [one.guard for one in result.verdicts] == ["noise", "phases", "foreign", "duplicates", "agreement"]
    written = json.loads((tmp_path / "guard.json").read_text())
    assert written["figures"]["particles"] == 40
    assert written["configuration"]["guard"]["particles"] == 40
    # Both halves are there in equal parts, and the sample is a stack as any other, with agreements.
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    assert np.bincount(halves[result.rows])[1:].tolist() == [20, 20]
    sample = ParticleStack.open(tmp_path / "sample" / "denoised.star")
    assert len(sample) == 40
    assert sample.has_column("polariceAgreementResolution")
    duplicates = result.figures["duplicates"]
    assert duplicates["found"] == duplicates["planted"] == 2
    assert duplicates["neighbours_of_their_originals"] == duplicates["of_the_stack"] == 0
    words = page.read_text()
    for title in ("Pure noise", "Random phases", "Another protein", "Two estimates", "Copies"):
        assert title in words


def test_copies_of_the_stack_are_counted(
    example_stack: SimulationResult, jointly: GuardSettings, tmp_path: Path, altered: Callable[..., Path]
) -> None:
    def twice(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[[9, 30]] = images[[1, 2]]
        return images

    result = guard_stack(altered(tmp_path / "in", images=twice), tmp_path / "out", jointly)
    assert result.figures["duplicates"]["of_the_stack"] == 2
    assert result.figures["duplicates"]["mistaken"] == 0


def test_what_is_not_known_and_what_does_not_fit(
    jointly: GuardSettings, tmp_path: Path, altered: Callable[..., Path]
) -> None:
    """No CTF, no half sets, a pixel so small that no protein fits: that guard alone is not judged."""
    drop = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnRandomSubset"]
    star = altered(tmp_path / "in", drop=drop)
    settings = replace(jointly, denoising=replace(jointly.denoising, pixel_size_A=1.0))
    result = guard_stack(star, tmp_path / "out", settings)
    verdicts = {one.guard: one for one in result.verdicts}
    assert verdicts["foreign"].passed is None
    assert "too large for a box of 32 Å" in verdicts["foreign"].why
    assert verdicts["noise"].passed is not None
    assert result.figures["phases"]["true_share"] is None
    assert "not judged" in guard_report(tmp_path / "page.html", result).read_text()


def test_noise_of_other_images(clear_stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """White ice: the noise has the level of the stack and no colour."""
    for module in (run, pipeline):
        monkeypatch.setattr(module, "load_model", lambda *_: (Shrink(), ModelCard("fake", {})))
    with ParticleWriter(tmp_path, "ice", box=BOX, pixel_size_A=3.0) as writer:
        writer.append(torch.randn(400, BOX, BOX, generator=torch.Generator().manual_seed(0)).numpy())
    told = DenoiseSettings(device="cpu")
    settings = GuardSettings(denoising=told, particles=96, noise_from=tmp_path / "ice.star")
    result = guard_stack(clear_stack, tmp_path / "out", settings)
    assert result.figures["noise"]["steepness"] == pytest.approx(1, abs=0.1)
    # White noise of standard deviation one, in units of what was measured of particles and noise together.
    spectrum, sigma = result.curves["noise spectrum"], result.sample.found.statistics.noise_sigma
    np.testing.assert_allclose(spectrum, spectrum.mean(), rtol=0.05)
    assert float(spectrum.mean() * sigma.square().mean()) == pytest.approx(1, rel=0.1)


def test_too_few_particles(example_stack: SimulationResult, jointly: GuardSettings, tmp_path: Path) -> None:
    with pytest.raises(PolariceError, match="10 particles are too few for 6 neighbours"):
        guard_stack(example_stack.particles, tmp_path / "out", replace(jointly, particles=10))
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif("unet-64" not in shipped_models(), reason="needs shipped weights")
def test_shipped_weights_pass(tmp_path: Path) -> None:
    """A single-image network, for its speed, on particles of the example."""
    stack = simulate(example_structure(), tmp_path / "in", particles=80, snr=0.3, ctf=True).particles
    settings = GuardSettings(denoising=DenoiseSettings(model="unet-64", device="cpu"), particles=80)
    result = guard_stack(stack, tmp_path / "out", settings)
    verdicts = {one.guard: one for one in result.verdicts}
    assert verdicts["noise"].passed, verdicts["noise"]
    assert verdicts["foreign"].passed, verdicts["foreign"]
    assert verdicts["duplicates"].passed
    # The signal that was planted is as strong as that of the stack.
    assert result.figures["snr"] == pytest.approx(0.3, rel=0.3)


def test_rows_are_spread_over_every_group() -> None:
    groups = np.arange(1000) % 2
    rows = evenly(groups, 100)
    assert len(rows) == 100
    assert np.bincount(groups[rows]).tolist() == [50, 50]
    assert rows[0] <= 1
    assert rows[-1] >= 998
    np.testing.assert_array_equal(evenly(groups, 2000), np.arange(1000))


def test_shell_leaves_a_twentieth_of_the_energy() -> None:
    power = torch.zeros(33)
    power[1:31] = 1
    # One ring is a thirtieth, two are more than a twentieth.
    assert shell_for(power, 30) == 28
    assert shell_for(power, 16) == 16
    power[3:] = 0
    assert shell_for(power, 16) == 4


def test_the_edge_of_the_disc_is_no_detail(clear_stack: Path) -> None:
    """Images that share what is coarse, and fine noise that they do not share, are cut off by one disc."""
    settings = DenoiseSettings(mask_diameter_A=None)
    stack = ParticleStack.open(clear_stack)
    prepared = PreparedStack.measure(stack, settings, BOX, torch.device("cpu"), lambda *_: None)
    statistics, preprocessor = prepared.found.statistics, prepared.preprocessor
    sample = Sample(stack, np.arange(len(stack)), statistics, preprocessor)
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(3, len(stack), BOX, BOX, generator=generator)
    ring, shell = ring_numbers(BOX), 4
    coarse = filter_images(white[0], (ring <= shell).float())
    disc = preprocessor.mask(statistics)
    first, second = (
        (coarse + 0.02 * filter_images(fine, (ring > shell).float())) * disc for fine in white[1:]
    )
    found = beyond_shell(RingSums.of(sample, first, second), shell, BOX // 2)
    assert abs(found["correlation"]) < 0.1
    bare = SimpleNamespace(stack=stack, batches=sample.batches, window=lambda: torch.ones(BOX, BOX))
    assert beyond_shell(RingSums.of(bare, first, second), shell, BOX // 2)["correlation"] > 0.5


def test_planted_copies_keep_to_their_half_set_and_name_no_copy() -> None:
    halves = np.arange(400) % 2
    foreign, copies = places_for(halves)
    assert len(foreign) == 20
    assert len(copies) == 4
    assert not set(copies) & set(copies.values())
    assert not (set(copies) | set(copies.values())) & set(foreign.tolist())
    assert all(halves[to] == halves[what] and what < to for to, what in copies.items())


def test_the_foreign_protein_is_another() -> None:
    foreign, example = foreign_structure(), example_structure()
    assert len(foreign) == 3 * len(example) // 2
    assert abs(foreign.coordinates_A.mean(0)).max() < 30
    assert 80 < foreign.diameter_A < 140


def test_a_missing_stack_is_told_before_anything_is_computed(
    example_stack: SimulationResult, jointly: GuardSettings, tmp_path: Path
) -> None:
    tables, version = read_star(example_stack.particles)
    write_star(tmp_path / "elsewhere.star", tables, version=version)
    with pytest.raises(PolariceError, match="does not exist"):
        guard_stack(tmp_path / "elsewhere.star", tmp_path / "out", jointly)
    assert not (tmp_path / "out").exists()
