"""Images in, orientations out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..conventions import random_rotations
from ..errors import PolariceError
from ..imaging import soft_disc
from .alike import share_alike
from .common_lines import RayModel, find_common_lines, learn_ray_model
from .inherit import inherit_orientations, offered_orientations
from .rays import Rays, fourier_rays
from .refine import best_orientations, refine_orientations
from .relative import relative_rotations
from .synchronise import agree_on_hands, synchronise

__all__ = ["Orientations", "estimate_orientations", "extend_orientations"]

Progress = Callable[[str, int, int], None]

# Rays in half a turn, for the search and for the refinement.
_COARSE, _FINE = 60, 360
# Largest radius, cycles per box and as a share of the box's own limit.
_LARGEST, _SHARE = 16, 0.6
_IMAGES_AT_ONCE = 256
_DISC_EDGE_PX = 4.0
# Share of pairs that show one view above which there is nothing to find.
_ALIKE = 0.5
# Images by which orientations are judged; the share of good ones that are doubted; how many are tried then.
_JUDGES = 64
_DOUBTED = 0.02
_EVERYWHERE = 4000


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

    Raises
    ------
    PolariceError
        All images show one view.
    """
    coarse, centre = _image_rays(images, _COARSE, centred=shifts)
    model = learn_ray_model(coarse)
    if share_alike(coarse, model) > _ALIKE:
        raise PolariceError(
            "the particles show one view, and images of one view have no common lines; or nothing but noise",
            hint="bring particles that are seen from several sides",
        )
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

    Of what the neighbours of an image say, the orientation counts that lets it meet the images that are known
    along the likeliest rays; if it is worse than those of nearly all that are known, any other is tried too.

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
    """
    count = len(images)
    known = torch.zeros(count, dtype=torch.bool, device=images.device)
    known[members] = True
    start = torch.eye(3, device=images.device).expand(count, 3, 3).clone()
    start[members] = rotations.to(start)
    start, reached = inherit_orientations(start, known, neighbours, angles_deg, weights)
    coarse, centre = _image_rays(images, _COARSE, centred=shifts)
    model = learn_ray_model(coarse)
    judges = members[torch.randperm(len(members), generator=generator)[:_JUDGES].to(members)]
    others = torch.arange(count, device=images.device)[~known]
    offered = offered_orientations(start, neighbours, angles_deg)
    if len(others):
        start[others], ratio = best_orientations(coarse, model, start, judges, others, offered[others])
        usual = best_orientations(coarse, model, start, judges, members, start[members][:, None])[1]
        # Whom no neighbour has told a good one looks everywhere.
        lost = ~reached[others] | (ratio < usual.quantile(_DOUBTED))
        seeking = others[lost]
        if len(seeking):
            everywhere = random_rotations(_EVERYWHERE, generator).to(start)[None]
            tried, better = best_orientations(coarse, model, start, judges, seeking, everywhere)
            gained = better > ratio[lost]
            start[seeking[gained]] = tried[gained]
    return _refine(images, model, start, centre, generator, shifts, progress)


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
