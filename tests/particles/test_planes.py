"""Slopes of the ice against those that were planted, beside noise, particles and neighbours."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.imaging import CTF, filter_images, fourier_resample, frequency_grid, shift_images, soft_disc
from polarice.particles import ParticleStack, ParticleWriter, Preprocessor, measure, scan
from polarice.particles.noise import NoiseMoments
from polarice.particles.planes import PlaneMoments, fit_slopes, planes

BOX = 64


def scene(kind: str, n: int, generator: torch.Generator) -> Tensor:
    """Images without slopes: noise of standard deviation 1 and what lies in it."""
    noise = torch.randn(n, BOX, BOX, generator=generator)
    if kind == "white":
        return noise
    fy, fx = frequency_grid(BOX)
    if kind == "ice":
        return filter_images(noise, (1 + 9 * torch.exp(-((torch.hypot(fy, fx) * BOX / 6) ** 2))).sqrt())
    # As out of a micrograph, seen through a CTF on a wider canvas: nothing comes in on the other side.
    disc = torch.nn.functional.pad(soft_disc(BOX, 14, 4), (32, 32, 32, 32)).expand(n, -1, -1)
    one = torch.ones(n)
    defocus = 8000 + 18000 * torch.rand(n, generator=generator)
    ctf = CTF(defocus, defocus, one * 0, one * 300, one * 2.7, one * 0.1, one * 0, one * 0)
    far = 3 if kind == "off centre" else 0
    places = [far * torch.randn(n, 2, generator=generator)]
    if kind == "crowded":
        angle = 2 * math.pi * torch.rand(3, n, generator=generator)
        places += [34 * torch.stack([a.cos(), a.sin()], 1) for a in angle]
    clean = torch.stack([shift_images(disc, place) for place in places]).sum(0)
    seen = filter_images(clean, ctf.evaluate(2 * BOX, 3.0))[:, 32:-32, 32:-32]
    return 2 * seen + noise


def random_slopes(n: int, rise: float, generator: torch.Generator) -> Tensor:
    """Planes that rise by up to so much from edge to edge, in any direction."""
    steep = rise / BOX * torch.rand(n, generator=generator)
    towards = 2 * math.pi * torch.rand(n, generator=generator)
    return torch.stack([steep * towards.cos(), steep * towards.sin()], 1)


def share(images: Tensor, box: int = BOX) -> float:
    moments = PlaneMoments(box, images.shape[-1])
    for part in images.split(150):
        moments.add(fourier_resample(part, box), fit_slopes(part))
    return moments.share()


def test_slopes_are_those_of_planes(generator: torch.Generator) -> None:
    slopes = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    made = planes(slopes, 20)
    torch.testing.assert_close(fit_slopes(made + 7), slopes)
    torch.testing.assert_close(made[:, 3, 5] - made[:, 3, 4], slopes[:, 0])
    torch.testing.assert_close(made[:, 4, 5] - made[:, 3, 5], slopes[:, 1])
    assert made.mean((1, 2)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["white", "ice", "particles", "off centre", "crowded"])
@pytest.mark.parametrize("rise", [1.0, 4.0])
def test_share_takes_the_planes_off(kind: str, rise: float, generator: torch.Generator) -> None:
    """Nearly as much of them as the best factor would, and never makes it worse than leaving them."""
    true = random_slopes(600, rise, generator)
    images = scene(kind, 600, generator) + planes(true, BOX)
    fitted, found = fit_slopes(images), share(images)
    best = float((fitted * true).sum() / fitted.square().sum())
    left = [float((factor * fitted - true).square().sum() / true.square().sum()) for factor in (found, best)]
    assert left[0] < left[1] + 0.05
    assert left[1] < 1


@pytest.mark.parametrize("kind", ["white", "ice", "particles", "off centre", "crowded"])
def test_even_ice_stays_as_it_is(kind: str, generator: torch.Generator) -> None:
    assert share(scene(kind, 600, generator)) == 0


def test_the_model_box_does_not_matter(generator: torch.Generator) -> None:
    images = scene("white", 400, generator) + planes(random_slopes(400, 2.0, generator), BOX)
    assert share(images, 32) == pytest.approx(share(images), abs=0.05)
    assert share(images, 96) == pytest.approx(share(images), abs=0.05)


def test_planes_are_not_taken_for_noise(generator: torch.Generator) -> None:
    plain = scene("white", 300, generator)
    sloping = plain + planes(random_slopes(300, 4.0, generator), BOX)
    transfer = torch.rand(300, 1, 1, generator=generator).expand(-1, BOX, BOX // 2 + 1)
    spectra = []
    for images in (plain, sloping):
        moments = NoiseMoments(BOX, BOX)
        moments.add(images, transfer)
        spectra.append((moments.spectrum(), moments.spectrum(planes=True)))
    torch.testing.assert_close(spectra[1][1], spectra[0][1], atol=1e-3, rtol=0)
    assert spectra[1][0][1] > 1.3 * spectra[0][0][1]


def written(folder: Path, images: Tensor) -> ParticleStack:
    folder.mkdir(exist_ok=True)
    halves = 1 + np.arange(len(images)) % 2
    with ParticleWriter(
        folder, "p", box=BOX, pixel_size_A=3.0, particles={"rlnRandomSubset": halves}, overwrite=True
    ) as writer:
        writer.append(images.numpy())
    return ParticleStack.open(writer.star_path)


def test_each_half_set_has_its_own_share(tmp_path: Path, generator: torch.Generator) -> None:
    clean = scene("particles", 400, generator)
    slopes = random_slopes(400, 4.0, generator)
    slopes[1::2] = 0
    sloping = 500 + 20 * (clean + planes(slopes, BOX))
    one = scan(written(tmp_path / "one", sloping), BOX)
    assert one.plane_share[0] > 0.9
    assert one.plane_share[1] == 0
    tool = Preprocessor.for_stack(ParticleStack.open(tmp_path / "one" / "p.star"), one, contrast="bright")
    seen = tool.forward(sloping, None, one.statistics)
    plain = measure(500 + 20 * clean)
    expected = tool.forward(500 + 20 * clean, None, plain)
    assert (seen - expected)[::2].square().mean() < 0.01
    with_planes = tool.forward(sloping, None, measure(sloping))
    assert (with_planes - expected)[::2].square().mean() > 0.1
    # Half 2, where nothing slopes, is the same to the bit; and half 1 does not know what half 2 does.
    assert torch.equal(seen[1::2], with_planes[1::2])
    sloping[1::2] = 3 * sloping[1::2].flip(0) + 20 * planes(random_slopes(200, 9.0, generator), BOX)
    other = scan(written(tmp_path / "two", sloping), BOX)
    assert other.plane_share[1] > 0.5
    assert torch.equal(tool.forward(sloping, None, other.statistics)[::2], seen[::2])


def test_a_stack_without_slopes_is_not_touched(tmp_path: Path, generator: torch.Generator) -> None:
    found = scan(written(tmp_path, scene("particles", 300, generator)), BOX)
    assert found.plane_share == (0, 0)
    assert found.statistics.slopes is None


@pytest.mark.data
@pytest.mark.parametrize("name", ["particles_64", "native_128", "pair_rest_64", "pair_frame_64"])
def test_apoferritin_has_no_slopes(shared_data: Path, name: str) -> None:
    """Crowded boxes, in which fitted planes are the neighbours'."""
    stack = ParticleStack.open(shared_data / "particles" / "apoferritin" / f"{name}.star")
    assert set(scan(stack, 64).plane_share) == {0.0}
