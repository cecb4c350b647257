import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from polarice.neighbours import StackCovariance, ViewFeatures, ViewLikelihood

# Orders of the harmonics of a toy disc, and two directions of variance in each of some orders.
ORDERS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3])
VARIANCES = {0: (6.0, 0.0, 0.0), 1: (4.0, 1.5, 0.0), 2: (2.0, 0.0), 3: (0.0,)}
MEAN = torch.tensor([3.0, -1.0, 0.5] + [0.0] * 6)


def square_roots() -> Tensor:
    """Square root of the true covariance, shape (h, h)."""
    generator = torch.Generator().manual_seed(7)
    root = torch.zeros(len(ORDERS), len(ORDERS))
    for order, variances in VARIANCES.items():
        rows = torch.nonzero(order == ORDERS)[:, 0]
        basis = torch.linalg.qr(torch.randn(len(rows), len(rows), generator=generator)).Q
        root[rows[:, None], rows] = basis * torch.tensor(variances).sqrt()
    return root


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Complex numbers of unit variance, real ones in order zero."""
    found = torch.randn(n, len(ORDERS), dtype=torch.complex64, generator=generator)
    found[:, ORDERS == 0] = torch.randn(n, 3, generator=generator) + 0j
    return found


def signals(n: int, generator: torch.Generator) -> Tensor:
    return MEAN + draw(n, generator) @ square_roots().T.to(torch.complex64)


def learn(filtered: Tensor, passed: Tensor) -> ViewLikelihood:
    covariance = StackCovariance(ORDERS)
    for part, let in zip(filtered.split(1000), passed.split(1000), strict=True):
        covariance.add(part, let)
    return covariance.likelihood()


def log_ratio(likelihood: ViewLikelihood, features: ViewFeatures, angle: float = 0.0) -> Tensor:
    """The class's own formula, for the pairs (0, 1), (2, 3), …"""
    weight = torch.where(likelihood.orders == 0, 1, 2) * torch.exp(1j * likelihood.orders * angle)
    correlation = (weight * features.vectors[::2] * features.vectors[1::2].conj()).real.sum(1)
    return likelihood.constant - features.own[::2] - features.own[1::2] + correlation


@pytest.mark.parametrize("let_through", [1.0, 0.6])
def test_likelihood_of_gaussian_pairs(let_through: float) -> None:
    """Against the densities themselves, at the true covariance; learned from many images."""
    generator = torch.Generator().manual_seed(0)
    n = 60_000
    clean = signals(n, generator)
    clean[1::2] = torch.where(torch.rand(n // 2, 1, generator=generator) < 0.5, clean[::2], clean[1::2])
    seen = let_through * clean + draw(n, generator)
    filtered, passed = let_through * seen, torch.full((n, len(ORDERS)), let_through**2)
    likelihood = learn(filtered, passed)
    found = log_ratio(likelihood, likelihood.features(filtered[:400], passed[:400]))
    covariance = let_through**2 * square_roots() @ square_roots().T
    expected = np.zeros(200)
    for order in range(4):
        rows = torch.nonzero(order == ORDERS)[:, 0]
        signal = covariance[rows[:, None], rows].double().numpy()
        single = signal + np.eye(len(rows))
        joint = np.block([[single, signal], [signal, single]])
        values = (seen - let_through * MEAN)[:400, rows]
        # A complex number is two real ones of half the variance.
        parts, half = ([values.real], 1.0) if order == 0 else ([values.real, values.imag], 0.5)
        for part in parts:
            pairs = part.double().numpy().reshape(200, -1)
            alone = multivariate_normal(np.zeros(len(rows)), half * single).logpdf(part.double().numpy())
            alone = alone.reshape(200, 2).sum(1)
            expected += multivariate_normal(np.zeros(2 * len(rows)), half * joint).logpdf(pairs) - alone
    assert np.abs(found.numpy() - expected).max() < 0.25
    assert np.corrcoef(found.numpy(), expected)[0, 1] > 0.9995


def test_ctfs_are_undone() -> None:
    """The same covariance, whatever each image's CTF lets through."""
    generator = torch.Generator().manual_seed(1)
    n = 40_000
    ctf = 0.2 + 0.8 * torch.rand(n, len(ORDERS), generator=generator)
    filtered = ctf * (ctf * signals(n, generator) + draw(n, generator))
    likelihood = learn(filtered, ctf.square())
    assert likelihood.orders.tolist() == [0, 1, 1, 2]
    torch.testing.assert_close(likelihood.mean, MEAN, rtol=0, atol=0.05)


def test_features_are_those_under_an_average_ctf() -> None:
    """Nothing changes for an average CTF; for any other the most probable view stays what it is."""
    generator = torch.Generator().manual_seed(5)
    n = 20_000
    ctf = 0.2 + 0.8 * torch.rand(n, len(ORDERS), generator=generator)
    filtered, passed = ctf * (ctf * signals(n, generator) + draw(n, generator)), ctf.square()
    covariance = StackCovariance(ORDERS)
    covariance.add(filtered, passed)
    likelihood = covariance.likelihood()
    average = passed.mean(0).expand(50, -1)
    plain = (filtered[:50] - average * likelihood.mean) @ likelihood.columns.to(filtered)
    torch.testing.assert_close(
        likelihood.features(filtered[:50], average).vectors, plain, rtol=1e-4, atol=1e-4
    )
    features = likelihood.features(filtered[:50], passed[:50])
    assert not torch.allclose(features.vectors, plain, rtol=0.01, atol=0.01)
    # Of features b the most probable view has coordinates √(1 + 2 λ) b / (1 + λ).
    scale = (1 + 2 * likelihood.information).sqrt()
    coordinates = features.vectors * scale / (1 + likelihood.information)
    view = likelihood.mean + coordinates @ (likelihood.columns * scale).T.to(filtered)
    torch.testing.assert_close(view, covariance.wiener(filtered[:50], passed[:50]), rtol=1e-3, atol=1e-3)


def test_prior_probability_of_an_image() -> None:
    """Against Gaussian densities of the true covariance under each CTF, but for a constant of the CTF."""
    generator = torch.Generator().manual_seed(6)
    n = 60_000
    ctf = 0.2 + 0.8 * torch.rand(n, len(ORDERS), generator=generator)
    seen = ctf * signals(n, generator) + draw(n, generator)
    covariance = StackCovariance(ORDERS)
    covariance.add(ctf * seen, ctf.square())
    prior = covariance.prior()
    # Two images of each CTF, so that what depends on the CTF alone falls out.
    let, shown = (
        ctf[:100],
        torch.stack([seen[:100], ctf[:100] * signals(100, generator) + draw(100, generator)]),
    )
    passed = let.square()
    known, left = (passed * prior.mean) @ prior.columns, prior.left_open(passed)
    found = torch.stack([prior.evidence(let * x @ prior.columns.to(x), known, left) for x in shown])
    root = square_roots().double()
    expected = np.zeros((2, 100))
    for k in range(100):
        signal = (let[k, :, None].double() * root) @ (let[k, :, None].double() * root).T
        for order in range(4):
            rows = torch.nonzero(order == ORDERS)[:, 0]
            single = signal[rows[:, None], rows].numpy() + np.eye(len(rows))
            values = (shown[:, k, rows] - let[k, rows] * MEAN[rows]).to(torch.complex128).numpy()
            noise = shown[:, k, rows].to(torch.complex128).numpy()
            for part, of_noise in zip((values.real, values.imag), (noise.real, noise.imag), strict=True):
                if order == 0 and part is values.imag:
                    continue
                half = 1.0 if order == 0 else 0.5
                zero = np.zeros(len(rows))
                expected[:, k] += multivariate_normal(zero, half * single).logpdf(part)
                expected[:, k] -= multivariate_normal(zero, half * np.eye(len(rows))).logpdf(of_noise)
    difference = found.numpy()[1] - found.numpy()[0]
    assert np.abs(difference - (expected[1] - expected[0])).max() < 0.3
    assert np.corrcoef(difference, expected[1] - expected[0])[0, 1] > 0.999


def test_noise_has_no_features() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = draw(500, generator)
    likelihood = learn(noise, torch.ones(500, len(ORDERS)))
    assert len(likelihood.orders) == 0
    features = likelihood.features(noise, torch.ones(500, len(ORDERS)))
    assert features.vectors.shape == (500, 0)
    assert not features.own.any()
    assert likelihood.constant == 0


def test_batches_do_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    clean = signals(300, generator) + draw(300, generator)
    passed = torch.ones(300, len(ORDERS))
    whole, parts = StackCovariance(ORDERS), StackCovariance(ORDERS)
    whole.add(clean, passed)
    for rows in torch.arange(300).split(77):
        parts.add(clean[rows], passed[rows])
    one, other = (c.likelihood().features(clean, passed).own for c in (whole, parts))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_wiener_filter_at_the_true_covariance() -> None:
    """Against C H (H C H + 1)⁻¹ written out, images of any CTF; learned from many."""
    generator = torch.Generator().manual_seed(4)
    n = 60_000
    ctf = 0.2 + 0.8 * torch.rand(n, len(ORDERS), generator=generator)
    clean = signals(n, generator)
    seen = ctf * clean + draw(n, generator)
    covariance = StackCovariance(ORDERS)
    covariance.add(ctf * seen, ctf.square())
    found = covariance.wiener((ctf * seen)[:500], ctf.square()[:500])
    full = square_roots() @ square_roots().T
    expected = torch.empty(500, len(ORDERS), dtype=torch.complex64)
    for i in range(500):
        let = torch.diag(ctf[i])
        gain = full @ let @ torch.linalg.inv(let @ full @ let + torch.eye(len(ORDERS)))
        expected[i] = MEAN + gain.to(torch.complex64) @ (seen[i] - ctf[i] * MEAN)
    difference = (found - expected).abs().square().sum() / (expected - clean[:500]).abs().square().sum()
    assert float(difference) < 0.01
