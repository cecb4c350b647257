import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from polarice.denoising import (
    DenoiseResult,
    DenoiseSettings,
    SetDenoiser,
    denoise_stack,
    effective_neighbours,
    graph,
    run,
)
from polarice.errors import OutputError, ParticleFileError, PolariceError
from polarice.imaging import fourier_resample
from polarice.neighbours import NOBODY
from polarice.particles import ParticleStack, StarTable, convert_metadata, write_star
from polarice.simulation import SimulationResult
from polarice.stacks import NeighbourSettings, find_neighbours, prepared

Altered = Callable[..., Path]
WRITTEN = ["denoise.json", "denoised.mrcs", "denoised.star"]


def pixels(star: Path) -> np.ndarray:
    return ParticleStack.open(star).images(slice(None))


@pytest.fixture(scope="module")
def jointly(joint_weights: Path) -> DenoiseSettings:
    return DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", mixed_precision=False)


@pytest.fixture(scope="module")
def singly(single_weights: Path) -> DenoiseSettings:
    return DenoiseSettings(model=str(single_weights), device="cpu", mixed_precision=False)


@pytest.fixture(scope="module")
def joint_run(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path_factory: pytest.TempPathFactory
) -> DenoiseResult:
    """The example stack, denoised jointly; nothing may change it."""
    return denoise_stack(example_stack.particles, tmp_path_factory.mktemp("joint") / "new" / "out", jointly)


def test_a_joint_run_leaves_everything(joint_run: DenoiseResult, example_stack: SimulationResult) -> None:
    out = joint_run.star.parent
    # No scratch, nothing half-written.
    assert sorted(path.name for path in out.iterdir()) == [*WRITTEN, "neighbours.npz"]
    assert sorted(joint_run.files) == sorted(str(path) for path in out.iterdir())
    with np.load(out / "neighbours.npz") as arrays:
        for name in ("neighbours", "weights", "angles_deg", "probability"):
            np.testing.assert_array_equal(arrays[name], getattr(joint_run, name))
    assert joint_run.neighbours is not None
    assert joint_run.weights is not None
    assert joint_run.neighbours.shape == (48, 8)
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    assert (halves[joint_run.neighbours] == halves[:, None]).all()
    written = json.loads((out / "denoise.json").read_text())
    assert written["configuration"]["settings"]["neighbours"] == 8
    assert written["configuration"]["model"]["architecture"] == "polar-transformer"
    assert written["figures"]["particles"] == 48
    assert joint_run.probability is not None
    assert joint_run.presence is not None
    confidence = (joint_run.weights * joint_run.probability).sum(1) * joint_run.presence
    assert written["figures"]["mean_confidence"] == pytest.approx(confidence.mean(), abs=1e-4)
    assert 0.01 < confidence.mean() < joint_run.weights.sum(1).mean() <= 1
    # An untrained network's images have no grey scale that the data could confirm, and that is said.
    (notice,) = joint_run.notices
    assert "grey scale was not measured, because that is too uncertain" in notice


def test_output_star_is_the_input_with_three_columns_more(
    joint_run: DenoiseResult, example_stack: SimulationResult
) -> None:
    source, denoised = ParticleStack.open(example_stack.particles), ParticleStack.open(joint_run.star)
    assert denoised.problems() == []
    assert source.particles is not None
    assert denoised.particles is not None
    added = ["polariceDenoised", "polariceOutlier", "polariceConfidence", "polariceEffectiveNeighbours"]
    assert list(denoised.particles.columns) == [*source.particles.columns, *added]
    for name, values in source.particles.columns.items():
        if name != "rlnImageName":
            assert denoised.particles.columns[name] == values
    assert denoised.denoised
    assert denoised.phase_flipped
    assert not source.phase_flipped
    assert (denoised.box, denoised.pixel_size_A) == (source.box, source.pixel_size_A)
    assert joint_run.weights is not None
    confidence = denoised.numeric("polariceConfidence")
    assert joint_run.probability is not None
    share = (joint_run.weights * joint_run.probability).sum(1)
    assert joint_run.presence is not None
    np.testing.assert_allclose(confidence, share * joint_run.presence, atol=1e-5)
    effective = denoised.numeric("polariceEffectiveNeighbours")
    np.testing.assert_allclose(effective, effective_neighbours(joint_run.weights), rtol=1e-5)


def test_optics_groups_of_several_pixel_sizes_are_denoised_as_one(
    altered: Altered, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    """The same stack, every other image of it sampled more finely, by an optics group of its own."""
    one = altered(tmp_path / "one")
    settings = replace(jointly, whiten=False)
    expected = denoise_stack(one, tmp_path / "expected", settings)
    source = ParticleStack.open(one)
    finer = fourier_resample(torch.from_numpy(source.images(slice(None))), 48).numpy()
    with mrcfile.new(one.parent / "finer.mrcs") as file:
        file.set_data(finer)
        file.set_image_stack()
    optics, particles = source.tables
    groups = {name: [*values, *values] for name, values in optics.columns.items()} | {
        "rlnOpticsGroup": ["1", "2"],
        "rlnImageSize": ["32", "48"],
        "rlnImagePixelSize": [str(source.pixel_size_A), str(source.pixel_size_A * 2 / 3)],
    }
    names = [f"{k + 1:06d}@{('particles', 'finer')[k % 2]}.mrcs" for k in range(48)]
    rows = particles.columns | {"rlnImageName": names, "rlnOpticsGroup": ["1", "2"] * 24}
    write_star(
        one.parent / "two.star", [StarTable("optics", groups), StarTable("particles", rows)], version=30001
    )
    found = denoise_stack(one.parent / "two.star", tmp_path / "found", settings)
    assert any("32 pixels of" in notice for notice in found.notices)
    # All but what lies at the Nyquist frequency, which resampling halves.
    error = np.square(pixels(found.star) - pixels(expected.star)).sum()
    assert error < 1e-2 * np.square(pixels(expected.star) - pixels(expected.star).mean()).sum()
    written = ParticleStack.open(found.star)
    assert written.problems() == []
    assert (written.box, written.pixel_size_A) == (32, source.pixel_size_A)
    assert np.unique(written.optics_groups).tolist() == [1, 2]


def test_rows_in_any_order_and_columns_of_any_name_stay(
    altered: Altered, jointly: DenoiseSettings, tmp_path: Path, joint_run: DenoiseResult
) -> None:
    """Rows that name the images of the stack backwards; text with spaces; a block of another program."""
    names = [f"{k:06d}@particles.mrcs" for k in range(48, 0, -1)]
    halves = ParticleStack.open(joint_run.source).half_sets
    assert halves is not None
    columns = {"rlnImageName": names, "rlnRandomSubset": halves[::-1], "theirText": ["a b"] * 48}
    for name in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        columns[name] = (ParticleStack.open(joint_run.source).column(name) or [])[::-1]
    star = altered(tmp_path / "in", columns=columns)
    star.write_text(star.read_text() + "\ndata_theirs\n\n_key value\n")
    result = denoise_stack(star, tmp_path / "out", jointly)
    denoised = ParticleStack.open(result.star)
    assert denoised.column("theirText") == ["a b"] * 48
    assert [table.name for table in denoised.tables] == ["optics", "particles", "theirs"]
    found, expected = denoised.images(slice(None))[::-1], pixels(joint_run.star)
    assert np.square(found - expected).sum() < 1e-4 * np.square(expected).sum()


def test_images_are_what_the_network_says(
    joint_run: DenoiseResult, example_stack: SimulationResult, joint_weights: Path
) -> None:
    """One particle and its neighbours as a set of their own, through the preprocessing by hand."""
    source = ParticleStack.open(example_stack.particles)
    assert joint_run.neighbours is not None
    denoiser = SetDenoiser(joint_weights, "cpu")
    statistics = joint_run.found.statistics
    ctf = joint_run.preprocessor.transfer(source.ctf(slice(None)), statistics)
    assert ctf is not None
    seen = joint_run.preprocessor.forward(torch.from_numpy(source.images(slice(None))), ctf, statistics)
    # Two rounds look at the neighbours' neighbours: the whole stack, under a mask.
    mask = torch.zeros(48, 48, dtype=torch.bool)
    for row, partners in enumerate(joint_run.neighbours):
        mask[row, torch.from_numpy(partners)] = True
    expected = (
        denoiser(seen[None], mask[None], ctf.abs()[None]).images[0]
        * joint_run.preprocessor.mask(joint_run.found.statistics)[0]
    )
    expected = expected * joint_run.found.statistics.noise_sigma[:, None, None]
    expected = expected + joint_run.found.statistics.background[:, None, None]
    found = torch.from_numpy(pixels(joint_run.star))
    assert float((found - expected).square().sum()) < 1e-4 * float(expected.square().sum())


def test_a_single_image_run(example_stack: SimulationResult, singly: DenoiseSettings, tmp_path: Path) -> None:
    result = denoise_stack(example_stack.particles, tmp_path, singly)
    assert sorted(path.name for path in tmp_path.iterdir()) == WRITTEN
    assert result.neighbours is result.weights is result.angles_deg is None
    denoised = ParticleStack.open(result.star)
    assert denoised.denoised
    assert not denoised.has_column("polariceConfidence")
    assert "mean_confidence" not in result.summary()
    # Each image depends on itself alone.
    assert not np.array_equal(pixels(result.star), pixels(example_stack.particles))


@pytest.mark.parametrize("kind", ["jointly", "singly"])
@pytest.mark.parametrize(("scale", "offset"), [(-3.5, 120.0), (0.01, -2.0)])
def test_grey_scale_and_contrast_come_back(
    kind: str,
    scale: float,
    offset: float,
    altered: Altered,
    request: pytest.FixtureRequest,
    example_stack: SimulationResult,
    tmp_path: Path,
) -> None:
    """A copy in another grey scale, inverted too, gives the same output in that grey scale."""
    settings = request.getfixturevalue(kind)
    plain = denoise_stack(example_stack.particles, tmp_path / "plain", settings)
    star = altered(tmp_path / "other", images=lambda images: scale * images + offset)
    other = denoise_stack(star, tmp_path / "out", settings)
    assert plain.preprocessor.contrast == "bright"
    assert other.preprocessor.contrast == ("dark" if scale < 0 else "bright")
    expected, found = pixels(plain.star), (pixels(other.star) - offset) / scale
    assert np.square(found - expected).sum() < 1e-6 * np.square(expected).sum()


def test_half_sets_share_no_bit(
    altered: Altered,
    jointly: DenoiseSettings,
    example_stack: SimulationResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other images in all of half 2 change nothing of half 1, when the contrast is given."""
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    first = halves == 1

    def change(images: np.ndarray) -> np.ndarray:
        strange = np.random.default_rng(0).normal(3, 20, images.shape)
        return np.where(first[:, None, None], images, strange)

    # Were batches filled up from the other half, these sizes would show it in the last bits.
    monkeypatch.setattr(graph, "_BATCH", 20)
    monkeypatch.setattr(run, "_BATCH", 7)
    monkeypatch.setattr(prepared, "_BATCH", 7)
    settings = replace(jointly, contrast="bright")
    results = [
        denoise_stack(star, tmp_path / name, settings)
        for name, star in (("a", altered(tmp_path / "as-is")), ("b", altered(tmp_path / "x", images=change)))
    ]
    for what in (
        lambda r: pixels(r.star),
        lambda r: r.neighbours,
        lambda r: r.weights,
        lambda r: r.angles_deg,
    ):
        before, after = (what(result) for result in results)
        np.testing.assert_array_equal(after[first], before[first])
        assert not np.array_equal(after[~first], before[~first])
    lines = [[line for line in r.star.read_text().splitlines() if "@denoised" in line] for r in results]
    assert [line for line, is_first in zip(lines[0], first, strict=True) if is_first] == [
        line for line, is_first in zip(lines[1], first, strict=True) if is_first
    ]


def test_the_contrast_is_all_that_is_found_in_both_halves(
    altered: Altered, jointly: DenoiseSettings, example_stack: SimulationResult, tmp_path: Path
) -> None:
    """Without a given contrast half 2 may decide its sign, and nothing else, for half 1."""
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    first = halves == 1
    plain = denoise_stack(example_stack.particles, tmp_path / "plain", jointly)

    def other(scale: float) -> DenoiseResult:
        def change(images: np.ndarray) -> np.ndarray:
            return np.where(first[:, None, None], images, scale * images)

        name = f"{scale:g}"
        return denoise_stack(altered(tmp_path / name, images=change), tmp_path / f"out{name}", jointly)

    same = other(2.0)
    assert same.preprocessor.contrast == "bright"
    np.testing.assert_array_equal(pixels(same.star)[first], pixels(plain.star)[first])
    # Here the halves contradict each other.
    assert other(-2.0).found.contrast_z < plain.found.contrast_z


def test_particles_are_divided_into_halves(
    altered: Altered, jointly: DenoiseSettings, tmp_path: Path, example_stack: SimulationResult
) -> None:
    """Where nobody says how: at random, for good, and as the neighbour search does it."""
    star = altered(tmp_path / "in", drop=["rlnRandomSubset"])
    settings = replace(jointly, split_halves=True)
    result = denoise_stack(star, tmp_path / "out", settings)
    halves = ParticleStack.open(result.star).half_sets
    assert halves is not None
    assert np.bincount(halves).tolist() == [0, 24, 24]
    # Not in turns, as frames of one movie may come.
    assert 2 < (halves[::2] == 1).sum() < 22
    assert result.neighbours is not None
    assert (halves[result.neighbours] == halves[:, None]).all()
    assert any("divided into half sets at random" in notice for notice in result.notices)
    found = find_neighbours(
        star,
        tmp_path / "found",
        NeighbourSettings(model=settings.model, neighbours=8, device="cpu", split_halves=True),
    )
    assert (halves[found.table.rows] == halves[:, None]).all()
    # A bare stack has no tables; it gets them.
    bare = denoise_stack(
        tmp_path / "in" / "particles.mrcs", tmp_path / "bare", replace(settings, pixel_size_A=4.0)
    )
    np.testing.assert_array_equal(ParticleStack.open(bare.star).half_sets, halves)
    with pytest.raises(ParticleFileError, match="half sets already") as caught:
        denoise_stack(example_stack.particles, tmp_path / "twice", settings)
    assert "Leave out --split-halves" in str(caught.value)


def test_without_half_sets_the_user_is_told(
    altered: Altered, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    result = denoise_stack(
        altered(tmp_path / "in", drop=["rlnRandomSubset"]), tmp_path / "out", replace(jointly, neighbours=40)
    )
    assert any("_rlnRandomSubset" in notice for notice in result.notices)
    assert json.loads((tmp_path / "out" / "denoise.json").read_text())["figures"]["notices"]


@pytest.mark.parametrize("column", ["rlnClassNumber", "_rlnClassNumber"])
def test_sets_from_a_column(
    column: str, example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    settings = replace(jointly, sets_from=column, neighbours=10)
    result = denoise_stack(example_stack.particles, tmp_path, settings)
    sets = np.array(ParticleStack.open(example_stack.particles).column("rlnClassNumber"))
    assert result.neighbours is not None
    for row, partners in enumerate(result.neighbours):
        # The other seven of eight, and three empty places.
        there = partners[partners != NOBODY]
        assert set(there.tolist()) == set(np.flatnonzero(sets == sets[row]).tolist()) - {row}
    assert result.weights is not None
    assert not result.weights[result.neighbours == NOBODY].any()


def test_sets_from_a_column_keep_the_halves_apart(
    altered: Altered, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    halves = np.arange(48) % 2 + 1
    star = altered(
        tmp_path / "in", columns={"rlnRandomSubset": halves, "theirSet": ["x", "x", "y", "y"] * 12}
    )
    result = denoise_stack(star, tmp_path / "out", replace(jointly, sets_from="theirSet", neighbours=20))
    assert result.neighbours is not None
    for row, partners in enumerate(result.neighbours):
        there = partners[partners != NOBODY]
        assert set(there.tolist()) == set(range(row % 4, 48, 4)) - {row}


@pytest.mark.parametrize("box", [24, 64])
def test_another_box_than_the_models(
    box: int, altered: Altered, jointly: DenoiseSettings, tmp_path: Path, joint_run: DenoiseResult
) -> None:
    star = altered(
        tmp_path / "in", images=lambda images: fourier_resample(torch.from_numpy(images), box).numpy()
    )
    result = denoise_stack(star, tmp_path / "out", jointly)
    assert any(f"from {box} to the model's 32 pixels" in notice for notice in result.notices)
    source, denoised = ParticleStack.open(star), ParticleStack.open(result.star)
    assert denoised.box == box
    assert denoised.pixel_size_A == pytest.approx(source.pixel_size_A, abs=1e-6)
    if box > 32:
        # The field of view and all frequencies that the model sees are the same, so is the result.
        back = fourier_resample(torch.from_numpy(pixels(result.star)), 32).numpy()
        expected = pixels(joint_run.star)
        assert np.square(back - expected).sum() < 5e-2 * np.square(expected).sum()


def test_a_bare_stack_with_a_pixel_size(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    settings = replace(jointly, pixel_size_A=3.0)
    result = denoise_stack(example_stack.particles.with_suffix(".mrcs"), tmp_path, settings)
    denoised = ParticleStack.open(result.star)
    assert len(denoised) == 48
    assert denoised.pixel_size_A == 3.0
    assert any("CTF is not complete" in notice for notice in result.notices)
    assert any("needs a CTF" in notice for notice in result.notices)
    assert bool((result.gains == 1).all())


def test_the_mask_hides_what_is_outside(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    side_A = 32 * example_stack.pixel_size_A
    result = denoise_stack(example_stack.particles, tmp_path, replace(jointly, mask_diameter_A=side_A / 2))
    axis = np.arange(32) - 16
    outside = np.hypot(*np.meshgrid(axis, axis)) > 9
    images = pixels(result.star)
    background = result.found.statistics.background.numpy()[:, None]
    assert np.abs(images[:, outside] - background).max() < 1e-6
    assert images[:, ~outside].std() > 1e-3


def test_running_twice_gives_the_same_bits(
    example_stack: SimulationResult, jointly: DenoiseSettings, joint_run: DenoiseResult, tmp_path: Path
) -> None:
    again = denoise_stack(example_stack.particles, tmp_path, jointly)
    assert (tmp_path / "denoised.mrcs").read_bytes() == joint_run.star.with_suffix(".mrcs").read_bytes()
    assert (tmp_path / "denoised.star").read_bytes() == joint_run.star.read_bytes()
    np.testing.assert_array_equal(again.weights, joint_run.weights)


class Stopped(BaseException):
    """As an interrupt is."""


@pytest.mark.parametrize("kind", ["jointly", "singly"])
def test_a_run_stopped_at_any_step_looks_unfinished_and_goes_on(
    kind: str, request: pytest.FixtureRequest, example_stack: SimulationResult, tmp_path: Path
) -> None:
    settings = request.getfixturevalue(kind)
    steps = 0

    def count(stage: str, done: int, total: int) -> None:
        nonlocal steps
        steps += 1

    whole = denoise_stack(example_stack.particles, tmp_path / "whole", settings, progress=count).star.parent
    assert steps >= 2
    for last in range(steps):
        left = last

        def stop(stage: str, done: int, total: int) -> None:
            nonlocal left
            if left == 0:
                raise Stopped
            left -= 1

        out = tmp_path / f"stopped{last}"
        with pytest.raises(Stopped):
            denoise_stack(example_stack.particles, out, settings, progress=stop)
        if out.exists():
            assert [path.name for path in out.iterdir()] == [".unfinished"]
            with pytest.raises(OutputError, match="--resume"):
                denoise_stack(example_stack.particles, out, settings)
        again = denoise_stack(example_stack.particles, out, settings, resume=True)
        assert_same_files(out, whole)
        assert sorted(again.files) == sorted(str(path) for path in out.iterdir())


def assert_same_files(out: Path, whole: Path) -> None:
    """Two runs left the same, but for their times."""
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    for path in whole.iterdir():
        if path.suffix == ".json":
            written = [json.loads((folder / path.name).read_text()) for folder in (out, whole)]
            for record in written:
                for name in ("seconds", "images_per_s", "files"):
                    del record["figures"][name]
            assert written[0] == written[1]
        elif path.suffix == ".npz":
            with np.load(out / path.name) as found, np.load(path) as expected:
                assert found.files == expected.files
                for name in found.files:
                    np.testing.assert_array_equal(found[name], expected[name])
        else:
            assert (out / path.name).read_bytes() == path.read_bytes()


def test_only_the_same_run_is_gone_on_with(
    example_stack: SimulationResult, singly: DenoiseSettings, altered: Altered, tmp_path: Path
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            raise Stopped

    out = tmp_path / "out"
    with pytest.raises(Stopped):
        denoise_stack(example_stack.particles, out, singly, progress=stop)
    halves = ParticleStack.open(example_stack.particles).half_sets
    assert halves is not None
    other = altered(tmp_path / "in", columns={"rlnRandomSubset": 3 - halves})
    for source, settings in (
        (other, singly),
        (example_stack.particles, replace(singly, mask_diameter_A=60.0)),
    ):
        with pytest.raises(OutputError, match="another stack, model, version or other settings") as caught:
            denoise_stack(source, out, settings, resume=True)
        assert "--overwrite" in str(caught.value)
    denoise_stack(other, out, singly, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == WRITTEN
    # There is nothing to go on with: as if nobody had asked.
    with pytest.raises(OutputError, match="not empty"):
        denoise_stack(other, out, singly, resume=True)
    denoise_stack(other, tmp_path / "fresh", singly, resume=True)
    assert_same_files(tmp_path / "fresh", out)


def test_overwriting_leaves_no_mixture(
    example_stack: SimulationResult, jointly: DenoiseSettings, singly: DenoiseSettings, tmp_path: Path
) -> None:
    """A single-image run over a joint one: its neighbours, its page and its remains must go."""
    denoise_stack(example_stack.particles, tmp_path, jointly)
    (tmp_path / "report.html").write_text("of the run before")
    (tmp_path / "mine.txt").write_text("not polarice's")
    (tmp_path / ".scratch-killed").mkdir()
    (tmp_path / ".scratch-killed" / "features-0").write_bytes(b"0")
    denoise_stack(example_stack.particles, tmp_path, singly, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*WRITTEN, "mine.txt"]

    # A run stopped on the way leaves nothing of the one before either.
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "denoise":
            raise Stopped

    with pytest.raises(Stopped):
        denoise_stack(example_stack.particles, tmp_path, singly, overwrite=True, progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".unfinished", "mine.txt"]


def test_progress_is_told_by_stages(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    denoise_stack(example_stack.particles, tmp_path, jointly, progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == [
        "check and measure",
        "encode",
        "find neighbours",
        *(f"attend ({i} of 3)" for i in (1, 2, 3)),
    ]
    for stage in stages:
        done = [step[1] for step in told if step[0] == stage]
        assert done == sorted(done)
        assert done[-1] == 48
    assert {total for _, _, total in told} == {48}


@pytest.mark.interop
def test_a_cryosparc_stack_comes_back_as_one(
    altered: Altered, singly: DenoiseSettings, tmp_path: Path
) -> None:
    """The same pixels as from its STAR file; every field but those of the images kept, and marked."""
    star = altered(tmp_path / "in")
    cs = tmp_path / "in" / "particles.cs"
    convert_metadata(star, cs)
    expected, found = (denoise_stack(path, tmp_path / path.suffix[1:], singly) for path in (star, cs))
    np.testing.assert_allclose(pixels(found.star), pixels(expected.star), rtol=1e-4, atol=1e-4)
    assert str(tmp_path / "cs" / "denoised.cs") in found.files
    source, made = (np.load(path) for path in (cs, tmp_path / "cs" / "denoised.cs"))
    for name in source.dtype.names:
        if not name.startswith("blob/"):
            np.testing.assert_array_equal(made[name], source[name])
    np.testing.assert_array_equal(made["blob/sign"], source["blob/sign"])
    with pytest.raises(PolariceError, match="denoised"):
        denoise_stack(tmp_path / "cs" / "denoised.cs", tmp_path / "again", singly)


def test_relion_sorts_the_result(joint_run: DenoiseResult, tmp_path: Path) -> None:
    """A short 2D classification ends well, and every particle is in one of its classes."""
    if shutil.which("relion_refine") is None:
        pytest.skip("RELION is not installed")
    folder = tmp_path / "job"
    shutil.copytree(joint_run.star.parent, folder)
    options = "--iter 2 --K 2 --particle_diameter 120 --psi_step 20 --offset_range 2 --offset_step 2 --pad 1"
    flags = "--ctf --ctf_phase_flipped --flatten_solvent --zero_mask --dont_check_norm --random_seed 1 --j 1"
    command = ["relion_refine", "--i", "denoised.star", "--o", "./run", *options.split(), *flags.split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sorted_by_relion = ParticleStack.open(folder / "run_it002_data.star")
    assert len(sorted_by_relion) == 48
    assert set(sorted_by_relion.column("rlnClassNumber")) <= {"1", "2"}
    averages = mrcfile.read(folder / "run_it002_classes.mrcs")
    assert np.isfinite(averages).all()
    assert np.ptp(averages, axis=(1, 2)).max() > 0


def test_relion_opens_the_result(joint_run: DenoiseResult, tmp_path: Path) -> None:
    if shutil.which("relion_image_handler") is None:
        pytest.skip("RELION is not installed")
    folder = tmp_path / "job"
    shutil.copytree(joint_run.star.parent, folder)

    def relion(*command: str) -> str:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = relion("relion_image_handler", "--i", "denoised.star", "--stats")
    lines = [line for line in said.splitlines() if "@denoised.mrcs" in line]
    images = pixels(joint_run.star)
    assert len(lines) == 48
    for line, image in zip(lines, images, strict=True):
        values = {name: float(value) for name, value in re.findall(r"(avg|stddev) ?= (\S+)", line)}
        assert values["avg"] == pytest.approx(image.mean(), abs=1e-4)
        assert values["stddev"] == pytest.approx(image.std(), rel=1e-2, abs=1e-4)
    relion("relion_stack_create", "--i", "denoised.star", "--o", "theirs")
    theirs = ParticleStack.open(folder / "theirs.star")
    np.testing.assert_array_equal(theirs.images(slice(None)), images)
    assert theirs.denoised
    np.testing.assert_allclose(
        theirs.numeric("polariceConfidence"), ParticleStack.open(joint_run.star).numeric("polariceConfidence")
    )


def test_confidence_counts_what_presence_says(
    altered: Altered, jointly: DenoiseSettings, joint_run: DenoiseResult, tmp_path: Path
) -> None:
    """Noise in the place of some particles; what is returned is what is written."""
    empty = np.arange(48) % 12 == 5

    def change(images: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(0).normal(
            0, joint_run.found.statistics.noise_sigma.mean(), images.shape
        )
        return np.where(empty[:, None, None], noise, images)

    result = denoise_stack(altered(tmp_path / "in", images=change), tmp_path / "out", jointly)
    assert result.presence is not None
    assert result.weights is not None
    assert result.probability is not None
    share = (result.weights * result.probability).sum(1)
    np.testing.assert_allclose(result.confidence, share * result.presence, rtol=1e-6)
    written = ParticleStack.open(result.star).numeric("polariceConfidence")
    np.testing.assert_allclose(written, result.confidence, rtol=1e-4, atol=1e-6)
    saved = np.load(tmp_path / "out" / "neighbours.npz")["presence"]
    np.testing.assert_array_equal(saved, result.presence)
