import pytest
import torch
from torch import Tensor

from polarice.imaging import shift_images
from polarice.models.centring import Centring, Recentring
from polarice.models.observation import observed_spectra
from polarice.polar import PolarGrid, PolarTransform

BOX = 32


def blob(x: float, y: float, sigma: float = 3.0) -> Tensor:
    axis = torch.arange(BOX) - BOX // 2
    return torch.exp(-((axis[None] - x) ** 2 + (axis[:, None] - y) ** 2) / (2 * sigma**2))


@pytest.fixture(scope="module")
def centring() -> Centring:
    """Taught in seconds to find blobs of several sizes in noise."""
    torch.manual_seed(0)
    network = Centring(BOX)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(150):
        place, sigma = 4 * torch.rand(32, 2) - 2, 2 + 2 * torch.rand(32)
        images = torch.stack([blob(*p.tolist(), float(s)) for p, s in zip(place, sigma, strict=True)])
        images = images + 0.3 * torch.randn(images.shape)
        loss = (network(observed_spectra(images, None)[0]) - place).square().sum(-1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()


def find(network: Centring, images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(observed_spectra(images, None)[0])


def test_it_learns_where_a_particle_is(centring: Centring) -> None:
    """(x, y) in pixels, with the sign of a displacement."""
    images = torch.stack([blob(1.5, 0.0), blob(0.0, -1.5)]) + 0.1 * torch.randn(
        2, BOX, BOX, generator=torch.Generator().manual_seed(1)
    )
    expected = torch.tensor([[1.5, 0.0], [0.0, -1.5]])
    torch.testing.assert_close(find(centring, images), expected, rtol=0, atol=0.4)


def test_the_centre_turns_with_the_image(centring: Centring) -> None:
    """Exactly for quarter turns about the origin: (x, y) goes to (-y, x)."""
    image = blob(2.0, 0.7) + 0.5 * blob(-1.0, 1.5, 1.5)
    # Row and column 0 have no partner across the origin.
    image[0], image[:, 0] = 0, 0
    turned = image.clone()
    turned[1:, 1:] = image[1:, 1:].rot90(-1, (0, 1))
    (x, y), after = find(centring, image[None])[0], find(centring, turned[None])[0]
    torch.testing.assert_close(after, torch.stack([-y, x]), rtol=0, atol=1e-3)


def test_the_centre_moves_with_the_image(centring: Centring) -> None:
    """By whole steps of the coarse grid."""
    image = blob(-1.0, 0.0)[None]
    moved = shift_images(image, torch.tensor([[2.0, 0.0]]))
    step = find(centring, moved) - find(centring, image)
    torch.testing.assert_close(step, torch.tensor([[2.0, 0.0]]), rtol=0, atol=0.3)


def test_recentring_turns_with_the_features() -> None:
    torch.manual_seed(0)
    grid = PolarGrid.compact(BOX)
    module = Recentring(3, grid)
    features = torch.randn(2, 3, grid.n_radii, grid.n_angles)
    with torch.no_grad():
        (x, y), turned = module(features)[0], module(features.roll(grid.n_angles // 4, -1))[0]
    torch.testing.assert_close(turned, torch.stack([-y, x]), rtol=0, atol=1e-5)


def test_recentring_sees_a_displacement() -> None:
    """The first harmonic of a displaced blob points to where the blob is."""
    grid = PolarGrid.compact(BOX)
    module = Recentring(1, grid)
    with torch.no_grad():
        module.mix.weight.fill_(1)
        module.profile.fill_(1)
        polar = PolarTransform(grid)(blob(0.6, 0.8)[None])[:, None]
        found = module(polar)[0]
    torch.testing.assert_close(found / found.norm(), torch.tensor([0.6, 0.8]), rtol=0, atol=1e-2)
