import json
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from polarice.classification import ClassifyResult, ClassifySettings, classify_stack, refine_classes
from polarice.classification.classes import Classes, first_classes, without_member
from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.errors import ParticleFileError, PolariceError, PreflightError
from polarice.evaluation import adjusted_rand_index
from polarice.imaging import move_images, turn_matrices
from polarice.neighbours import DiscHarmonics, StackViews, ViewEstimator, Views, learn_from_stack
from polarice.particles import ParticleStack, ParticleWriter, read_star
from polarice.simulation import SimulationResult, example_structure, simulate

Altered = Callable[..., Path]
CPU = torch.device("cpu")
KINDS = 8


@pytest.fixture(scope="module")
def clear_stack(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """192 particles of eight views, off centre, with a CTF, little noise."""
    return simulate(
        example_structure(),
        tmp_path_factory.mktemp("clear"),
        particles=192,
        box=32,
        snr=0.5,
        ctf=True,
        max_shift_px=1.0,
        views="sets",
        set_size=192 // KINDS,
        set_angle_deg=3,
        seed=2,
    )


@pytest.fixture(scope="module")
def settings() -> ClassifySettings:
    return ClassifySettings(classes=KINDS, device="cpu", mixed_precision=False)


@pytest.fixture(scope="module")
def classified(
    clear_stack: SimulationResult, settings: ClassifySettings, tmp_path_factory: pytest.TempPathFactory
) -> ClassifyResult:
    """The clear stack, classified; nothing may change its files."""
    return classify_stack(clear_stack.particles, tmp_path_factory.mktemp("classes") / "out", settings)


def true_classes(result: ClassifyResult) -> np.ndarray:
    return np.array(ParticleStack.open(result.source).column("rlnClassNumber"))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def test_views_become_classes(classified: ClassifyResult) -> None:
    assert adjusted_rand_index(classified.label, true_classes(classified)) > 0.9
    assert (np.diff(classified.members) <= 0).all()
    assert classified.members.sum() == 192
    assert np.median(classified.probability) > 0.95
    assert np.median(classified.evidence) > 5


def test_averages_show_what_their_members_show(
    classified: ClassifyResult, clear_stack: SimulationResult
) -> None:
    """Clean images, turned and moved as the members were, look like the average; unturned they do not."""
    clean = torch.from_numpy(ParticleStack.open(clear_stack.clean).images(slice(None)))
    angles = torch.from_numpy(classified.angles_deg)
    laid = move_images(clean, turn_matrices(-torch.deg2rad(angles)), torch.from_numpy(classified.centre_px))
    axis = np.arange(32) - 16
    inside = np.hypot(*np.meshgrid(axis, axis)) < 13
    turned, as_they_came = [], []
    for number, average in enumerate(classified.averages):
        members = classified.label == number
        turned.append(correlation(laid[members].mean(0).numpy()[inside], average[inside]))
        as_they_came.append(correlation(clean[members].mean(0).numpy()[inside], average[inside]))
    assert min(turned) > 0.85
    assert np.mean(turned) > np.mean(as_they_came) + 0.05


def test_files(classified: ClassifyResult) -> None:
    out = Path(next(iter(classified.files))).parent
    names = ["classes_averages.mrcs", "classes_data.star", "classes_model.star", "classify.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    np.testing.assert_array_equal(mrcfile.read(out / names[0]), classified.averages)
    source, data = ParticleStack.open(classified.source), ParticleStack.open(out / names[1])
    assert data.problems() == []
    np.testing.assert_array_equal(data.images(slice(0, 5)), source.images(slice(0, 5)))
    label = data.numeric("rlnClassNumber")
    assert label is not None
    np.testing.assert_array_equal(label, classified.label + 1)
    shifts = data.shifts_px()
    assert shifts is not None
    np.testing.assert_allclose(shifts, classified.centre_px, atol=1e-3)
    tables = {table.name: table for table in read_star(out / names[2])[0]}
    shares = [float(share) for share in tables["model_classes"].columns["rlnClassDistribution"]]
    np.testing.assert_allclose(shares, classified.members / 192, atol=1e-5)
    written = json.loads((out / names[3]).read_text())
    assert written["configuration"]["settings"]["classes"] == KINDS
    assert written["figures"]["largest_class"] == classified.members[0]


def test_relion_turns_members_upon_each_other(classified: ClassifyResult, tmp_path: Path) -> None:
    """What RELION makes of the angles and shifts agrees with the averages."""
    if shutil.which("relion_stack_create") is None:
        pytest.skip("RELION is absent")
    data = next(Path(file) for file in classified.files if file.endswith("_data.star"))
    subprocess.run(
        ["relion_stack_create", "--i", data, "--o", tmp_path / "turned", "--apply_transformation"],
        check=True,
        capture_output=True,
        timeout=100,
        cwd=tmp_path,
    )
    turned = mrcfile.read(tmp_path / "turned.mrcs")
    for number in range(3):
        mean = turned[classified.label == number].mean(0)
        # Without a CTF correction; still the same picture, and no other class's.
        own = correlation(mean[8:24, 8:24], classified.averages[number][8:24, 8:24])
        assert own > 0.7
        plain = ParticleStack.open(classified.source).images(classified.label == number).mean(0)
        assert own > correlation(plain[8:24, 8:24], classified.averages[number][8:24, 8:24]) + 0.05


def test_denoised_pixels_too(
    clear_stack: SimulationResult, settings: ClassifySettings, joint_weights: Path, tmp_path: Path
) -> None:
    denoised = denoise_stack(
        clear_stack.particles, tmp_path / "denoised", DenoiseSettings(model=str(joint_weights), device="cpu")
    )
    result = classify_stack(clear_stack.particles, tmp_path / "c", replace(settings, denoised=denoised.star))
    assert result.denoised_averages is not None
    assert result.denoised_averages.shape == result.averages.shape
    images = torch.from_numpy(ParticleStack.open(denoised.star).images(slice(None)))
    turns = turn_matrices(-torch.deg2rad(torch.from_numpy(result.angles_deg)))
    laid = move_images(images, turns, torch.from_numpy(result.centre_px))
    expected = laid[result.label == 0].mean(0).numpy()
    np.testing.assert_allclose(result.denoised_averages[0], expected, atol=1e-4)
    assert (tmp_path / "c" / "classes_denoised.mrcs").is_file()


def test_a_bare_stack_dark_protein_and_a_larger_box(
    altered: Altered, settings: ClassifySettings, tmp_path: Path
) -> None:
    bare = altered(tmp_path / "in", images=lambda images: -2 * images + 7).with_suffix(".mrcs")
    result = classify_stack(bare, tmp_path / "out", replace(settings, pixel_size_A=3.0, contrast="dark"))
    data = ParticleStack.open(tmp_path / "out" / "classes_data.star")
    assert data.problems() == []
    assert data.pixel_size_A == 3.0
    # Dark protein stays dark.
    centre = result.averages[0][12:20, 12:20].mean()
    assert centre < result.averages[0][:4].mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 0}, "at least one class"),
        ({"classes": 97}, "192 particles are too few for 97 classes.*--classes 19"),
        ({"mask_diameter_A": 1e4}, "does not fit a box"),
    ],
)
def test_what_cannot_be_classified(
    changes: dict[str, object],
    words: str,
    clear_stack: SimulationResult,
    settings: ClassifySettings,
    tmp_path: Path,
) -> None:
    with pytest.raises(PolariceError, match=words):
        classify_stack(clear_stack.particles, tmp_path / "out", replace(settings, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_denoised_images_must_be_those(
    clear_stack: SimulationResult,
    example_stack: SimulationResult,
    settings: ClassifySettings,
    tmp_path: Path,
) -> None:
    for star, words in ((example_stack.particles, "has 48 images"), (clear_stack.particles, "not denoised")):
        with pytest.raises((ParticleFileError, PreflightError), match=words):
            classify_stack(clear_stack.particles, tmp_path / "out", replace(settings, denoised=star))


def test_noise_has_no_classes(settings: ClassifySettings, tmp_path: Path) -> None:
    with ParticleWriter(tmp_path, "noise", box=32, pixel_size_A=3.0) as writer:
        writer.append(np.random.default_rng(0).normal(size=(400, 32, 32)))
    with pytest.raises(ParticleFileError, match="stands out of the noise"):
        classify_stack(writer.star_path, tmp_path / "out", replace(settings, contrast="bright"))
    assert not list((tmp_path / "out").iterdir())


# -- the mathematics, without files ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def kinds() -> tuple[StackViews, np.ndarray]:
    """600 images of eight views in white noise, turned at random, and the view of each."""
    harmonics = DiscHarmonics(16)
    generator = torch.Generator().manual_seed(0)
    shown = 1.2 * torch.randn(KINDS, len(harmonics.orders), dtype=torch.complex64, generator=generator)
    shown[:, harmonics.orders == 0] = 3 + shown[:, harmonics.orders == 0].real + 0j
    view = torch.randint(KINDS, (600,), generator=generator)
    turn = 2 * math.pi * torch.rand(600, 1, generator=generator)
    images = harmonics.synthesise(shown[view] * torch.exp(-1j * harmonics.orders * turn))
    images += torch.randn(600, 16, 16, generator=generator)
    passed, zeros = np.ones((600, len(harmonics.orders)), np.float16), np.zeros((600, 2), np.float32)
    spectra = harmonics.spectra(images).numpy()
    return StackViews(spectra, passed, zeros, np.ones((600, 1), np.float32)), view.numpy()


def classes_of(views: StackViews, count: int) -> tuple[ViewEstimator, torch.Tensor, Views, Classes]:
    learned = learn_from_stack(DiscHarmonics(16), views, np.arange(len(views.centre)), CPU)
    estimator = ViewEstimator(learned.likelihood)
    images = estimator.images(learned.features)
    first = first_classes(learned, count)
    return estimator, images, first, refine_classes(estimator, images, first)


def test_the_first_views_cover_the_stack(kinds: tuple[StackViews, np.ndarray]) -> None:
    views, view = kinds
    estimator, images, first, classes = classes_of(views, KINDS)
    ratio = estimator.log_ratio(Views(first.mean[None], first.members[None]), images[:, None])
    assert adjusted_rand_index(ratio.argmax(1).numpy(), view) > 0.9
    assert adjusted_rand_index(classes.label.numpy(), view) > 0.97
    # More classes than views: views are divided, not mixed.
    *_, finer = classes_of(views, 3 * KINDS)
    purest = sum(np.bincount(view[finer.label.numpy() == k]).max(initial=0) for k in range(3 * KINDS))
    assert purest > 0.97 * len(view)


def test_a_view_without_a_member_is_as_if_it_never_was_one(kinds: tuple[StackViews, np.ndarray]) -> None:
    """Where the angle is sure, taking an image out undoes putting it in."""
    estimator, images, _, classes = classes_of(kinds[0], KINDS)
    everybody = torch.ones(len(images), dtype=torch.bool)
    unseen = without_member(estimator, classes.views, classes.label, images, everybody)
    again = estimator.estimate(
        estimator.sums(unseen) + estimator.turned_back(unseen, images), unseen.members + 1
    )
    whole = classes.views.at(classes.label)
    torch.testing.assert_close(again.members, whole.members)
    assert float((again.mean - whole.mean).norm() / whole.mean.norm()) < 0.05
    nobody = without_member(estimator, classes.views, classes.label, images, ~everybody)
    torch.testing.assert_close(nobody.mean, whole.mean)


def test_nothing_old_remains(
    clear_stack: SimulationResult, settings: ClassifySettings, tmp_path: Path
) -> None:
    """What another or a killed run has left goes when a new one begins."""
    (tmp_path / ".scratch-killed").mkdir()
    for name in ("classes_denoised.mrcs", "classes.html"):
        (tmp_path / name).write_text("old")
    classify_stack(clear_stack.particles, tmp_path, settings, overwrite=True)
    names = ["classes_averages.mrcs", "classes_data.star", "classes_model.star", "classify.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
