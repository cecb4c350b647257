import pytest
import torch

from polarice.simulation.noise import add_gaussian_noise, add_poisson_noise, item_generator, noise_std


def generators(n: int, first: int = 0) -> list[torch.Generator]:
    return [item_generator(0, 9, first + i) for i in range(n)]


def test_gaussian_noise_has_the_asked_for_ratio() -> None:
    clean = torch.rand(64, 32, 32, generator=item_generator(1)) + 0.5
    std = noise_std(clean, 0.03)
    noise = add_gaussian_noise(clean, std, generators(64)) - clean
    assert float(clean.square().mean() / noise.var()) == pytest.approx(0.03, rel=0.02)
    assert abs(float(noise.mean())) < 0.02 * std
    # White: pixels and images are independent.
    spectrum = torch.fft.rfft2(noise).abs().square().mean(0)
    assert float(spectrum.std() / spectrum.mean()) < 0.2
    assert abs(float((noise[1:] * noise[:-1]).mean())) < 0.02 * std**2


@pytest.mark.parametrize("level", [0.0, 2.0, -2.0])
def test_poisson_noise_has_the_moments_of_its_formula(level: float) -> None:
    """Mean x and variance η² λ0 − η x with λ0 = std² / η²; here η = 0.1 std."""
    std, eta = 3.0, 0.3
    image = torch.full((40, 64, 64), level, dtype=torch.float64)
    seen = add_poisson_noise(image, std, 0.1, generators(40))
    count = seen.numel()
    variance = std**2 - eta * level
    assert float(seen.mean()) == pytest.approx(level, abs=5 * (variance / count) ** 0.5)
    assert float(seen.var()) == pytest.approx(variance, rel=5 * (2 / count) ** 0.5)
    # Grey values are whole electrons.
    electrons = 100 - seen / eta
    torch.testing.assert_close(electrons, electrons.round(), atol=1e-9, rtol=0)


def test_poisson_noise_becomes_gaussian() -> None:
    image = torch.zeros(20, 64, 64, dtype=torch.float64)

    def skewness(poissonicity: float) -> float:
        seen = add_poisson_noise(image, 1.0, poissonicity, generators(20))
        return float((seen**3).mean())

    # A Poisson count's skewness is λ0 ** -0.5; here positive grey means fewer electrons.
    assert skewness(0.5) == pytest.approx(-0.5, abs=0.05)
    assert abs(skewness(0.01)) < 0.05


def test_poisson_noise_refuses_negative_electrons() -> None:
    with pytest.raises(ValueError, match="poissonicity"):
        add_poisson_noise(torch.full((1, 4, 4), 11.0), 1.0, 0.1, generators(1))


def test_noise_of_an_image_depends_on_seed_and_index_alone() -> None:
    clean = torch.zeros(4, 8, 8)
    together = add_gaussian_noise(clean, 1.0, generators(4))
    alone = add_gaussian_noise(clean[:1], 1.0, generators(1, first=2))
    assert torch.equal(together[2], alone[0])
    streams = {
        float(torch.rand((), generator=item_generator(*keys))) for keys in [(0, 1), (1, 0), (0, 2), (0,)]
    }
    assert len(streams) == 4
