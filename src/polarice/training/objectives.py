"""What training minimises: relative squared error, and what helps to get there.

Particles' centres, angles between images, and a contrast between views for the embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..conventions import in_plane_angle_deg, view_angle_deg
from ..polar import AttentionResult
from ..simulation.sampler import SetBatch

__all__ = ["alignment_surprise", "bounded", "relative_squared_error", "squared_distance", "view_contrast"]

_SAME_VIEW_DEG = 12.0
_OTHER_VIEW_DEG = 25.0
_TEMPERATURE = 0.1
_FAINTEST_SNR = 0.01
_LARGEST_ERROR = 4.0


def relative_squared_error(estimate: Tensor, clean: Tensor) -> Tensor:
    """Σ|x̂ − x|² / Σ|x|² of each set.

    Dividing by each set's own power gives every SNR the same say. Of an empty set every grey value is an
    error, measured against a particle that is barely there.

    Parameters
    ----------
    estimate, clean : Tensor, shape (s, k, y, x)

    Returns
    -------
    Tensor, shape (s,)
    """
    error = (estimate - clean).square().sum((1, 2, 3))
    faintest = _FAINTEST_SNR * clean[0].numel()
    return error / clean.square().sum((1, 2, 3)).clamp_min(faintest)


def bounded(errors: Tensor) -> Tensor:
    """Mean of errors of which none counts more than `_LARGEST_ERROR`: one odd set must not rule a step."""
    return (errors / (1 + errors / _LARGEST_ERROR)).mean()


def squared_distance(centre: Tensor, batch: SetBatch) -> Tensor:
    """Mean squared distance, px², of centres (s, k, 2) from where the particles of a batch are."""
    distance = (centre - batch.shifts_px).square().sum(-1)
    return (distance * (batch.snr > 0)[:, None]).mean()


def alignment_surprise(attention: AttentionResult, batch: SetBatch) -> Tensor:
    """Surprise, in nats, at the true angle between images of one view: mean over all pairs of a set.

    Cross-entropy over the rotations of each key, whatever weight the key has among others: else a network
    that has come to trust nobody would never learn to align. A true angle between two rotations counts for
    both, by its distance.

    Parameters
    ----------
    attention : AttentionResult
        With scores (s, k, k, m).
    batch : SetBatch

    Returns
    -------
    Tensor, scalar
        Pairs of different views count as nothing, so that devices may share a batch.
    """
    assert attention.scores is not None
    first, second = batch.rotations[:, :, None], batch.rotations[:, None]
    size, angles = attention.scores.shape[-2:]
    alike = (view_angle_deg(first, second) < _SAME_VIEW_DEG) & batch.mask & (batch.snr > 0)[:, None, None]
    alike = alike & ~torch.eye(size, dtype=torch.bool, device=alike.device)
    place = in_plane_angle_deg(first, second)[alike] * (angles / 360)
    below = place.floor()
    share = torch.stack([1 + below - place, place - below], -1)
    index = torch.stack([below, below + 1], -1).long() % angles
    surprise = -(share * attention.scores[alike].log_softmax(-1).gather(-1, index)).sum(-1)
    return surprise.sum() / (len(alike) * size * max(size - 1, 1))


def view_contrast(embedding: Tensor, rotations: Tensor) -> Tensor:
    """Contrastive loss: images of one view closer together than those of other views and molecules.

    Pairs of one molecule whose viewing directions lie between the two limits count neither way.

    Parameters
    ----------
    embedding : Tensor, shape (s, k, e)
        Unit vectors; each set is another molecule.
    rotations : Tensor, shape (s, k, 3, 3)

    Returns
    -------
    Tensor, scalar
        Mean over the images that have a partner; zero if none has.
    """
    size = embedding.shape[1]
    angle = view_angle_deg(rotations[:, :, None], rotations[:, None])
    eye = torch.eye(size, dtype=torch.bool, device=embedding.device)
    same = torch.block_diag(*((angle < _SAME_VIEW_DEG) & ~eye))
    neutral = torch.block_diag(*(((angle >= _SAME_VIEW_DEG) & (angle < _OTHER_VIEW_DEG)) | eye))
    flat = embedding.flatten(0, 1)
    logits = (flat @ flat.T / _TEMPERATURE).masked_fill(neutral, -torch.inf)
    partner = logits.masked_fill(~same, -torch.inf)
    has_partner = same.any(-1)
    if not bool(has_partner.any()):
        return embedding.sum() * 0
    loss = torch.logsumexp(logits[has_partner], -1) - torch.logsumexp(partner[has_partner], -1)
    return loss.mean()
