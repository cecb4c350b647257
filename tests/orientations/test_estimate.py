"""The whole way from images to orientations."""

import pytest
import torch

from polarice.errors import PolariceError
from polarice.evaluation import orientation_errors
from polarice.orientations import estimate_orientations, extend_orientations
from polarice.orientations.relative import rotations_about


def test_orientations_and_shifts_of_a_chiral_specimen(blobs, views, generator):
    shifts = 4 * torch.rand(40, 2, generator=generator) - 2
    images = blobs.images(views, shifts.double()).float()
    found = estimate_orientations(images, generator)
    assert orientation_errors(found.rotations, views).angles_deg.max() < 0.5
    # The centre of mass is the origin, so nothing is left open.
    torch.testing.assert_close(found.shifts_px, shifts, atol=0.1, rtol=0)
    assert found.confidence.min() > 0.9


def test_noise_is_not_believed(generator):
    found = estimate_orientations(torch.randn(40, 32, 32, generator=generator), generator, shifts=False)
    assert found.confidence.mean() < 0.9


@pytest.mark.parametrize("opposite", [False, True])
def test_one_view_is_refused(blobs, views, generator, opposite):
    turns = torch.rand(40, generator=generator, dtype=torch.float64) * 6
    about = rotations_about(2, turns) @ views[0]
    if opposite:
        about[::2] = torch.diag(about.new_tensor([1, -1, -1])) @ about[::2]
    noise = 1e-3 * torch.randn(40, 32, 32, generator=generator)
    with pytest.raises(PolariceError, match="one view"):
        estimate_orientations(blobs.images(about).float() + noise, generator)


def test_images_follow_neighbours_and_those_that_are_misled_look_everywhere(blobs, views, generator):
    # Each of the others lies near one of forty whose orientations are known, turned in the plane.
    turns = 6 * torch.rand(40, generator=generator, dtype=torch.float64)
    others = rotations_about(2, turns) @ views
    true = torch.cat([views, others])
    neighbours = torch.cat([torch.full((40, 1), -1), torch.arange(40)[:, None]])
    angles = torch.cat([torch.zeros(40, 1), torch.rad2deg(turns)[:, None]])
    # Three are told of a wrong neighbour, one of none.
    neighbours[40:43] = torch.tensor([[20], [21], [22]])
    neighbours[43] = -1
    images = blobs.images(true).float()
    found = extend_orientations(
        images, torch.arange(40), views, neighbours, angles, torch.ones(80, 1), generator, shifts=False
    )
    assert orientation_errors(found.rotations, true).angles_deg.max() < 0.5
