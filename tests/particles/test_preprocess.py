"""The networks' grey scale and the way back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.errors import ParticleFileError, PolariceError
from polarice.imaging import CTF, filter_images, fourier_resample, radius_grid, soft_disc
from polarice.particles import ImageStatistics, ParticleStack, Preprocessor, StackScan, measure, scan
from polarice.particles.scan import Contrast

Build = Callable[..., Path]


def preprocessor(
    box: int = 64, model_box: int = 64, contrast: Contrast = "bright", flip: bool = False
) -> Preprocessor:
    return Preprocessor(box, 3.0, model_box, contrast, flip, flip, mask_diameter_A=box * 3.0)


def some_ctf(n: int) -> CTF:
    one = torch.ones(n)
    return CTF(one * 15000, one * 14000, one * 30, one * 300, one * 2.7, one * 0.1, one * 0, one * 0)


def smooth(n: int, box: int, generator: torch.Generator) -> Tensor:
    """Images without detail near the Nyquist frequency or at the edge of the box."""
    images = fourier_resample(torch.randn(n, box // 4, box // 4, generator=generator), box)
    return images * soft_disc(box, box * 0.35, box * 0.15)


@pytest.mark.parametrize(("box", "model_box"), [(64, 64), (96, 64), (48, 64), (128, 32)])
@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_noise_comes_out_standard(
    box: int, model_box: int, contrast: Contrast, generator: torch.Generator
) -> None:
    images = 700 + 45 * torch.randn(200, box, box, generator=generator)
    found = measure(fourier_resample(images, model_box), source_box=box)
    tool = preprocessor(box, model_box, contrast, True)
    model = tool.forward(images, tool.transfer(some_ctf(200), found), found)
    inside = model[:, radius_grid(model_box) < model_box / 2 - 5]
    assert inside.mean() == pytest.approx(0, abs=0.01)
    # Padding leaves the density of the noise per frequency, over fewer frequencies.
    assert inside.std() == pytest.approx(min(1, box / model_box), rel=0.015)
    assert (model[:, radius_grid(model_box) >= model_box / 2] == 0).all()


def test_forward_is_the_formula(generator: torch.Generator) -> None:
    images = torch.randn(3, 64, 64, generator=generator, dtype=torch.float64) * 20 + 500
    ctf = some_ctf(3).to("cpu", torch.float64)
    statistics = ImageStatistics(torch.tensor([490.0, 500.0, 510.0]), torch.tensor([18.0, 20.0, 22.0]))
    tool = Preprocessor(64, 3.0, 64, "dark", True, True, mask_diameter_A=150.0)
    model = tool.forward(images, tool.transfer(ctf, statistics), statistics)
    spectrum = np.fft.fft2(images.numpy() - np.array([490.0, 500.0, 510.0])[:, None, None])
    half = ctf.evaluate(64, 3.0).numpy()
    sign = np.empty((3, 64, 64))
    sign[:, :, :33] = np.where(half < 0, -1, 1)
    sign[:, :, 33:] = sign[:, -np.arange(64) % 64, :][:, :, 31:0:-1]
    flipped = np.fft.ifft2(spectrum * sign).real
    truth = -flipped / np.array([18.0, 20.0, 22.0])[:, None, None] * soft_disc(64, 25.0, 4.0).numpy()
    np.testing.assert_allclose(model.numpy(), truth, atol=1e-5)


@pytest.mark.parametrize(("box", "model_box"), [(64, 64), (96, 64), (48, 64)])
@pytest.mark.parametrize("contrast", ["bright", "dark"])
def test_inverse_gives_the_grey_scale_back(
    box: int, model_box: int, contrast: Contrast, generator: torch.Generator
) -> None:
    particle = smooth(5, box, generator) * 300
    images = 1000 + particle
    statistics = ImageStatistics(torch.full((5,), 1000.0), torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0]))
    tool = preprocessor(box, model_box, contrast)
    back = tool.inverse(tool.forward(images, None, statistics), statistics)
    torch.testing.assert_close(back, images, atol=1.0, rtol=0)  # of grey values up to 300


def test_flipped_images_come_back_flipped(generator: torch.Generator) -> None:
    clean = smooth(4, 64, generator)
    transfer = some_ctf(4).evaluate(64, 3.0)
    images = 50 - 8 * filter_images(clean, transfer)
    statistics = ImageStatistics(torch.full((4,), 50.0), torch.full((4,), 2.0))
    tool = preprocessor(contrast="dark", flip=True)
    model = tool.forward(images, tool.transfer(some_ctf(4), statistics), statistics)
    torch.testing.assert_close(
        model, 4 * filter_images(clean, transfer.abs()) * tool.mask(statistics), atol=1e-3, rtol=0
    )
    back = tool.inverse(model, statistics)
    torch.testing.assert_close(back, 50 - 2 * model)


@pytest.mark.parametrize(("box", "model_box"), [(65, 64), (64, 63)])
def test_odd_boxes_are_refused(box: int, model_box: int) -> None:
    with pytest.raises(ParticleFileError, match="is not even"):
        preprocessor(box, model_box)


@pytest.mark.parametrize("diameter_A", [0.0, -5.0, 193.0])
def test_masks_that_do_not_fit_are_refused(diameter_A: float) -> None:
    with pytest.raises(ParticleFileError, match="does not fit a box of 192 A"):
        Preprocessor(64, 3.0, 64, "bright", False, False, diameter_A)


def test_images_that_do_not_fit_are_refused() -> None:
    statistics = ImageStatistics(torch.zeros(1), torch.ones(1))
    with pytest.raises(PolariceError, match=r"\(1, 32, 32\) do not fit"):
        preprocessor().forward(torch.zeros(1, 32, 32), None, statistics)
    with pytest.raises(PolariceError, match="do not fit"):
        preprocessor().inverse(torch.zeros(64, 64), statistics)
    with pytest.raises(PolariceError, match="without a CTF"):
        preprocessor(flip=True).forward(torch.zeros(1, 64, 64), None, statistics)


def found_as(contrast: Contrast | None, n: int = 10) -> StackScan:
    statistics = ImageStatistics(torch.zeros(n), torch.ones(n))
    return StackScan(8, statistics, contrast, 0.7, torch.arange(n), torch.zeros(n, dtype=torch.bool))


def test_choices_for_a_stack(small_stack: Path) -> None:
    stack = ParticleStack.open(small_stack)
    tool = Preprocessor.for_stack(stack, found_as("dark"))
    assert (tool.contrast, tool.sign, tool.phase_flip, tool.notices) == ("dark", -1.0, True, ())
    assert tool.mask_diameter_A == 16.0
    unknown = Preprocessor.for_stack(stack, found_as(None))
    assert unknown.contrast == "bright"
    assert "taken as bright" in unknown.notices[0]
    assert Preprocessor.for_stack(stack, found_as(None), contrast="dark").notices == ()
    against = Preprocessor.for_stack(stack, found_as("dark"), contrast="bright")
    assert against.contrast == "bright"
    assert "look dark" in against.notices[0]
    summary = tool.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["model_pixel_size_A"] == 2.0


def test_phases_are_not_flipped_twice(small_stack: Path) -> None:
    text = small_stack.read_text()
    for column in ("rlnCtfDataArePhaseFlipped", "rlnCtfDataAreCtfPremultiplied"):
        small_stack.write_text(
            text.replace("Dimensionality #8\n", f"Dimensionality #8\n_{column} #9\n").replace(
                " 8 2\n", " 8 2 1\n"
            )
        )
        tool = Preprocessor.for_stack(ParticleStack.open(small_stack), found_as("dark"))
        assert not tool.phase_flip
        assert tool.notices == ()


def test_bare_stack_is_not_flipped_and_says_so(tmp_path: Path, write_stack: Build) -> None:
    stack = ParticleStack.open(write_stack(tmp_path / "a.mrcs", np.zeros((10, 4, 4), "f4")))
    tool = Preprocessor.for_stack(stack, found_as("dark"))
    assert not tool.phase_flip
    assert "phases are not flipped" in tool.notices[0]
    assert "padded to the model's 8" in tool.notices[1]


@pytest.mark.data
def test_preprocessed_apoferritin(shared_data: Path) -> None:
    stack = ParticleStack.open(shared_data / "particles" / "apoferritin" / "native_128.star")
    found = scan(stack, 64)
    tool = Preprocessor.for_stack(stack, found, mask_diameter_A=None)
    images = torch.from_numpy(stack.images(slice(None)))
    model = tool.forward(images, tool.transfer(stack.ctf(slice(None)), found.statistics), found.statistics)
    average = model.mean(0)
    radius_A = radius_grid(64) * tool.model_pixel_size_A
    # Apoferritin is a shell of 120 Å outside and 80 Å inside: bright there, dark around it.
    shell = average[(radius_A > 38) & (radius_A < 52)].mean()
    assert shell > 0.4
    assert shell > average[radius_A < 15].mean() + 0.3
    assert average[(radius_A > 62) & (radius_A < 76)].mean() < -0.2
    # The README of the data gives 0.19 to 0.39 for signal over noise within 66 Å.
    variance = model[:, radius_A < 66].var()
    assert 1.19 < variance < 1.45
