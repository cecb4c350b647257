from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.errors import ParticleFileError
from polarice.imaging import frequency_grid, radius_grid
from polarice.simulation.noise import item_generator
from polarice.simulation.spectrum import coloured_noise, measure_noise_spectrum


def write_patches(path: Path, images: Tensor, pixel_size_A: float | None = 1.5) -> Path:
    with mrcfile.new(path) as file:
        file.set_data(images.numpy().astype(np.float32))
        file.set_image_stack()
        if pixel_size_A is not None:
            file.voxel_size = pixel_size_A
    return path


def generators(n: int) -> list[torch.Generator]:
    return [item_generator(0, 9, i) for i in range(n)]


def colour(box: int, pixel_size_A: float = 1.5) -> Tensor:
    """Power that falls with the frequency, of mean one."""
    fy, fx = frequency_grid(box)
    power = 1 + 3 / (1 + (torch.hypot(fy, fx) / pixel_size_A * 30) ** 2)
    weight = torch.full_like(power, 2.0)
    weight[:, 0] = 1
    if box % 2 == 0:
        weight[:, -1] = 1
    return power / ((power * weight).sum() / box**2)


@pytest.mark.parametrize("box", [32, 33])
def test_the_spectrum_of_coloured_noise_is_found(tmp_path: Path, box: int) -> None:
    """Whatever the unit and the mean grey value, and though a few patches hold something else."""
    noise = coloured_noise(colour(box).sqrt(), generators(600))
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    patches = 40 * noise + 700
    patches[::30] += 4000 * torch.exp(-(radius_grid(box) ** 2) / 20)
    patches[5] = 0
    spectrum = measure_noise_spectrum(write_patches(tmp_path / "ice.mrcs", patches))
    expected = 1 + 3 / (1 + (spectrum.frequency_per_A * 30) ** 2)
    assert spectrum.frequency_per_A[0] == pytest.approx(1 / (box * 1.5))
    ratio = spectrum.power / expected
    # The lowest rings have few coefficients.
    assert float((ratio / ratio.mean() - 1).abs()[2:].max()) < 0.05
    assert float((ratio / ratio.mean() - 1).abs().max()) < 0.12
    assert float(ratio.mean() / ratio[-4:].mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("box", "pixel_size_A"), [(64, 1.5), (45, 1.5), (64, 4.0)])
def test_amplitudes_have_the_measured_colour_and_leave_the_variance(
    tmp_path: Path, box: int, pixel_size_A: float
) -> None:
    patches = coloured_noise(colour(32).sqrt(), generators(300))
    spectrum = measure_noise_spectrum(write_patches(tmp_path / "ice.mrcs", patches))
    amplitudes = spectrum.amplitudes(box, pixel_size_A)
    noise = coloured_noise(amplitudes, generators(200))
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    fy, fx = frequency_grid(box, dtype=torch.float64)
    frequency = (torch.hypot(fy, fx) / pixel_size_A).numpy()
    power = np.interp(frequency, spectrum.frequency_per_A.numpy(), spectrum.power.numpy())
    ratio = amplitudes.double().square().numpy() / power
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-5)
    # Independent of how it was made: the noise's own spectrum.
    found = torch.fft.rfft2(noise).abs().square().mean(0) / box**2
    low, high = frequency < 1 / 60, (frequency > 1 / 8.5) & (frequency < 1 / 7.5)
    if high.any():
        expected = power[low].mean() / power[high].mean()
        assert float(found[low].mean() / found[high].mean()) == pytest.approx(expected, rel=0.1)


def test_patches_that_cannot_be_measured(tmp_path: Path) -> None:
    few = write_patches(tmp_path / "few.mrcs", torch.randn(7, 32, 32))
    with pytest.raises(ParticleFileError, match=r"few\.mrcs: has 7 patches .* too few"):
        measure_noise_spectrum(few)
    flat = write_patches(tmp_path / "flat.mrcs", torch.ones(20, 32, 32))
    with pytest.raises(ParticleFileError, match="has 0 patches"):
        measure_noise_spectrum(flat)
    nowhere = write_patches(tmp_path / "nowhere.mrcs", torch.randn(20, 32, 32), None)
    with pytest.raises(ParticleFileError, match="pixel size"):
        measure_noise_spectrum(nowhere)
    with pytest.raises(ParticleFileError, match="does not exist"):
        measure_noise_spectrum(tmp_path / "absent.mrcs")
