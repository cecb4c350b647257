"""`abinitio`, file to file, and what it refuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from polarice import cli
from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.errors import ParticleFileError, PolariceError
from polarice.evaluation import Truth, orientation_errors
from polarice.particles import ParticleStack, ParticleWriter, read_star, write_star
from polarice.reconstruction import AbInitioSettings, abinitio
from polarice.simulation import example_structure, simulate

DEVICE = DenoiseSettings(device="cpu")


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """60 particles of the example protein, off the centre."""
    folder = tmp_path_factory.mktemp("abinitio")
    return simulate(example_structure(), folder, particles=60, box=32, snr=0.25, max_shift_px=2, seed=3)


@pytest.fixture(scope="module")
def perfect(stack, tmp_path_factory):
    """What a perfect denoiser would have written: the clean images, in the stack's grey scale."""
    folder = tmp_path_factory.mktemp("perfect")
    source = ParticleStack.open(stack.particles)
    told = {"box": source.box, "pixel_size_A": source.pixel_size_A, "source": source}
    with ParticleWriter(folder, "denoised", particles={"polariceDenoised": 1}, **told) as writer:
        writer.append(5 + ParticleStack.open(stack.clean).images(slice(None)))
    return folder / "denoised.star"


def test_orientations_of_the_originals(stack, perfect, tmp_path):
    settings = AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0)
    result = abinitio(stack.particles, tmp_path / "out", settings)
    before, after = ParticleStack.open(stack.particles), ParticleStack.open(result.star)
    errors = orientation_errors(after.rotations(), before.rotations())
    assert errors.mean_deg < 2
    torch.testing.assert_close(after.rotations(), torch.from_numpy(result.rotations), atol=1e-4, rtol=0)
    np.testing.assert_allclose(after.shifts_px(), result.centre_px, atol=1e-4)
    # The frame may lie anywhere: shifts differ by the projections of one vector.
    sides = after.rotations().double()[:, :2].reshape(-1, 3)
    apart = torch.from_numpy(after.shifts_px() - before.shifts_px()).double().reshape(-1, 1)
    frame = torch.linalg.lstsq(sides, apart).solution
    assert (apart - sides @ frame).abs().median() < 0.15
    # The images are the original ones, and all else is as it was.
    np.testing.assert_array_equal(after.images(slice(None)), before.images(slice(None)))
    assert not after.denoised
    old, new = (stack.particles.columns for stack in (before, after))
    changed = {
        "rlnImageName",
        "rlnAngleRot",
        "rlnAngleTilt",
        "rlnAnglePsi",
        "rlnOriginXAngst",
        "rlnOriginYAngst",
    }
    assert all(new[name] == values for name, values in old.items() if name not in changed)
    confidence = after.numeric("polariceOrientationConfidence")
    np.testing.assert_allclose(confidence, result.confidence, atol=1e-6)
    record = json.loads((tmp_path / "out" / "abinitio.json").read_text())
    assert record["figures"]["particles"] == 60
    assert record["configuration"]["settings"]["denoised"] == str(perfect)


def test_half_sets_are_oriented_apart(stack, perfect, tmp_path, monkeypatch):
    """They end in one frame, with one hand, and nothing has to be said against their resolution."""
    together = abinitio(
        stack.particles,
        tmp_path / "together",
        AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0),
    )
    assert "oriented together" in " ".join(together.notices)
    monkeypatch.setattr(sys.modules["polarice.reconstruction.abinitio"], "_APART", 30)
    settings = AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0, representatives=30)
    stages = set()
    apart = abinitio(
        stack.particles, tmp_path / "apart", settings, progress=lambda stage, *_: stages.add(stage)
    )
    assert "half set 2: find common lines" in stages
    assert not apart.notices
    true = ParticleStack.open(stack.particles)
    assert orientation_errors(torch.from_numpy(apart.rotations), true.rotations()).mean_deg < 6
    for half in (1, 2):
        mine = true.half_sets == half
        errors = orientation_errors(torch.from_numpy(apart.rotations[mine]), true.rotations()[mine])
        assert errors.mean_deg < 2
    assert set(apart.representatives) == set(range(60))


def test_the_seed_decides(stack, perfect, tmp_path):
    settings = AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0, seed=4)
    first, second = (abinitio(stack.particles, tmp_path / name, settings) for name in ("a", "b"))
    np.testing.assert_array_equal(first.rotations, second.rotations)


def test_a_stack_is_denoised_first_and_kept_for_a_resumed_run(stack, joint_weights, tmp_path):
    denoising = DenoiseSettings(model=str(joint_weights), device="cpu", neighbours=6)
    settings = AbInitioSettings(denoising=denoising, representatives=40, rounds=0)
    first = abinitio(stack.particles, tmp_path, settings)
    written = (tmp_path / "denoised" / "denoised.mrcs").stat().st_mtime_ns
    assert first.denoised == tmp_path / "denoised" / "denoised.star"
    assert len(first.representatives) == 40
    (tmp_path / "particles.star").unlink()
    second = abinitio(stack.particles, tmp_path, settings, resume=True)
    assert (tmp_path / "denoised" / "denoised.mrcs").stat().st_mtime_ns == written
    np.testing.assert_array_equal(first.rotations, second.rotations)


def refused(*arguments, match, **settings):
    with pytest.raises(PolariceError, match=match) as caught:
        abinitio(*arguments, AbInitioSettings(denoising=DEVICE, **settings))
    return caught.value


def test_what_is_refused_before_anything_is_written(stack, perfect, single_weights, tmp_path):
    out = tmp_path / "out"
    told = refused(perfect, out, match="denoised already")
    assert "--denoised" in str(told)
    refused(stack.particles, out, match="not denoised", denoised=stack.clean)
    refused(stack.particles, out, match="neighbours.npz", denoised=perfect, representatives=30)
    few = simulate(example_structure(), tmp_path / "few", particles=12, box=32)
    refused(few.particles, out, match="12 particles are too few")
    refused(few.particles, out, match="has 60 images", denoised=perfect)
    other = simulate(example_structure(), tmp_path / "other", particles=60, box=32, seed=9)
    denoise_stack(other.particles, tmp_path / "den", DenoiseSettings(model=str(single_weights), device="cpu"))
    one_sided = stack.particles.with_name("one_sided.star")
    tables, version = read_star(stack.particles)
    one = {"rlnRandomSubset": ["1"] * 60}
    changed = [t.with_columns(one) if one.keys() <= t.columns.keys() else t for t in tables]
    write_star(one_sided, changed, version=version)
    refused(one_sided, out, match="all particles are in one half set", denoised=perfect)
    (tmp_path / "out2").mkdir()
    (tmp_path / "out2" / "mine.txt").write_text("kept")
    refused(stack.particles, tmp_path / "out2", match="not empty", denoised=perfect)
    assert not out.exists()


def test_neighbours_of_another_stack_are_refused(stack, joint_weights, tmp_path):
    other = simulate(example_structure(), tmp_path / "other", particles=60, box=32, seed=9)
    settings = DenoiseSettings(model=str(joint_weights), device="cpu", neighbours=6)
    made = denoise_stack(other.particles, tmp_path / "den", settings)
    refused(stack.particles, tmp_path / "out", match="another stack", denoised=made.star)


def test_one_view_is_named(tmp_path):
    made = simulate(
        example_structure(),
        tmp_path / "sim",
        particles=32,
        box=32,
        views="sets",
        set_size=32,
        set_angle_deg=0,
    )
    # One set is one half set; without the column particles are divided.
    tables, version = read_star(made.particles)
    halves = "rlnRandomSubset"
    undivided = [
        type(t)(t.name, {k: v for k, v in t.columns.items() if k != halves}, t.is_loop) for t in tables
    ]
    write_star(made.particles, undivided, version=version)
    source = ParticleStack.open(made.particles)
    told = {"box": source.box, "pixel_size_A": source.pixel_size_A, "source": source}
    with ParticleWriter(tmp_path, "denoised", particles={"polariceDenoised": 1}, **told) as writer:
        writer.append(ParticleStack.open(made.clean).images(slice(None)))
    settings = AbInitioSettings(denoised=tmp_path / "denoised.star", denoising=DEVICE)
    with pytest.raises(ParticleFileError, match=r"particles\.star: the particles show one view"):
        abinitio(made.particles, tmp_path / "out", settings)


def test_command(stack, perfect, tmp_path, capsys):
    truth = stack.particles.parent
    options = f"--out {tmp_path / 'out'} --denoised {perfect} --device cpu --json --rounds 1 --truth {truth}"
    with pytest.raises(SystemExit) as ended:
        cli.main(["abinitio", str(stack.particles), *options.split()])
    assert not ended.value.code
    figures = json.loads(capsys.readouterr().out)
    assert figures["particles"] == 60
    assert {Path(name).name for name in figures["files"]} == {
        *(f"{name}.mrc" for name in ("half1", "half2", "map", "mask")),
        *(f"fsc.{kind}" for kind in ("star", "png")),
        "particles.star",
        "abinitio.json",
        "report.html",
    }
    assert all(Path(name).is_file() for name in figures["files"])
    assert len(figures["resolution_A"]) == 2
    # Common lines are those of perfectly denoised images; a noisy one tells its orientation only roughly.
    assert figures["mean_error_of_common_lines_deg"] < 2
    assert figures["mean_error_deg"] < 10
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The truth" in page
    assert "Directions of view" in page


def test_truth_that_is_none_is_named(stack, perfect, tmp_path, capsys):
    options = f"--out {tmp_path / 'out'} --denoised {perfect} --truth {tmp_path}"
    with pytest.raises(SystemExit) as ended:
        cli.main(["abinitio", str(stack.particles), *options.split()])
    assert ended.value.code == 2
    assert "particles.star" in capsys.readouterr().err
    other = simulate(example_structure(), tmp_path / "other", particles=32, box=32)
    options = f"--out {tmp_path / 'out'} --denoised {perfect} --truth {other.particles.parent}"
    with pytest.raises(SystemExit) as ended:
        cli.main(["abinitio", str(stack.particles), *options.split()])
    assert ended.value.code == 2
    assert "the simulation 32 of 32" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_maps_of_the_originals(stack, perfect, tmp_path):
    settings = AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0)
    result = abinitio(stack.particles, tmp_path / "out", settings)
    truth = Truth.load(stack.particles.parent)
    halves = result.observed.stack.half_sets
    compared = truth.compare(result.observed, result.refined.poses, halves)
    # The map of the true orientations is not much better.
    ideal = truth.compare(result.observed, truth.poses, halves)
    assert float(compared.errors_deg.mean()) < 2
    true = truth.volume.density
    like = [float((m.maps.whole * true).sum() / m.maps.whole.norm() / true.norm()) for m in (compared, ideal)]
    assert like[0] > like[1] - 0.05 > 0.7
    # In its own frame it is another map: nobody can know the truth's.
    own = result.maps.whole
    assert float((own * true).sum() / own.norm() / true.norm()) < like[0] - 0.1


def test_a_bare_stack_gets_tables_for_relion(stack, perfect, tmp_path):
    bare = stack.particles.with_suffix(".mrcs")
    result = abinitio(bare, tmp_path / "out", AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=0))
    names = [table.name for table in read_star(result.star)[0]]
    assert names == ["optics", "particles"]
    assert not ParticleStack.open(result.star).problems()


def test_a_map_of_noise_is_told_from_a_map(stack, perfect, tmp_path, generator):
    source = ParticleStack.open(stack.particles)
    told = {"box": source.box, "pixel_size_A": source.pixel_size_A, "source": source}
    with ParticleWriter(tmp_path, "noise", **told) as writer:
        writer.append(torch.randn(60, 32, 32, generator=generator).numpy())
    settings = AbInitioSettings(denoised=perfect, denoising=DEVICE, rounds=1)
    result = abinitio(writer.star_path, tmp_path / "out", settings)
    assert "do not take this for a map" in " ".join(result.warnings)
    assert result.resolution_A[-1] > 32 * source.pixel_size_A / 8
    true = abinitio(stack.particles, tmp_path / "true", settings)
    assert not true.warnings
