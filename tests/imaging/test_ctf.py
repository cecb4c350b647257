import math

import pytest
import torch
from torch import Tensor

from polarice.imaging import CTF, electron_wavelength_A, phase_flip


def make(**changes: float) -> CTF:
    values = {
        "defocus_u_A": 20000.0,
        "defocus_v_A": 20000.0,
        "defocus_angle_deg": 0.0,
        "voltage_kV": 300.0,
        "cs_mm": 2.7,
        "amplitude_contrast": 0.1,
        "phase_shift_deg": 0.0,
        "b_factor_A2": 0.0,
    }
    values.update(changes)
    return CTF(**{name: torch.tensor([value], dtype=torch.float64) for name, value in values.items()})


@pytest.mark.parametrize(
    ("voltage", "known"),
    # Published relativistic wavelengths, Å.
    [(100.0, 0.0370), (200.0, 0.0251), (300.0, 0.0197)],
)
def test_wavelength(voltage: float, known: float) -> None:
    found = float(electron_wavelength_A(torch.tensor(voltage, dtype=torch.float64)))
    assert found == pytest.approx(known, abs=6e-5)
    # De Broglie with the constants of nature.
    h, m, e, c = 6.62607015e-34, 9.1093837e-31, 1.602176634e-19, 2.99792458e8
    volts = voltage * 1e3
    momentum = math.sqrt(2 * m * e * volts * (1 + e * volts / (2 * m * c * c)))
    assert found == pytest.approx(h / momentum * 1e10, rel=1e-5)


def gamma_of(ctf: CTF, k: float, defocus: float) -> float:
    wavelength = float(electron_wavelength_A(ctf.voltage_kV))
    return math.pi * wavelength * defocus * k**2 - math.pi / 2 * 2.7e7 * wavelength**3 * k**4 + math.asin(0.1)


def test_value_along_the_axes_of_astigmatism() -> None:
    """U lies at the angle from x towards y: at 90 degrees it lies along y."""
    box, pixel = 64, 1.5
    k = 10 / (box * pixel)
    flat = make(defocus_u_A=22000, defocus_v_A=18000).evaluate(box, pixel)[0]
    assert float(flat[0, 10]) == pytest.approx(math.sin(gamma_of(make(), k, 22000)), abs=1e-9)
    assert float(flat[10, 0]) == pytest.approx(math.sin(gamma_of(make(), k, 18000)), abs=1e-9)
    upright = make(defocus_u_A=22000, defocus_v_A=18000, defocus_angle_deg=90).evaluate(box, pixel)[0]
    assert float(upright[10, 0]) == pytest.approx(float(flat[0, 10]), abs=1e-9)
    slanted = make(defocus_u_A=22000, defocus_v_A=18000, defocus_angle_deg=45).evaluate(box, pixel)[0]
    diagonal = math.sin(gamma_of(make(), k * math.sqrt(2), 22000))
    assert float(slanted[10, 10]) == pytest.approx(diagonal, abs=1e-9)
    opposite = math.sin(gamma_of(make(), k * math.sqrt(2), 18000))
    assert float(slanted[-10, 10]) == pytest.approx(opposite, abs=1e-9)


def test_amplitude_contrast_at_frequency_zero_and_phase_plate() -> None:
    assert float(make().evaluate(16, 2.0)[0, 0, 0]) == pytest.approx(0.1)
    plate = make(phase_shift_deg=90.0).evaluate(16, 2.0)[0, 0, 0]
    assert float(plate) == pytest.approx(math.cos(math.asin(0.1)))


def test_envelope() -> None:
    ratio = make(b_factor_A2=80.0).evaluate(16, 2.0)[0, 0, 4] / make().evaluate(16, 2.0)[0, 0, 4]
    assert float(ratio) == pytest.approx(math.exp(-80 * (4 / 32) ** 2 / 4))


def test_batches_pixel_sizes_and_slices() -> None:
    one = make()
    both = CTF(**{name: torch.cat([getattr(one, name), getattr(one, name) * 1.1]) for name in vars(one)})
    assert len(both) == 2
    values = both.evaluate(32, torch.tensor([1.5, 2.0], dtype=torch.float64))
    torch.testing.assert_close(values[:1], one.evaluate(32, 1.5))
    torch.testing.assert_close(values[1:], both[1:].evaluate(32, 2.0))
    assert both[torch.tensor([1])].defocus_u_A.tolist() == pytest.approx([22000])
    assert both.to("cpu").defocus_u_A.dtype == torch.float32


@pytest.mark.parametrize("box", [32, 33])
def test_phase_flip_makes_the_transfer_positive(box: int) -> None:
    ctf = make().evaluate(box, 2.0)
    point: Tensor = torch.zeros(1, box, box, dtype=torch.float64)
    point[0, 0, 0] = 1
    seen = torch.fft.irfft2(torch.fft.rfft2(point) * ctf, s=(box, box))
    flipped = torch.fft.rfft2(phase_flip(seen, ctf))
    torch.testing.assert_close(flipped.real, ctf.abs(), atol=1e-9, rtol=0)
    assert float(flipped.imag.abs().max()) < 1e-9
    noise = torch.randn(2, box, box, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(phase_flip(phase_flip(noise, ctf), ctf), noise)
    torch.testing.assert_close(phase_flip(noise, torch.zeros_like(ctf)), noise)
