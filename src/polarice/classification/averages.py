"""Averages of classes from pixels: original ones, weighted by their CTFs, or denoised ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..denoising import aligned_sums, signal_power
from ..imaging import move_images, turn_matrices
from ..particles import ParticleStack
from ..stacks import PreparedStack, timed

__all__ = ["average_classes", "average_denoised"]

_BATCH_PIXELS = 2**20
# Images from which the power of the signal is estimated.
_SAMPLE = 1024


@torch.inference_mode()
def average_classes(
    prepared: PreparedStack, label: Tensor, angles_deg: Tensor, centre_px: Tensor, count: int
) -> NDArray[np.float32]:
    """Wiener averages of the original images at the stack's own box: ``Σ c y / (Σ c² + noise / signal)``.

    Parameters
    ----------
    prepared : PreparedStack
    label : Tensor of int, shape (n,)
        Class of each image.
    angles_deg : Tensor, shape (n,)
        How far an image must be turned from x towards y to lie upon its class.
    centre_px : Tensor, shape (n, 2)
        Where each particle lies, (x, y) in pixels of the stack from the centre of the box.
    count : int
        Classes.

    Returns
    -------
    ndarray, shape (count, y, x), float32
        In units of the noise of an image, with the stack's own contrast.
    """
    full = replace(prepared, preprocessor=replace(prepared.preprocessor, model_box=prepared.stack.box))
    box, device = prepared.stack.box, label.device
    half = count, box, box // 2 + 1
    weighted = torch.zeros(half, dtype=torch.complex64, device=device)
    weight = torch.zeros(half, device=device)
    total = len(label)
    step = max(1, _BATCH_PIXELS // box**2)
    for start in range(0, total, step):
        rows = slice(start, min(start + step, total))
        with timed(prepared.seconds, "average"):
            images, ctf = full.seen(rows)
            matrices = turn_matrices(-torch.deg2rad(angles_deg[rows]))
            sums, power = aligned_sums(
                images[:, None],
                matrices[:, None],
                centre_px[rows, None],
                None if ctf is None else ctf[:, None],
            )
            weighted.index_add_(0, label[rows], sums)
            weight.index_add_(0, label[rows], power)
        prepared.report("average", rows.stop, total)
    sample = np.unique(np.linspace(0, total - 1, min(total, _SAMPLE)).astype(int))
    images, ctf = full.seen(sample)
    # The images are in units of the noise at the network's box.
    noise = (
        float(full.preprocessor.mask(full.found.statistics[torch.from_numpy(sample)]).square().mean())
        * (box / prepared.preprocessor.model_box) ** 2
    )
    signal = signal_power(images, ctf, noise_power=noise)
    most = float(signal.max())
    damping = noise / signal.clamp_min(1e-6 * most) if most > 0 else torch.ones_like(signal)
    averages = torch.fft.irfft2(weighted / (weight + damping), s=(box, box))
    shown: NDArray[np.float32] = (averages * prepared.preprocessor.sign).cpu().numpy()
    return shown


@torch.inference_mode()
def average_denoised(
    denoised: ParticleStack, label: Tensor, angles_deg: Tensor, centre_px: Tensor, count: int
) -> NDArray[np.float32]:
    """Plain averages of denoised images; parameters as for `average_classes`."""
    box = denoised.box
    sums = torch.zeros(count, box, box, device=label.device)
    step = max(1, _BATCH_PIXELS // box**2)
    for start in range(0, len(label), step):
        rows = slice(start, min(start + step, len(label)))
        images = torch.from_numpy(denoised.images(rows)).to(label.device)
        turns = turn_matrices(-torch.deg2rad(angles_deg[rows]))
        sums.index_add_(0, label[rows], move_images(images, turns, centre_px[rows]))
    members = torch.bincount(label, minlength=count).clamp_min(1)
    averages: NDArray[np.float32] = (sums / members[:, None, None]).cpu().numpy()
    return averages
