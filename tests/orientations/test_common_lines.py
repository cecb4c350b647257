"""Rays and common lines against closed forms."""

import math

import torch

from polarice.orientations import Rays, common_lines_of, find_common_lines, fourier_rays, learn_ray_model

RADII = torch.arange(1, 11, dtype=torch.float64) / 32


def wrapped(angle):
    return (angle + math.pi) % (2 * math.pi) - math.pi


def line_errors_deg(found, true):
    """Larger of the two errors of each pair's line, whose direction has no sign."""
    i, j = torch.triu_indices(len(true), len(true), 1)
    errors = torch.stack([found[i, j] - true[i, j], found[j, i] - true[j, i]])
    apart = torch.stack([wrapped(errors).abs().amax(0), wrapped(errors + math.pi).abs().amax(0)])
    return torch.rad2deg(apart.amin(0))


def test_rays_are_the_fourier_transform_of_the_projection(blobs, views):
    rays = fourier_rays(blobs.images(views[:3]), 12, RADII)
    angles = torch.arange(12, dtype=torch.float64) * (math.pi / 12)
    torch.testing.assert_close(rays.values, blobs.transform(views[:3], angles, RADII), atol=1e-4, rtol=0)


def test_rays_across_the_origin_are_conjugates(blobs, views):
    rays = fourier_rays(blobs.images(views[:2]), 24, RADII)
    angles = torch.arange(48, dtype=torch.float64) * (math.pi / 24)
    whole = rays.at(torch.zeros(48, dtype=torch.int64), angles)
    expected = blobs.transform(views[:1], angles, RADII)[0]
    torch.testing.assert_close(whole, expected, atol=1e-4, rtol=0)
    # Angles may lie on any turn.
    torch.testing.assert_close(rays.at(torch.zeros(48, dtype=torch.int64), angles - 4 * math.pi), whole)


def test_moved_rays_are_those_of_moved_images(blobs, views):
    shifts = torch.tensor([[1.3, -0.4], [0.0, 2.2], [-0.7, 0.6]], dtype=torch.float64)
    moved = fourier_rays(blobs.images(views[:3]), 12, RADII).moved(shifts)
    there = fourier_rays(blobs.images(views[:3], shifts), 12, RADII)
    torch.testing.assert_close(moved.values, there.values, atol=2e-3, rtol=0)


def test_common_line_is_one_direction_of_the_specimen(views):
    angles = common_lines_of(views).angles
    ray = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], -1)
    inside = torch.einsum("iba,ijb->ija", views, ray)
    off = ~torch.eye(len(views), dtype=torch.bool)
    torch.testing.assert_close(inside[off], inside.transpose(0, 1)[off])


def test_transforms_agree_along_the_common_line(blobs, views):
    angles = common_lines_of(views[:2]).angles
    first = blobs.transform(views[:1], angles[0, 1:], RADII)
    second = blobs.transform(views[1:2], angles[1, :1], RADII)
    torch.testing.assert_close(first, second)


def test_lines_are_found(blobs, views):
    rays = fourier_rays(blobs.images(views).float(), 60, RADII)
    lines = find_common_lines(rays, learn_ray_model(rays))
    error = line_errors_deg(lines.angles.double(), common_lines_of(views).angles)
    # Rays are 3 degrees apart.
    assert error.median() < 0.5
    assert (error < 3).float().mean() > 0.95


def test_blocks_change_nothing(blobs, views, monkeypatch):
    rays = fourier_rays(blobs.images(views[:12]).float(), 30, RADII)
    model = learn_ray_model(rays)
    whole = find_common_lines(rays, model)
    monkeypatch.setattr("polarice.orientations.common_lines._AT_ONCE", 2 * 30 * 30 * 25)
    parts = find_common_lines(rays, model)
    torch.testing.assert_close(parts.score, whole.score, atol=1e-2, rtol=1e-4)
    assert line_errors_deg(parts.angles, whole.angles).median() < 0.01


def test_search_agrees_with_trying_every_pair_of_rays(blobs, views):
    rays = fourier_rays(blobs.images(views[:5]), 20, RADII)
    model = learn_ray_model(rays)
    found = find_common_lines(rays, model)
    whitened = model.whitened(rays)
    whole = torch.cat([whitened, whitened.conj()], 1)
    for i in range(5):
        for j in range(i + 1, 5):
            ratios = model.log_ratio(whitened[i][:, None], whole[j][None])
            torch.testing.assert_close(found.score[i, j], ratios.max())


def test_log_ratio_is_that_of_the_gaussian_densities():
    rays = Rays(torch.ones(1, 1, 1, dtype=torch.complex128), torch.ones(1, dtype=torch.float64))
    model = learn_ray_model(Rays(rays.values.expand(2, 4, 1), rays.radii))._replace(
        correlation=torch.tensor([0.6], dtype=torch.float64)
    )
    x, y = torch.tensor([0.3 + 0.8j], dtype=torch.complex128), torch.tensor([-0.2 + 1.1j])
    covariance = torch.tensor([[1, 0.6], [0.6, 1]], dtype=torch.complex128)
    both = torch.cat([x, y.to(x)])
    quadratic = (both.conj() @ torch.linalg.inv(covariance) @ both).real
    joint = -quadratic - torch.linalg.det(covariance).real.log()
    alone = -both.abs().square().sum()
    torch.testing.assert_close(model.log_ratio(x, y.to(x)), joint - alone)
