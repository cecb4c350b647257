import importlib
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from polarice.errors import PolariceError
from polarice.evaluation import evaluate, evaluation_curves, evaluation_figures
from polarice.evaluation.metrics import fourier_ring_correlation, psnr, relative_mse, shell_gain, ssim
from polarice.particles import ParticleStack

PIXEL_A = 2.5

# The function hides the module of the same name.
module = importlib.import_module("polarice.evaluation.evaluate")


def write(path: Path, images: NDArray[np.floating], pixel_A: float = PIXEL_A) -> Path:
    with mrcfile.new(path) as mrc:
        mrc.set_data(images.astype(np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = pixel_A
    return path


@pytest.fixture
def truth() -> NDArray[np.float32]:
    images = torch.randn(9, 20, 20, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.avg_pool2d(images, 5, 1).numpy()


@pytest.fixture
def truth_path(tmp_path: Path, truth: NDArray[np.float32]) -> Path:
    return write(tmp_path / "truth.mrcs", truth)


@pytest.mark.parametrize("pixels_per_batch", [2**20, 600])
def test_streamed_figures_equal_those_of_all_images_at_once(
    tmp_path: Path,
    truth: NDArray[np.float32],
    truth_path: Path,
    pixels_per_batch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noise = np.random.default_rng(2).normal(size=(2, *truth.shape))
    denoised = (0.7 * truth + 0.05 * noise[0]).astype(np.float32)
    noisy = (truth + noise[1]).astype(np.float32)
    monkeypatch.setattr(module, "PIXELS_PER_BATCH", pixels_per_batch)
    result = evaluate(
        write(tmp_path / "denoised.mrcs", denoised), truth_path, write(tmp_path / "noisy.mrcs", noisy)
    )
    span = float(truth.max()) - float(truth.min())
    assert result["data_range"] == pytest.approx(span)
    assert (result["images"], result["box"], result["pixel_size_A"]) == (9, 16, PIXEL_A)
    assert result["frequency_per_A"] == pytest.approx(np.arange(9) / 40)
    x = torch.from_numpy(truth).double()
    for name, images in (("denoised", denoised), ("noisy", noisy)):
        y, figures = torch.from_numpy(images).double(), result[name]
        assert figures["relative_mse"] == pytest.approx(float(relative_mse(y, x)))
        scale = float(np.vdot(images, truth)) / float(np.vdot(images, images))
        assert figures["best_scale"] == pytest.approx(scale, rel=1e-5)
        assert figures["relative_mse_after_scaling"] == pytest.approx(float(relative_mse(scale * y, x)))
        assert figures["psnr_dB"] == pytest.approx(float(psnr(y, x, span).mean()))
        assert figures["ssim"] == pytest.approx(float(ssim(y, x, span).mean()))
        np.testing.assert_allclose(figures["frc"], fourier_ring_correlation(y, x).numpy(), atol=1e-12)
        np.testing.assert_allclose(figures["shell_gain"], shell_gain(y, x).numpy(), atol=1e-12)
    assert result["denoised"]["resolution_A"] < 10
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_memory_is_bounded_by_the_batch(
    tmp_path: Path, truth: NDArray[np.float32], truth_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    read = ParticleStack.images

    def images(stack: ParticleStack, rows: range) -> NDArray[np.float32]:
        sizes.append(len(rows))
        return read(stack, rows)

    monkeypatch.setattr(ParticleStack, "images", images)
    monkeypatch.setattr(module, "PIXELS_PER_BATCH", 2 * 16 * 16)
    evaluate(truth_path, truth_path)
    assert max(sizes) == 2
    assert sum(sizes) == 3 * 9


def test_damped_truth_has_closed_forms(tmp_path: Path, truth: NDArray[np.float32], truth_path: Path) -> None:
    figures = evaluate(write(tmp_path / "half.mrcs", truth / 2), truth_path)["denoised"]
    assert figures["relative_mse"] == pytest.approx(0.25)
    assert figures["best_scale"] == pytest.approx(2)
    assert figures["relative_mse_after_scaling"] == pytest.approx(0, abs=1e-12)
    assert figures["shell_gain"] == pytest.approx([0.5] * 9)
    assert figures["frc"] == pytest.approx([1] * 9)
    assert figures["resolution_A"] == pytest.approx(2 * PIXEL_A)


def test_extremes_stay_json(tmp_path: Path, truth: NDArray[np.float32], truth_path: Path) -> None:
    perfect = evaluate(truth_path, truth_path)
    assert perfect["denoised"]["relative_mse"] == 0
    assert perfect["denoised"]["psnr_dB"] is None
    assert perfect["denoised"]["ssim"] == pytest.approx(1)
    empty = evaluate(write(tmp_path / "empty.mrcs", 0 * truth), truth_path)
    assert empty["denoised"]["relative_mse"] == empty["denoised"]["relative_mse_after_scaling"] == 1
    assert empty["denoised"]["resolution_A"] is None
    assert empty["denoised"]["frc"] == [0] * 9
    json.dumps([perfect, empty], allow_nan=False)


def test_stacks_that_do_not_correspond_are_refused(
    tmp_path: Path, truth: NDArray[np.float32], truth_path: Path
) -> None:
    for other, message in (
        (write(tmp_path / "short.mrcs", truth[:8]), "has 8 images where .*truth.mrcs has 9"),
        (write(tmp_path / "small.mrcs", truth[:, :14, :14]), "has 14 pixels a side where .* has 16"),
        (write(tmp_path / "pixel.mrcs", truth, 3.0), "has 3 Å per pixel where .* has 2.5"),
    ):
        with pytest.raises(PolariceError, match=message):
            evaluate(other, truth_path)
        with pytest.raises(PolariceError, match=message):
            evaluate(truth_path, truth_path, other)
    assert evaluate(other, truth_path, pixel_size_A=4.0)["pixel_size_A"] == 4


def test_bad_grey_values_name_file_and_row(
    tmp_path: Path, truth: NDArray[np.float32], truth_path: Path
) -> None:
    broken = truth.copy()
    broken[6, 3, 3] = np.nan
    with pytest.warns(RuntimeWarning, match="NaN"):
        path = write(tmp_path / "broken.mrcs", broken)
    with pytest.raises(PolariceError, match=r"broken.mrcs, row 7: .* not a number"):
        evaluate(path, truth_path)
    flat = write(tmp_path / "flat.mrcs", np.ones_like(truth))
    with pytest.raises(PolariceError, match=r"flat.mrcs: every grey value is the same"):
        evaluate(truth_path, flat)


def test_tiny_boxes_are_refused(tmp_path: Path) -> None:
    tiny = write(tmp_path / "tiny.mrcs", np.random.default_rng(0).normal(size=(2, 8, 8)))
    with pytest.raises(PolariceError, match="8 pixels is too small"):
        evaluate(tiny, tiny)


def test_summary_for_the_report(tmp_path: Path, truth: NDArray[np.float32], truth_path: Path) -> None:
    noisy = write(tmp_path / "noisy.mrcs", truth + np.random.default_rng(0).normal(size=truth.shape))
    result = evaluate(write(tmp_path / "half.mrcs", truth / 2), truth_path, noisy)
    figures = {figure.label: figure for figure in evaluation_figures(result)}
    assert figures["Relative MSE"].value == "0.25"
    assert figures["Relative MSE"].note.startswith(f"noisy: {result['noisy']['relative_mse']:.3g}; ")
    assert f"{result['data_range']:.3g}" in figures["PSNR"].note
    assert figures["Agrees with the truth to"].value == "5.0 Å"
    curves = evaluation_curves(result)
    assert (curves.box, curves.pixel_size_A) == (16, PIXEL_A)
    np.testing.assert_allclose(curves.gain[0].values, 0.5, rtol=1e-6)
    assert [curve.label for curve in curves.frc] == ["denoised", "noisy"]
    perfect = evaluate(truth_path, truth_path)
    assert {figure.label: figure.value for figure in evaluation_figures(perfect)}["PSNR"] == "–"
