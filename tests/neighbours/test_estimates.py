import math

import pytest
import torch
from torch import Tensor

from polarice.neighbours import ViewEstimator, ViewFeatures, ViewLikelihood, Views

ORDERS = torch.tensor([0, 0, 1, 1, 2, 3])
INFORMATION = torch.tensor([2.0, 0.5, 1.5, 0.7, 3.0, 1.0])


@pytest.fixture(scope="module")
def estimator() -> ViewEstimator:
    """Six features, of which the harmonics are the features themselves."""
    return ViewEstimator(ViewLikelihood(ORDERS, INFORMATION, torch.zeros(6), 0.0, torch.eye(6)))


def views_of(n: int, seed: int) -> Tensor:
    """Views as the model has them: of variance one, real in order zero."""
    z = torch.randn(n, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    return torch.where(ORDERS == 0, z.real * math.sqrt(2) + 0j, z)


def images_of(views: Tensor, seed: int, angles: Tensor | None = None) -> Tensor:
    """Images ``a z + noise of variance a``, each turned."""
    turns = torch.zeros(len(views), 1) if angles is None else angles[:, None]
    return INFORMATION * views * torch.exp(-1j * ORDERS * turns) + INFORMATION.sqrt() * views_of(
        len(views), seed
    )


def test_estimates_are_as_good_as_they_say(estimator: ViewEstimator) -> None:
    """Of m images of a view the mean squared error is 1 / (1 + m a)."""
    z = views_of(4000, 0)
    sums = sum((images_of(z, seed) for seed in range(1, 4)), torch.zeros_like(z))
    found = estimator.estimate(sums, torch.full((4000, 1), 3.0))
    error = (found.mean - z).abs().square().mean(0)
    torch.testing.assert_close(error, 1 / (1 + 3 * INFORMATION), rtol=0.1, atol=0)
    torch.testing.assert_close(estimator.sums(found), sums)


def test_the_ratio_is_that_of_two_gaussians(estimator: ViewEstimator) -> None:
    """By hand: complex Gaussians of known mean and variance, summed over angles, over the one of any view."""
    z = views_of(3, 5)
    image, known = images_of(z, 6), Views(0.6 * z, torch.full((3, 1), 2.0))
    left = 1 / (1 + 2 * INFORMATION)

    def log_density(t: Tensor, mean: Tensor | float, variance: Tensor) -> Tensor:
        # A real number has half the freedom of a complex one.
        share = torch.where(ORDERS == 0, 0.5, 1.0)
        return (share * (-(t - mean).abs().square() / variance - variance.log())).sum(-1)

    turns = 2 * math.pi * torch.arange(estimator.angles) / estimator.angles
    turned = known.mean[:, None] * torch.exp(-1j * ORDERS * turns[:, None])
    spread = INFORMATION + INFORMATION.square() * left
    each = log_density(image[:, None], INFORMATION * turned, spread)
    mine = torch.logsumexp(each, 1) - math.log(estimator.angles)
    anyone = log_density(image, 0.0, INFORMATION + INFORMATION.square())
    torch.testing.assert_close(estimator.log_ratio(known, image), mine - anyone, rtol=1e-4, atol=1e-4)


def test_all_pairs_at_once(estimator: ViewEstimator) -> None:
    members = torch.tensor([[1.0], [3.0], [20.0]])
    views, images = (
        estimator.estimate(members * INFORMATION * views_of(3, 1), members),
        images_of(views_of(5, 2), 3),
    )
    one_by_one = estimator.log_ratio(Views(views.mean[None], members[None]), images[:, None])
    explaining, explained = estimator.explaining(views), estimator.explained(images)
    together = estimator.log_ratios(explaining.at(None), explained.at(None))[0]
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-4)
    # With fewer images than views, the other side is turned.
    few = estimator.log_ratios(explaining.at(None), explained.at(torch.tensor([[4, 0]])))[0]
    torch.testing.assert_close(few, one_by_one[[4, 0]], rtol=1e-4, atol=1e-4)


def test_right_views_win(estimator: ViewEstimator) -> None:
    z = views_of(200, 1)
    seen = images_of(z, 2, 6 * torch.rand(200, generator=torch.Generator().manual_seed(3)))
    known = Views(z, torch.full((200, 1), 50.0))
    ratio = estimator.log_ratio(Views(known.mean[None], known.members[None]), seen[:, None])
    right = ratio.diagonal()
    assert float((right > ratio.median(1).values).float().mean()) > 0.95
    assert float(right.mean()) > 0 > float(ratio.median())


def test_angles_and_turning_back(estimator: ViewEstimator) -> None:
    z = 5 * views_of(50, 1)
    angles = torch.deg2rad(torch.linspace(-170, 170, 50))
    seen, known = images_of(z, 2, angles), Views(z, torch.full((50, 1), 100.0))
    off = estimator.angles_deg(known, seen) - torch.rad2deg(angles)
    assert float(((off + 180) % 360 - 180).abs().median()) < 5
    back = estimator.turned_back(known, seen)
    error = (back - INFORMATION * z).abs().square().sum() / (INFORMATION * z).abs().square().sum()
    assert float(error) < 0.1


def test_images_from_features(estimator: ViewEstimator) -> None:
    features = ViewFeatures(views_of(4, 0), torch.zeros(4))
    expected = features.vectors * (1 + 2 * INFORMATION).sqrt()
    torch.testing.assert_close(estimator.images(features), expected)
    assert estimator.informed
    for few in (0, 2):
        round_only = ViewLikelihood(
            ORDERS[:few], INFORMATION[:few], torch.zeros(6), 0.0, torch.eye(6)[:, :few]
        )
        assert not ViewEstimator(round_only).informed
