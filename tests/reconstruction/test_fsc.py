import pytest
import torch
from torch import Tensor

from polarice.errors import PolariceError
from polarice.reconstruction import (
    compare_maps,
    fourier_shell_correlation,
    low_pass,
    randomise_phases,
    soft_ball,
    soft_mask,
)
from polarice.simulation import Volume, density_from_structure, example_structure

BOX = 32


@pytest.fixture(scope="module")
def molecule() -> Volume:
    return density_from_structure(example_structure(), BOX, 6.0)


def noise(generator: torch.Generator, box: int = BOX) -> Tensor:
    return torch.randn(box, box, box, generator=generator, dtype=torch.float64)


def test_a_map_with_itself_and_with_its_negative(generator: torch.Generator) -> None:
    volume = noise(generator)
    torch.testing.assert_close(fourier_shell_correlation(volume, 3 * volume), torch.ones(17).double())
    torch.testing.assert_close(fourier_shell_correlation(volume, -volume), -torch.ones(17).double())


def test_signal_in_noise_has_the_expected_correlation(generator: torch.Generator) -> None:
    """Of signal and noise of one power each, half of what two maps hold is common."""
    signal = noise(generator, 48)
    maps = [signal + noise(generator, 48) for _ in range(2)]
    fsc = fourier_shell_correlation(*maps)
    assert fsc[8:].mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("box", [16, 15])
def test_shells_are_those_of_the_whole_spectrum(generator: torch.Generator, box: int) -> None:
    first, second = noise(generator, box), noise(generator, box)
    a, b = torch.fft.fftn(first), torch.fft.fftn(second)
    axis = torch.fft.fftfreq(box, 1 / box)
    shell = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt().round()
    expected = torch.stack(
        [
            (a * b.conj()).real[shell == s].sum()
            / (a.abs().square()[shell == s].sum() * b.abs().square()[shell == s].sum()).sqrt()
            for s in range(box // 2 + 1)
        ]
    )
    torch.testing.assert_close(fourier_shell_correlation(first, second), expected)


def test_random_phases_keep_amplitudes_and_low_shells(generator: torch.Generator) -> None:
    volume = noise(generator)
    changed = randomise_phases(volume, 5, generator)
    torch.testing.assert_close(torch.fft.fftn(changed).abs(), torch.fft.fftn(volume).abs())
    fsc = fourier_shell_correlation(volume, changed)
    torch.testing.assert_close(fsc[:6], torch.ones(6).double())
    assert fsc[6:].abs().mean() < 0.1


def test_correction_takes_off_what_the_mask_adds(molecule: Volume, generator: torch.Generator) -> None:
    """Maps alike up to a shell: a tight mask makes the next ones look alike, and the correction does not."""
    signal = low_pass(molecule.density.double(), BOX / 8, edge_shells=0.5)
    maps = [signal + 0.5 * signal.std() * noise(generator) for _ in range(2)]
    ball = soft_ball(BOX, 5.0, 1.0, signal)
    found = compare_maps(*maps, molecule.pixel_size_A, ball)
    assert found.masked is not None
    assert found.corrected is not None
    assert found.randomised is not None
    beyond = slice((found.randomised_from or 0) + 2, None)
    assert found.randomised[beyond].abs().mean() < found.masked[: found.randomised_from].mean()
    assert found.corrected[beyond].abs().mean() < 0.3
    torch.testing.assert_close(found.corrected[:5], found.masked[:5])


def test_resolution_is_where_the_curve_falls(molecule: Volume, generator: torch.Generator) -> None:
    signal = low_pass(noise(generator), BOX / 8, edge_shells=0.01)
    maps = [signal + 1e-3 * noise(generator) for _ in range(2)]
    found = compare_maps(*maps, 2.0)
    # Shell 8 is the last with a signal: the curve crosses between 8 and 9 cycles per box.
    assert BOX * 2.0 / 9 < found.resolution_A(0.5) < found.resolution_A(0.9) < BOX * 2.0 / 7.5
    assert list(found.curves()) == ["unmasked"]


def test_sizes_must_agree(generator: torch.Generator) -> None:
    with pytest.raises(PolariceError, match="maps of 32 and 16 voxels"):
        compare_maps(noise(generator), noise(generator, 16), 1.0)
    with pytest.raises(PolariceError, match="mask of 16 voxels"):
        compare_maps(noise(generator), noise(generator), 1.0, noise(generator, 16))


def test_mask_holds_the_molecule_and_little_else(molecule: Volume, generator: torch.Generator) -> None:
    density = molecule.density
    noisy = density + 0.5 * density.std() * torch.randn(density.shape, generator=generator)
    mask = soft_mask(noisy, molecule.pixel_size_A)
    assert (mask * density).square().sum() > 0.99 * density.square().sum()
    assert 0.03 < mask.mean() < 0.4
    assert mask.min() == 0
    assert mask.max() == 1
    # The edge is soft, at the box's sphere over two voxels.
    assert max(float(mask.diff(dim=axis).abs().max()) for axis in range(3)) < 0.8


def test_mask_leaves_specks_out(molecule: Volume) -> None:
    density = molecule.density.clone()
    density[16, 16, 2:4] = density.max() * 3
    mask = soft_mask(density, molecule.pixel_size_A)
    assert mask[16, 16, 2] < 0.5
