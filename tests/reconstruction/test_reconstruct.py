import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch

from polarice import cli
from polarice.errors import OutputError, ParticleFileError, PolariceError, PreflightError
from polarice.particles import ParticleStack, convert_metadata, read_star
from polarice.reconstruction import (
    ReconstructResult,
    ReconstructSettings,
    compare_map_files,
    fourier_shell_correlation,
    reconstruct_stack,
)
from polarice.simulation import SimulationResult, Volume, example_structure, read_map, simulate, write_map

Altered = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """200 particles of a chiral molecule: CTF, shifts, half sets."""
    folder = tmp_path_factory.mktemp("made")
    told: dict[str, Any] = {"particles": 200, "box": 32, "snr": 0.5, "ctf": True, "max_shift_px": 2.0}
    return simulate(example_structure(), folder, **told)


@pytest.fixture(scope="module")
def found(made: SimulationResult, tmp_path_factory: pytest.TempPathFactory) -> ReconstructResult:
    """Its maps; nothing may change their files."""
    return reconstruct_stack(made.particles, tmp_path_factory.mktemp("maps") / "out")


def test_the_map_is_the_one_that_was_projected(made: SimulationResult, found: ReconstructResult) -> None:
    truth = read_map(made.volume)
    fsc = fourier_shell_correlation(found.maps.whole, truth.density)
    assert fsc[1:12].min() > 0.9
    # The hand, and the grey scale.
    mirrored = truth.density.flip(2).roll(1, 2)
    assert fourier_shell_correlation(found.maps.whole, mirrored)[8:14].mean() < 0.5
    scale = float((found.maps.whole * truth.density).sum() / truth.density.square().sum())
    assert scale == pytest.approx(1, abs=0.1)
    assert found.particles == (100, 100)


def test_files_say_what_they_are(made: SimulationResult, found: ReconstructResult) -> None:
    folder = Path(next(iter(found.files))).parent
    for name in ("half1", "half2", "map", "mask"):
        with mrcfile.open(folder / f"{name}.mrc") as file:
            assert file.is_volume()
            assert float(file.voxel_size.x) == pytest.approx(made.pixel_size_A, rel=1e-5)
            assert tuple(file.header.origin.tolist()) == (0, 0, 0)
            assert (file.header.nxstart, file.header.nystart, file.header.nzstart) == (0, 0, 0)
    tables = {table.name: table.columns for table in read_star(folder / "fsc.star")[0]}
    curve = np.array(tables["fsc"]["rlnFourierShellCorrelationCorrected"], float)
    np.testing.assert_allclose(curve, found.maps.comparison.best.numpy(), atol=1e-6)
    assert float(tables["general"]["rlnFinalResolution"][0]) == pytest.approx(
        found.maps.comparison.resolution_A()
    )
    record = json.loads((folder / "reconstruct.json").read_text())
    assert record["configuration"]["chosen"] == {"contrast": "bright", "ctf": True}
    assert record["figures"]["particles"] == [100, 100]


def test_halves_do_not_know_each_other(
    made: SimulationResult, found: ReconstructResult, tmp_path: Path
) -> None:
    """Other pixels in half 2 do not change half 1 by one bit."""
    halves = ParticleStack.open(made.particles).half_sets
    assert halves is not None
    pixels = ParticleStack.open(made.particles).images(slice(None))
    pixels[halves == 2] = np.random.default_rng(0).normal(size=pixels[halves == 2].shape)
    for name in ("particles.star", "particles.mrcs"):
        (tmp_path / name).write_bytes((made.particles.parent / name).read_bytes())
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as file:
        file.data[:] = pixels
    changed = reconstruct_stack(
        tmp_path / "particles.star", tmp_path / "out", ReconstructSettings(contrast="bright")
    )
    assert torch.equal(changed.maps.first, found.maps.first)
    assert changed.maps.comparison.unmasked[2:].mean() < 0.3


def test_dark_protein_and_cryosparc_give_the_same_map(
    made: SimulationResult, found: ReconstructResult, tmp_path: Path
) -> None:
    (tmp_path / "particles.star").write_bytes(made.particles.read_bytes())
    (tmp_path / "particles.mrcs").write_bytes(made.particles.with_suffix(".mrcs").read_bytes())
    with mrcfile.mmap(tmp_path / "particles.mrcs", "r+") as file:
        file.data[:] = -file.data[:]
    convert_metadata(tmp_path / "particles.star", tmp_path / "particles.cs")
    dark = reconstruct_stack(tmp_path / "particles.cs", tmp_path / "out")
    assert dark.observed.contrast == "dark"
    torch.testing.assert_close(dark.maps.first, found.maps.first, rtol=1e-2, atol=2e-3)


def spoilt(columns: dict[str, list[object]]) -> dict[str, Any]:
    return {"columns": columns}


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"drop": ["rlnAngleTilt"]}, {}, "has no orientations: missing _rlnAngleTilt"),
        (spoilt({"rlnAngleRot": [float("nan")] * 48}), {}, "column _rlnAngleRot has nan"),
        (spoilt({"rlnAngleTilt": [1.0] * 48}), {}, "seen from one side"),
        ({"drop": ["rlnRandomSubset"]}, {}, "no half sets.*--split-halves"),
        (spoilt({"rlnRandomSubset": [1] * 44 + [2] * 4}), {}, "a half set has 4 images"),
        ({}, {"split_halves": True}, "have half sets already"),
        ({"drop": ["rlnDefocusU", "rlnDefocusV"]}, {"ctf": True}, "the CTF lacks _rlnDefocusU"),
        ({"drop": ["rlnVoltage"]}, {}, "the CTF lacks _rlnVoltage"),
        (spoilt({"rlnCtfDataAreCtfPremultiplied": [1] * 48}), {}, "multiplied by their CTFs"),
        (spoilt({"polariceDenoised": [1] * 48}), {}, "learned prior.*--allow-denoised"),
    ],
)
def test_what_cannot_make_a_map_is_refused(
    altered: Altered, tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    star = altered(tmp_path / "in", **change)
    with pytest.raises((ParticleFileError, PreflightError), match=message):
        reconstruct_stack(star, tmp_path / "out", ReconstructSettings(**settings))
    assert not (tmp_path / "out").exists()


def test_few_images_are_refused(tmp_path: Path) -> None:
    made = simulate(example_structure(), tmp_path / "few", particles=12, box=32, snr=0.5)
    with pytest.raises(ParticleFileError, match="12 images are too few for a map: at least 16"):
        reconstruct_stack(made.particles, tmp_path / "out")


def test_denoised_images_are_taken_when_told(altered: Altered, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", columns={"polariceDenoised": [1] * 48})
    result = reconstruct_stack(star, tmp_path / "out", ReconstructSettings(allow_denoised=True))
    assert any("learned prior" in notice for notice in result.notices)


def test_splits_halves_and_goes_without_ctf(altered: Altered, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", drop=["rlnRandomSubset", "rlnDefocusU", "rlnDefocusV"])
    result = reconstruct_stack(star, tmp_path / "out", ReconstructSettings(split_halves=True))
    assert result.particles == (24, 24)
    assert any("not corrected for the CTF" in notice for notice in result.notices)
    assert any("half sets at random" in notice for notice in result.notices)


def test_a_folder_in_use_is_refused(made: SimulationResult) -> None:
    with pytest.raises(OutputError, match="not empty"):
        reconstruct_stack(made.particles, made.particles.parent)


def test_a_mask_must_fit(made: SimulationResult, tmp_path: Path) -> None:
    write_map(tmp_path / "small.mrc", Volume(torch.rand(16, 16, 16), 3.0))
    write_map(tmp_path / "map.mrc", Volume(5 * torch.rand(32, 32, 32), 3.0))
    for name, message in (("small", "16 voxels does not fit"), ("map", "lies between 0 and 1")):
        with pytest.raises(PolariceError, match=message):
            reconstruct_stack(
                made.particles, tmp_path / "out", ReconstructSettings(mask=tmp_path / f"{name}.mrc")
            )


def test_maps_that_do_not_fit_are_refused(tmp_path: Path, generator: torch.Generator) -> None:
    sizes = {"a": (16, 3.0), "b": (24, 3.0), "c": (16, 4.0)}
    for name, (box, pixel) in sizes.items():
        density = torch.randn(box, box, box, generator=generator)
        write_map(tmp_path / f"{name}.mrc", Volume(density, pixel))
    with pytest.raises(PolariceError, match=r"b\.mrc: has a box of 24 voxels, a\.mrc of 16"):
        compare_map_files(tmp_path / "a.mrc", tmp_path / "b.mrc")
    with pytest.raises(PolariceError, match="has voxels of 4 A"):
        compare_map_files(tmp_path / "a.mrc", tmp_path / "c.mrc")
    with pytest.raises(PolariceError, match="not both"):
        compare_map_files(tmp_path / "a.mrc", tmp_path / "a.mrc", tmp_path / "a.mrc", auto_mask=True)


def test_commands(made: SimulationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["reconstruct", str(made.particles), "--out", str(tmp_path / "out"), "--json", "--quiet"]
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert all(Path(name).is_file() for name in told["files"])
    halves = [str(tmp_path / "out" / f"half{half}.mrc") for half in (1, 2)]
    mask = str(tmp_path / "out" / "mask.mrc")
    with pytest.raises(SystemExit) as ended:
        cli.main(["fsc", *halves, "--mask", mask, "--out", str(tmp_path / "fsc"), "--json"])
    assert ended.value.code == 0
    again = json.loads(capsys.readouterr().out)
    assert again["resolution_A"] == told["resolution_A"]
    assert (tmp_path / "fsc" / "fsc.png").stat().st_size > 1000
    with pytest.raises(SystemExit) as ended:
        cli.main(["fsc", *halves])
    assert ended.value.code == 0
    assert "Å at 0.143" in capsys.readouterr().out


@pytest.mark.interop
@pytest.mark.parametrize(("ctf", "symmetry"), [(False, "C1"), (True, "C1"), (True, "C3"), (False, "D2")])
def test_agrees_with_relion_reconstruct(ctf: bool, symmetry: str, tmp_path: Path) -> None:
    if shutil.which("relion_reconstruct") is None:
        pytest.skip("RELION is not installed")
    made = simulate(
        example_structure(), tmp_path / "in", particles=300, box=32, snr=1.0, ctf=ctf, max_shift_px=2
    )
    words = [
        "relion_reconstruct",
        "--i",
        made.particles.name,
        "--o",
        "relion.mrc",
        "--sym",
        symmetry,
        *(["--ctf"] if ctf else []),
    ]
    subprocess.run(words, cwd=made.particles.parent, check=True, capture_output=True, timeout=120)
    theirs = read_map(made.particles.parent / "relion.mrc").density.float()
    result = reconstruct_stack(made.particles, tmp_path / "out", ReconstructSettings(symmetry=symmetry))
    ours = (result.maps.first + result.maps.second) / 2
    axis = torch.arange(32) - 16
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < 16**2
    fsc = fourier_shell_correlation(ours * ball, theirs * ball)
    assert fsc[1:9].min() > 0.98
    assert fsc[1:15].min() > 0.93
    mirrored = theirs.flip(2).roll(1, 2)
    assert fourier_shell_correlation(ours * ball, mirrored * ball)[8:15].mean() < 0.5


def test_symmetry_stands_for_views_that_are_not_there(tmp_path: Path) -> None:
    """A tetramer in sixteen views makes a map if its symmetry is told, and none if it is not."""
    shape = 24, 24, 24
    one = torch.zeros(shape)
    one[14:18, 5:9, 13:16] = 1
    one[6:9, 15:18, 15:20] = 1
    # Turned by half a turn about z and about x; the origin is index 12.
    turned = one + one.flip(1, 2).roll((1, 1), (1, 2))
    tetramer = turned + turned.flip(0, 1).roll((1, 1), (0, 1))
    write_map(tmp_path / "tetramer.mrc", Volume(tetramer, 4.0))
    made = simulate(tmp_path / "tetramer.mrc", tmp_path / "in", particles=16, box=24, snr=50.0)
    truth = read_map(made.volume).density
    fsc = {}
    for symmetry in ("C1", "D2"):
        found = reconstruct_stack(made.particles, tmp_path / symmetry, ReconstructSettings(symmetry=symmetry))
        both = (found.maps.first + found.maps.second) / 2
        fsc[symmetry] = float(fourier_shell_correlation(both, truth)[3:10].mean())
    assert fsc["D2"] > fsc["C1"] + 0.05
    assert fsc["D2"] > 0.9


def test_symmetry_that_is_none_is_refused(made: SimulationResult, tmp_path: Path) -> None:
    with pytest.raises(PolariceError, match="no point group"):
        reconstruct_stack(made.particles, tmp_path / "out", ReconstructSettings(symmetry="Q4"))
    assert not (tmp_path / "out").exists()
