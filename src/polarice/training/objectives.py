"""What training minimises: relative squared error, and a contrast between views for the embedding."""

from __future__ import annotations

import torch
from torch import Tensor

from ..conventions import view_angle_deg

__all__ = ["relative_squared_error", "view_contrast"]

_SAME_VIEW_DEG = 12.0
_OTHER_VIEW_DEG = 25.0
_TEMPERATURE = 0.1


def relative_squared_error(estimate: Tensor, clean: Tensor) -> Tensor:
    """Mean over sets of Σ|x̂ − x|² / Σ|x|².

    Dividing by each set's own power gives every SNR the same say.

    Parameters
    ----------
    estimate, clean : Tensor, shape (s, k, y, x)
    """
    error = (estimate - clean).square().sum((1, 2, 3))
    return (error / clean.square().sum((1, 2, 3))).mean()


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
