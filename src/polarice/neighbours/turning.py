"""Sums over angular orders at many in-plane angles, and what is likely at any of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["log_mean_exp", "turns"]


def turns(orders: Tensor, angles: int) -> Tensor:
    """Matrix (angles, 2 o) from complex products of some orders to their sum over all at each angle.

    Column k is for the real part of order k, column o + k for its imaginary part. Orders but zero stand for
    their negatives too. For so few orders one product of matrices is much faster than a Fourier transform.

    Parameters
    ----------
    orders : Tensor of int, shape (o,)
    angles : int
        How many, uniform from 0.
    """
    phase = 2 * math.pi * torch.outer(torch.arange(angles, device=orders.device), orders).double() / angles
    twice = torch.where(orders == 0, 1, 2)
    return torch.cat([twice * phase.cos(), -twice * phase.sin()], 1).float()


def log_mean_exp(values: Tensor) -> Tensor:
    """Logarithm of the mean exponential over the first dimension of (m, n), which is used up; shape (n,)."""
    largest = values.amax(0)
    return values.sub_(largest).exp_().mean(0).log_().add_(largest)
