"""The whole way from images to orientations."""

import pytest
import torch

from polarice.errors import PolariceError
from polarice.evaluation import orientation_errors
from polarice.orientations import estimate_orientations
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
