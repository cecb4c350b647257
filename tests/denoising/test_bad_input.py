"""Each fault gives one clear error that names file and row, and nothing is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.errors import (
    DeviceError,
    ModelError,
    OutputError,
    ParticleFileError,
    PolariceError,
    PreflightError,
)
from polarice.files import prepare_output
from polarice.models import ModelCard, build_model, save_model
from polarice.simulation import SimulationResult

Altered = Callable[..., Path]


@pytest.fixture(scope="module")
def jointly(joint_weights: Path) -> DenoiseSettings:
    return DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu")


def fails(
    star: Path, settings: DenoiseSettings, tmp_path: Path, kind: type[PolariceError] = ParticleFileError
) -> PolariceError:
    """The error of a run, which left nothing and computed nothing."""
    steps: list[str] = []
    out = tmp_path / "out"
    with pytest.raises(kind) as caught:
        denoise_stack(star, out, settings, progress=lambda stage, done, total: steps.append(stage))
    assert not out.exists()
    assert set(steps) <= {"check and measure"}
    assert "\n" not in str(caught.value) or isinstance(caught.value, PreflightError)
    return caught.value


def with_pixel(value: float, row: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(images: np.ndarray) -> np.ndarray:
        images[row - 1, 5, 7] = value
        return images

    return change


def test_missing_star_file(jointly: DenoiseSettings, tmp_path: Path) -> None:
    error = fails(tmp_path / "absent.star", jointly, tmp_path)
    assert error.path == tmp_path / "absent.star"
    assert "does not exist" in str(error)


def test_missing_stack_file(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in")
    (tmp_path / "in" / "particles.mrcs").unlink()
    error = fails(star, jointly, tmp_path)
    assert (error.path, error.row) == (star, 1)
    assert "particles.mrcs does not exist" in str(error)


def test_row_past_the_end(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    names = [f"{k:06d}@particles.mrcs" for k in range(1, 49)]
    names[30] = "000049@particles.mrcs"
    star = altered(tmp_path / "in", columns={"rlnImageName": names})
    error = fails(star, jointly, tmp_path)
    assert (error.path, error.row) == (star, 31)
    assert "image 49" in str(error)
    assert "which has 48" in str(error)


def test_truncated_stack(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in")
    stack = star.with_suffix(".mrcs")
    stack.write_bytes(stack.read_bytes()[:-100])
    error = fails(star, jointly, tmp_path)
    assert error.path is not None
    assert error.path.name == "particles.mrcs"
    assert "truncated" in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(
    value: float, altered: Altered, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    star = altered(tmp_path / "in", images=with_pixel(value, 37))
    error = fails(star, jointly, tmp_path)
    assert (error.path, error.row) == (star, 37)
    assert "not finite" in str(error)


def test_constant_image(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    def change(images: np.ndarray) -> np.ndarray:
        images[11] = 3.5
        return images

    star = altered(tmp_path / "in", images=change)
    error = fails(star, jointly, tmp_path)
    assert (error.path, error.row) == (star, 12)
    assert "constant" in str(error)


@pytest.mark.parametrize(
    ("shape", "words"), [((31, 31), "odd"), ((32, 30), "not square"), ((30, 32), "not square")]
)
def test_odd_and_oblong_boxes(
    shape: tuple[int, int], words: str, altered: Altered, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    star = altered(tmp_path / "in", images=lambda images: images[:, : shape[0], : shape[1]])
    error = fails(star, jointly, tmp_path)
    assert words in str(error)
    assert "particles.mrcs" in str(error)
    assert f"{shape[0]} x {shape[1]}" in str(error)


def test_missing_pixel_size(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", drop=["rlnImagePixelSize"])
    error = fails(star, jointly, tmp_path)
    assert error.path == star
    assert "--pixel-size" in str(error)
    denoise_stack(star, tmp_path / "given", replace(jointly, pixel_size_A=2.0))


@pytest.mark.parametrize("column", ["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"])
def test_incomplete_ctf(column: str, altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", drop=[column])
    error = fails(star, jointly, tmp_path)
    assert error.path == star
    assert f"_{column}" in str(error)
    assert "--no-ctf" in str(error)
    result = denoise_stack(star, tmp_path / "without", replace(jointly, ctf=False))
    assert not result.preprocessor.phase_flip


def test_a_defocus_that_is_no_number(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", columns={"rlnDefocusU": [15000.0] * 20 + ["None"] * 28})
    error = fails(star, jointly, tmp_path)
    assert (error.path, error.row) == (star, 21)
    assert "_rlnDefocusU" in str(error)


def test_fewer_particles_than_neighbours(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    halves, alone = altered(tmp_path / "halves"), altered(tmp_path / "alone", drop=["rlnRandomSubset"])
    for star, fewest in ((halves, 24), (alone, 48)):
        error = fails(star, replace(jointly, neighbours=fewest), tmp_path)
        assert error.path == star
        assert f"{fewest} particles, too few for {fewest} neighbours" in str(error)
        assert f"--neighbours {fewest - 1}" in str(error)
        denoise_stack(star, tmp_path / f"out{fewest}", replace(jointly, neighbours=fewest - 1))


def test_uneven_half_sets(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in", columns={"rlnRandomSubset": [1] + [2] * 47})
    error = fails(star, jointly, tmp_path)
    assert "half set of 1 particles" in str(error)
    assert "--neighbours" not in str(error)


def test_an_empty_star_file(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    star = altered(tmp_path / "in")
    lines = [line for line in star.read_text().splitlines() if "@particles" not in line]
    star.write_text("\n".join(lines) + "\n")
    assert fails(star, jointly, tmp_path).path == star


def test_no_neighbours(example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path) -> None:
    for count in (0, -3):
        error = fails(example_stack.particles, replace(jointly, neighbours=count), tmp_path, PolariceError)
        assert "at least one neighbour" in str(error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_absent_device(
    device: str, example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    error = fails(example_stack.particles, replace(jointly, device=device), tmp_path, DeviceError)
    assert device in str(error)
    assert "cpu" in str(error)


def test_unknown_model(example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path) -> None:
    error = fails(example_stack.particles, replace(jointly, model="best-128"), tmp_path, ModelError)
    assert "best-128" in str(error)


def test_a_joint_network_that_finds_no_neighbours(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    config = {"box": 16, "grid": "compact", "before": 1, "match": 1, "after": 1}
    network = build_model("paper-polar-transformer", config)
    weights = tmp_path / "paper.safetensors"
    save_model(weights, network, ModelCard("paper-polar-transformer", config))
    error = fails(example_stack.particles, replace(jointly, model=str(weights)), tmp_path, ModelError)
    assert "no embedding" in str(error)


def test_a_file_that_is_no_model(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    settings = replace(jointly, model=str(example_stack.volume))
    error = fails(example_stack.particles, settings, tmp_path, ModelError)
    assert error.path == example_stack.volume


def test_unknown_column_for_sets(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    error = fails(example_stack.particles, replace(jointly, sets_from="rlnClass"), tmp_path)
    assert error.path == example_stack.particles
    assert "no column _rlnClass" in str(error)


def test_sets_for_a_single_image_model(
    example_stack: SimulationResult, single_weights: Path, tmp_path: Path
) -> None:
    settings = DenoiseSettings(model=str(single_weights), sets_from="rlnClassNumber", device="cpu")
    error = fails(example_stack.particles, settings, tmp_path, ModelError)
    assert "no use for sets" in str(error)


def test_already_denoised(example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path) -> None:
    once = denoise_stack(example_stack.particles, tmp_path / "once", jointly)
    error = fails(once.star, jointly, tmp_path)
    assert error.path == once.star
    assert "denoised already" in str(error)
    # Nor may its folder be overwritten by what is made from it.
    before = once.star.with_suffix(".mrcs").read_bytes()
    for source in (once.star, once.star.with_suffix(".mrcs")):
        with pytest.raises(PolariceError):
            denoise_stack(source, tmp_path / "once", jointly, overwrite=True)
    assert once.star.with_suffix(".mrcs").read_bytes() == before
    assert (tmp_path / "once" / "neighbours.npz").exists()


@pytest.mark.parametrize("diameter_A", [0.0, -20.0, 1000.0])
def test_a_mask_that_does_not_fit(
    diameter_A: float, example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    error = fails(example_stack.particles, replace(jointly, mask_diameter_A=diameter_A), tmp_path)
    assert f"{diameter_A:g} Å" in str(error)


def test_output_folder_that_is_not_empty(
    example_stack: SimulationResult, jointly: DenoiseSettings, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(OutputError, match="--overwrite") as caught:
        denoise_stack(example_stack.particles, tmp_path, jointly)
    assert caught.value.path == tmp_path
    assert list(tmp_path.iterdir()) == [mine]
    denoise_stack(example_stack.particles, tmp_path, jointly, overwrite=True)
    denoise_stack(example_stack.particles, tmp_path, jointly, overwrite=True)
    assert mine.read_text() == "mine"
    assert (tmp_path / "denoised.star").exists()


def test_output_folder_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for out in (file, file / "deeper" / "out"):
        with pytest.raises(OutputError) as caught:
            prepare_output(out, overwrite=True)
        assert caught.value.path == out
    prepare_output(tmp_path / "new" / "deeper", overwrite=False)
    assert not (tmp_path / "new").exists()


def test_a_disk_that_is_too_small(
    example_stack: SimulationResult,
    jointly: DenoiseSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Usage:
        free = 1000

    asked: list[Any] = []

    def usage(path: Path) -> Usage:
        asked.append(path)
        return Usage()

    monkeypatch.setattr("shutil.disk_usage", usage)
    error = fails(example_stack.particles, jointly, tmp_path, OutputError)
    assert "GB" in str(error)
    assert asked == [tmp_path]


def test_many_faults_are_one_error(altered: Altered, jointly: DenoiseSettings, tmp_path: Path) -> None:
    names = [f"{k:06d}@particles.mrcs" for k in range(1, 49)]
    names[3] = "no-name"
    star = altered(
        tmp_path / "in",
        images=lambda images: images[:, :31, :31],
        drop=["rlnVoltage"],
        columns={"rlnImageName": names, "rlnRandomSubset": [1, 2, 3] * 16},
    )
    error = fails(star, replace(jointly, sets_from="nothing"), tmp_path, PreflightError)
    assert isinstance(error, PreflightError)
    for words in ("row 4", "no-name", "odd box", "_rlnVoltage", "_rlnRandomSubset has 3", "_nothing"):
        assert words in str(error)
    # Each once, on a line of its own.
    assert len(error.problems) == len(str(error).splitlines()) - 1 == 5
