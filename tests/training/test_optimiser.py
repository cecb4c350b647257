import math

import pytest
import torch
from torch import nn

from polarice.training import OptimiserConfig, learning_rate
from polarice.training.optimiser import KernelMuon, make_optimisers, set_learning_rate


def test_rates_rise_stay_and_fall() -> None:
    config = OptimiserConfig(images=1000, warmup_images=100, decay_images=400)
    rates = [learning_rate(i, config) for i in range(1001)]
    assert rates[0] == pytest.approx(1 / 100)
    assert rates[49] == pytest.approx(0.5)
    assert all(rate == pytest.approx(1) for rate in rates[99:601])
    assert rates[800] == pytest.approx(0.5)
    assert rates[700] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    assert rates[1000] == 0
    assert learning_rate(1500, config) == 0
    assert rates[:100] == sorted(rates[:100])
    assert rates[600:] == sorted(rates[600:], reverse=True)


def test_rates_of_a_longer_run_only_stay_longer() -> None:
    short = OptimiserConfig(images=1000, warmup_images=100, decay_images=400)
    long = OptimiserConfig(images=5000, warmup_images=100, decay_images=400)
    assert [learning_rate(i, short) for i in range(600)] == [learning_rate(i, long) for i in range(600)]
    assert learning_rate(4800, long) == pytest.approx(learning_rate(800, short))


def test_rates_without_warmup_or_decay() -> None:
    config = OptimiserConfig(images=10, warmup_images=0, decay_images=0)
    assert [learning_rate(i, config) for i in range(11)] == [1.0] * 10 + [0.0]


def test_each_optimiser_gets_its_own_rate() -> None:
    config = OptimiserConfig(
        learning_rate=1e-3, kernel_learning_rate=4e-3, images=100, warmup_images=0, decay_images=100
    )
    optimisers = make_optimisers(nn.Conv2d(8, 8, 3), config)
    set_learning_rate(optimisers, 50, config)
    assert [o.param_groups[0]["lr"] for o in optimisers] == [pytest.approx(5e-4), pytest.approx(2e-3)]


def test_every_weight_moves_once() -> None:
    """Kernels go to Muon, what is hardly a matrix and all the rest to Adam."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 1, 1), nn.Linear(4, 4))
    optimisers = make_optimisers(network, OptimiserConfig())
    assert [type(o) for o in optimisers] == [torch.optim.Adam, KernelMuon]
    counts = [sum(p.numel() for g in o.param_groups for p in g["params"]) for o in optimisers]
    assert counts == [8 + 16 + 16 + 1 + 20, 72 + 16 * 72]


def test_an_update_is_orthogonal_and_of_adams_size() -> None:
    """Its singular values are near 0.2 sqrt(longer side) times the rate, whatever the gradient's."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.zeros(16, 4, 3, 3))
    kernel.grad = torch.randn(16, 4, 3, 3) * torch.logspace(-1, 0, 16)[:, None, None, None]
    KernelMuon([kernel], lr=0.1).step()
    singular = torch.linalg.svdvals(kernel.detach().flatten(1)) / (0.1 * 0.2 * 6)
    assert 0.3 < float(singular.min()) < float(singular.max()) < 1.4
    assert float((kernel.detach() * kernel.grad).sum()) < 0
