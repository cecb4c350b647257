import numpy as np
import pytest
import torch

from polarice.evaluation.relatives import average_upon, relatives_of, shifts_upon
from polarice.imaging import move_images, turn_matrices

COUNT = 12


@pytest.fixture(scope="module")
def graph() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Particles of one view in a row, each with the next two as neighbours; and their angles in the plane."""
    psi = np.random.default_rng(0).uniform(-180, 180, COUNT)
    neighbours = np.arange(COUNT)[:, None] + [1, 2]
    neighbours[neighbours >= COUNT] = -1
    weights = np.where(neighbours < 0, 0, np.array([0.5, 0.3])).astype(np.float32)
    angles = np.where(neighbours < 0, 0, psi[neighbours] - psi[:, None]).astype(np.float32)
    return psi, neighbours, weights, angles


def test_angles_add_up_along_the_graph(graph: tuple[np.ndarray, ...]) -> None:
    psi, *table = graph
    for row in (0, 5, COUNT - 1):
        found = relatives_of(row, *table, most=50)
        expected = psi[found.rows] - psi[row]
        np.testing.assert_allclose(np.exp(1j * np.deg2rad(found.angles_deg - expected)), 1, atol=1e-4)
        assert len(np.unique(found.rows)) == len(found.rows)
        assert row not in found.rows


def test_relatives_are_neighbours_those_who_ask_and_theirs(graph: tuple[np.ndarray, ...]) -> None:
    _, *table = graph
    assert set(relatives_of(0, *table, most=50).rows) == {1, 2, 3, 4}
    # 3 and 4 ask for 5; 5 asks for 6 and 7.
    assert set(relatives_of(5, *table, most=50).rows) == {3, 4, 6, 7, 8, 9}
    # The surest: half of an image, then what is not counted twice.
    assert relatives_of(5, *table, most=2).rows.tolist() == [6, 4]
    alone = np.full((3, 2), -1), np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32)
    assert len(relatives_of(1, *alone, most=4).rows) == 0


def blobs(size: int) -> torch.Tensor:
    axis = torch.arange(float(size)) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return sum(
        (torch.exp(-((x - a) ** 2 + (y - b) ** 2) / 6) for a, b in ((5, 2), (-4, 6), (0, -7))),
        torch.zeros(size, size),
    )


def test_shifts_are_found_in_the_images_own_frame() -> None:
    """A copy made by ``copy(M p + t) = image(p)`` is laid back by the very t."""
    size, angles = 48, torch.tensor([0.0, 30.0, -130.0])
    image, matrices = blobs(size), turn_matrices(torch.deg2rad(angles))
    offset = torch.tensor([[3.0, 0.0], [-2.0, 4.0], [0.0, -3.0]])
    shifts = (matrices @ offset[..., None])[..., 0]
    # What lies at q = M p + t in the copy: p = Mᵀ (q − t).
    copies = move_images(image.expand(3, -1, -1), matrices.mT, -offset)
    torch.testing.assert_close(shifts_upon(copies, matrices, image), shifts)


def test_noisy_copies_average_to_the_image() -> None:
    size, many = 48, 40
    generator = torch.Generator().manual_seed(0)
    image = blobs(size)
    angles = 360 * torch.rand(many, generator=generator)
    angles[0] = 0
    offset = torch.randint(-3, 4, (many, 2), generator=generator).float()
    offset[0] = 0
    # Turned by the angle, from x towards y, a copy lies upon the image but for a shift.
    matrices = turn_matrices(-torch.deg2rad(angles))
    copies = move_images(image.expand(many, -1, -1), matrices.mT, -offset)
    noisy = copies + 0.5 * torch.randn(copies.shape, generator=generator)
    average = average_upon(noisy, None, copies, angles[1:].double().numpy())
    expected = image * many / (many + 2)
    # Of the noise of one image a fortieth is left, and the interpolation takes some of that.
    left = float((average - expected).square().mean())
    assert left < 1.5 * 0.5**2 / many
