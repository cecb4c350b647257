"""Images in, orientations out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..imaging import soft_disc
from .common_lines import RayModel, find_common_lines, learn_ray_model
from .inherit import inherit_orientations
from .rays import Rays, fourier_rays
from .refine import refine_orientations
from .relative import relative_rotations
from .synchronise import agree_on_hands, synchronise

__all__ = ["Orientations", "estimate_orientations", "extend_orientations", "views_differ"]

Progress = Callable[[str, int, int], None]

# Rays in half a turn, for the search and for the refinement.
_COARSE, _FINE = 60, 360
# Largest radius, cycles per box and as a share of the box's own limit.
_LARGEST, _SHARE = 16, 0.6
_IMAGES_AT_ONCE = 256
_DISC_EDGE_PX = 4.0
# Mean squared sine of the angle between views below which they are all alike; 2/3 for all directions.
_ALIKE = 0.03


class Orientations(NamedTuple):
    """Orientations of n images.

    Attributes
    ----------
    rotations : Tensor, shape (n, 3, 3)
        From specimen to image coordinates, up to one rotation and one mirror image of all.
    shifts_px : Tensor, shape (n, 2)
        Where each particle lies, (x, y) from the origin.
    confidence : Tensor, shape (n,)
        Share of the other images with which an image meets along rays that are likelier to be one than
        strangers.
    """

    rotations: Tensor
    shifts_px: Tensor
    confidence: Tensor


def estimate_orientations(
    images: Tensor,
    generator: torch.Generator,
    *,
    shifts: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> Orientations:
    """Orientations of images of one molecule from their common lines.

    Parameters
    ----------
    images : Tensor, shape (n, y, x)
        Without noise, or nearly so, and without CTF; the background is zero and the grey scale one.
    generator : torch.Generator
    shifts : bool
        Find out where the particles lie; otherwise they are at the centre.
    progress : callable
        Called with stage, done and in all.
    """
    coarse, centre = _image_rays(images, _COARSE, centred=shifts)
    model = learn_ray_model(coarse)
    lines = find_common_lines(coarse, model, lambda *done: progress("find common lines", *done))
    relative = relative_rotations(lines)
    agreed = agree_on_hands(
        relative.rotations, relative.votes, generator, lambda *done: progress("agree on the hand", *done)
    )
    found = synchronise(
        agreed, relative.votes, generator, lambda *done: progress("synchronise orientations", *done)
    )
    return _refine(images, model, found.rotations, centre, generator, shifts, progress)


def extend_orientations(
    images: Tensor,
    members: Tensor,
    rotations: Tensor,
    neighbours: Tensor,
    angles_deg: Tensor,
    weights: Tensor,
    generator: torch.Generator,
    *,
    shifts: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> Orientations:
    """Orientations of all images from those of some: inherited from neighbours, then refined together.

    Parameters
    ----------
    images : Tensor, shape (n, y, x)
        As for `estimate_orientations`.
    members : Tensor of int, shape (m,)
        Rows whose orientations are known.
    rotations : Tensor, shape (m, 3, 3)
    neighbours : Tensor of int, shape (n, k)
        Rows, -1 in empty places.
    angles_deg, weights : Tensor, shape (n, k)
        How far each neighbour must be turned from x towards y to lie upon the image, and what it counts.
    generator : torch.Generator
    shifts : bool
    progress : callable

    Returns
    -------
    Orientations
        The confidence of an image to which no path of neighbours leads is zero.
    """
    count = len(images)
    known = torch.zeros(count, dtype=torch.bool, device=images.device)
    known[members] = True
    start = torch.eye(3, device=images.device).expand(count, 3, 3).clone()
    start[members] = rotations.to(start)
    start, reached = inherit_orientations(start, known, neighbours, angles_deg, weights)
    coarse, centre = _image_rays(images, _COARSE, centred=shifts)
    found = _refine(images, learn_ray_model(coarse), start, centre, generator, shifts, progress)
    return found._replace(confidence=torch.where(reached, found.confidence, 0))


def _refine(
    images: Tensor,
    model: RayModel,
    rotations: Tensor,
    centre: Tensor,
    generator: torch.Generator,
    shifts: bool,
    progress: Progress,
) -> Orientations:
    """Refine orientations of images that lie about where ``centre`` says."""
    rays, _ = _image_rays(images, _FINE, centre=centre)
    refined = refine_orientations(
        rays,
        model,
        rotations,
        generator,
        shifts=shifts,
        progress=lambda *done: progress("refine orientations", *done),
    )
    return Orientations(refined.rotations, refined.shifts_px + centre, refined.confidence)


def _image_rays(
    images: Tensor, angles: int, *, centred: bool = False, centre: Tensor | None = None
) -> tuple[Rays, Tensor]:
    """Rays of images about their centres of mass, or about given centres.

    The centre of mass of a projection is the projection of the specimen's, so centring each image by its own
    puts all origins at one point of the specimen.

    Returns
    -------
    rays : Rays
    centre : Tensor, shape (n, 2)
        Where the origin was put, (x, y) in pixels.
    """
    box = images.shape[-1]
    largest = min(_LARGEST, math.floor(_SHARE * box / 2))
    radii = torch.arange(1, largest + 1, device=images.device) / box
    if centre is None:
        centre = _centres_of_mass(images) if centred else images.new_zeros(len(images), 2)
    parts = [fourier_rays(part, angles, radii).values for part in images.split(_IMAGES_AT_ONCE)]
    rays = Rays(torch.cat(parts), radii.to(images))
    return rays.moved(-centre), centre


def _centres_of_mass(images: Tensor) -> Tensor:
    """Centre of mass (n, 2) of each image within its disc, (x, y) in pixels from the origin."""
    box = images.shape[-1]
    axis = torch.arange(box, device=images.device, dtype=images.dtype) - box // 2
    disc = soft_disc(box, box / 2, _DISC_EDGE_PX, device=images.device, dtype=images.dtype)
    mass = (images * disc).sum((1, 2))
    sure = mass.abs() > 1e-6 * images.abs().sum((1, 2))
    mass = torch.where(sure, mass, 1)
    x = torch.einsum("nyx,yx,x->n", images, disc, axis) / mass
    y = torch.einsum("nyx,yx,y->n", images, disc, axis) / mass
    found = torch.where(sure[:, None], torch.stack([x, y], -1), 0)
    return found.clamp(-box / 4, box / 4)


def views_differ(rotations: Tensor) -> bool:
    """Whether images (n, 3, 3) look from different sides: of one view there are no common lines."""
    towards = rotations[:, 2]
    squared = (towards @ towards.T).square().mean()
    return bool(1 - squared > _ALIKE)
