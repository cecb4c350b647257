import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from polarice.denoising import DenoiseResult, DenoiseSettings, denoise_stack
from polarice.errors import ModelError, OutputError
from polarice.evaluation import evaluate, run_demo, run_report
from polarice.evaluation.run_graph import turned
from polarice.evaluation.run_report import verdict
from polarice.evaluation.seen import bright, low_pass, model_images
from polarice.imaging import fourier_resample
from polarice.models import ModelCard, build_model, save_model
from polarice.particles import ParticleStack
from polarice.simulation import SimulationResult

Altered = Callable[..., Path]
NAMESPACE = {"h": "http://www.w3.org/1999/xhtml"}


@pytest.fixture(scope="module")
def joint(
    example_stack: SimulationResult, joint_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> DenoiseResult:
    settings = DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", mixed_precision=False)
    return denoise_stack(example_stack.particles, tmp_path_factory.mktemp("joint"), settings)


@pytest.fixture(scope="module")
def single(
    example_stack: SimulationResult, single_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> DenoiseResult:
    settings = DenoiseSettings(model=str(single_weights), device="cpu")
    return denoise_stack(example_stack.particles, tmp_path_factory.mktemp("single"), settings)


def read(page: Path) -> tuple[ET.Element, str]:
    """The page's tree and its words; it must stand alone."""
    source = page.read_text(encoding="utf-8")
    root = ET.fromstring(source)
    for element in root.iter():
        assert not element.tag.endswith(("}link", "}iframe"))
        for name in ("src", "srcset"):
            assert element.get(name, "data:").startswith("data:")
    assert not re.search(r"https?://|url\(|@import", source.replace(NAMESPACE["h"], ""))
    body = root.find("h:body", NAMESPACE)
    assert body is not None
    return root, " ".join(" ".join(body.itertext()).split())


def sections(root: ET.Element) -> list[str | None]:
    return [element.get("id") for element in root.iter() if element.tag.endswith("}section")]


def test_page_of_a_joint_run_with_truth(
    joint: DenoiseResult, example_stack: SimulationResult, tmp_path: Path
) -> None:
    measured = evaluate(joint.star, example_stack.clean, example_stack.particles)
    page = run_report(tmp_path / "page.html", joint, truth=example_stack.clean, evaluation=measured)
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    root, words = read(page)
    assert sections(root) == [
        "compare", "classes", "map", "images", "neighbours", "attention", "frequencies", "spectra",
        "confidence", "guard", "time", "files", "configuration",
    ]  # fmt: skip
    assert f"Relative MSE {measured['denoised']['relative_mse']:.3g}" in words
    assert joint.weights is not None
    assert f"Taken from neighbours {joint.weights.sum(1).mean():.0%}" in words
    for expected in (
        "48 particles of particles.star were denoised, each with up to 8 neighbours, by tiny-joint",
        "Contrast bright protein, found in the stack",
        "phases flipped",
        "Truth",
        "row 1",
        "row 48",
        str(joint.star),
        "settings.neighbours 8",
    ):
        assert expected in words
    pictures = [element.get("alt") or "" for element in root.iter() if element.tag.endswith("}img")]
    # Every particle before and after; averages, as many as have room among the particles of a half set,
    # with one particle of each; twelve particles in four rows; three neighbourhoods of a query, eight
    # neighbours and a result; six of noise before and after; who attends to whom, by angle, gain,
    # correlation, amplitude kept, power, defocus, two histograms.
    assert len([alt for alt in pictures if alt.startswith("Truth")]) == 12
    averages = [element for element in root.iter() if (element.get("id") or "").startswith("class-")]
    assert 2 <= len(averages) <= 6
    assert len(pictures) == 48 * 2 + 2 * len(averages) + 12 * 4 + 3 * 10 + 12 + 9
    assert "All particles" in words


def test_page_of_a_joint_run_without_truth(joint: DenoiseResult, tmp_path: Path) -> None:
    root, words = read(run_report(tmp_path / "page.html", joint))
    assert "frequencies" not in sections(root)
    assert "neighbours" in sections(root)
    assert "Truth" not in words
    assert "Relative MSE" not in words


@pytest.mark.parametrize("with_truth", [False, True])
def test_page_of_a_single_image_run(
    with_truth: bool, single: DenoiseResult, example_stack: SimulationResult, tmp_path: Path
) -> None:
    truth = example_stack.clean if with_truth else None
    measured = evaluate(single.star, example_stack.clean) if with_truth else None
    root, words = read(run_report(tmp_path / "page.html", single, truth=truth, evaluation=measured))
    expected = ["compare", "images", "frequencies", "spectra", "guard", "time", "files", "configuration"]
    assert sections(root) == [name for name in expected if with_truth or name != "frequencies"]
    assert "denoised, each alone, by tiny-unet" in words
    assert "Taken from neighbours" not in words


def test_what_is_not_known_is_not_said(altered: Altered, joint_weights: Path, tmp_path: Path) -> None:
    """No contrast found, no CTF, no half sets, another box than the model's, fewer than twelve rows."""

    def noise(images: np.ndarray) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(48, 64, 64))

    drop = ["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnRandomSubset"]
    star = altered(tmp_path / "in", images=noise, drop=drop)
    lines = star.read_text().splitlines()
    few = [line for line in lines if "@particles" not in line or int(line.split("@")[0]) <= 5]
    star.write_text("\n".join(few) + "\n")
    settings = DenoiseSettings(model=str(joint_weights), neighbours=2, device="cpu")
    result = denoise_stack(star, tmp_path / "out", settings)
    assert len(result.notices) == 5
    _, words = read(run_report(tmp_path / "page.html", result))
    assert "Contrast bright protein, assumed" in words
    assert "phases flipped" not in words
    assert "No half-set labels" in words
    assert "resampled" in words
    assert "grey scale was not measured" in words
    assert "row 5" in words


def test_pixels_are_shown_alike_whatever_the_box(
    altered: Altered, joint: DenoiseResult, joint_weights: Path, tmp_path: Path
) -> None:
    """The energy that particles keep does not depend on the box that they are stored in."""

    def larger(images: np.ndarray) -> np.ndarray:
        return -50 * fourier_resample(torch.from_numpy(images), 64).numpy() + 7

    star = altered(tmp_path / "in", images=larger)
    settings = DenoiseSettings(model=str(joint_weights), neighbours=8, device="cpu", mixed_precision=False)
    result = denoise_stack(star, tmp_path / "out", settings)
    kept = []
    for run in (joint, result):
        _, words = read(run_report(tmp_path / "page.html", run))
        found = re.search(r"It kept ([\d.]+)% of its energy; the particles kept ([\d.]+)%", words)
        assert found
        kept.append([float(value) for value in found.groups()])
    assert kept[1] == pytest.approx(kept[0], rel=0.15)
    assert kept[0][1] > 0
    # In the same units and the same contrast; resampling loses the Nyquist frequency, and with it noise.
    rows = np.array([0, 20])
    one, other = (
        torch.from_numpy(bright(run, ParticleStack.open(run.source), rows)) for run in (joint, result)
    )
    pixel = joint.preprocessor.pixel_size_A
    expected, found = low_pass(one, pixel), low_pass(fourier_resample(other, 32), pixel)
    assert float((found - expected).square().sum() / expected.square().sum()) < 0.01


def test_neighbours_are_turned_as_their_angles_say() -> None:
    """A round Gaussian off the centre, turned from x towards y, lies where the rotation puts it."""
    axis = torch.arange(32.0) - 16
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def gaussian(at_x: float, at_y: float) -> torch.Tensor:
        return torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 8)

    angles = torch.tensor([0.0, 90.0, 30.0, -120.0])
    found = turned(gaussian(8, 2).expand(4, -1, -1), angles)
    cos, sin = angles.deg2rad().cos(), angles.deg2rad().sin()
    for image, c, s in zip(found, cos.tolist(), sin.tolist(), strict=True):
        expected = gaussian(8 * c - 2 * s, 8 * s + 2 * c)
        torch.testing.assert_close(image, expected, rtol=0, atol=0.03)


def test_low_pass_is_a_gaussian() -> None:
    """A point becomes a Gaussian of exp(-(20 Å f)² / 2)."""
    point = torch.zeros(1, 64, 64)
    point[0, 32, 32] = 1
    found = torch.fft.fft2(torch.fft.ifftshift(low_pass(point, 4.0)[0])).real
    frequency = torch.fft.fftfreq(64, 4.0)
    radius = torch.hypot(frequency[:, None], frequency[None])
    torch.testing.assert_close(found, torch.exp(-((20 * radius) ** 2) / 2), rtol=0, atol=1e-5)


def test_the_network_saw_what_is_shown(joint: DenoiseResult, example_stack: SimulationResult) -> None:
    seen = model_images(joint, ParticleStack.open(example_stack.particles), np.arange(48))
    assert seen.shape == (48, 32, 32)
    # White noise of variance one inside the disc, and little signal.
    middle = seen[:, 8:24, 8:24]
    assert float(middle.square().mean()) == pytest.approx(1.3, abs=0.4)
    assert not seen[:, 0, 0].any()


def test_a_page_that_cannot_be_written(single: DenoiseResult, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        run_report(tmp_path / "absent" / "page.html", single)
    assert list(tmp_path.iterdir()) == []


def test_demo_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small random networks under the shipped ones' names."""
    torch.manual_seed(0)
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setattr("polarice.models.registry.WEIGHTS_FOLDER", weights)
    for name, architecture, config in (
        ("unet-64", "unet", {"box": 64, "widths": [4, 8]}),
        ("polar-transformer-64", "polar-transformer", {"box": 64, "widths": [4, 8], "match_channels": 2}),
    ):
        card = ModelCard(architecture, config)
        save_model(weights / f"{name}.safetensors", build_model(architecture, config), card)
    out = tmp_path / "demo"
    told: list[str] = []
    result = run_demo(out, particles=64, device="cpu", progress=lambda stage, done, total: told.append(stage))
    assert list(result.relative_mse) == ["noisy", "unet-64", "polar-transformer-64"]
    # The SNR of 0.05 is that after the CTF, which takes most of the truth's power away.
    assert 2 < result.relative_mse["noisy"] < 1 / 0.05
    root, words = read(result.page)
    # The random network takes next to nothing from neighbours: no map, no averages.
    assert len(sections(root)) == 11
    assert f"Relative MSE {result.relative_mse['polar-transformer-64']:.3g}" in words
    assert "Denoised by unet-64" in words
    stages = list(dict.fromkeys(told))
    assert stages[0] == "simulate"
    for name in ("unet-64", "polar-transformer-64"):
        assert any(stage.startswith(f"{name}: ") for stage in stages)
        assert (out / name / "denoised.star").exists()


def test_demo_without_weights_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarice.models.registry.WEIGHTS_FOLDER", tmp_path / "none")
    with pytest.raises(ModelError):
        run_demo(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    ("share", "probability", "level", "words"),
    [
        (0.9, 1.0, "good", "100% of the particles found neighbours"),
        (0.02, 1.0, "warning", "denoised nearly alone"),
        (0.9, 0.01, "warning", "90% of an image comes from others"),
        (0.9, np.repeat([0.01, 1], 20)[:, None], "warning", "50% of the particles found hardly any"),
    ],
)
def test_the_page_begins_with_a_verdict(
    share: float,
    probability: float | np.ndarray,
    level: str,
    words: str,
    joint: DenoiseResult,
) -> None:
    weights = np.full((40, 8), share / 8, np.float32)
    table = np.float32(np.broadcast_to(probability, weights.shape))
    there = np.ones(len(weights), np.float32)
    (notice,) = verdict(replace(joint, weights=weights, probability=table, presence=there))
    assert notice.level == level
    assert words in notice.text
    assert verdict(replace(joint, weights=None)) == ()
