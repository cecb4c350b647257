"""What moves the weights: Muon for the kernels of convolutions, Adam for all the rest, and their rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, Muon, Optimizer

from .recipe import OptimiserConfig

__all__ = ["KernelMuon", "learning_rate", "make_optimisers", "set_learning_rate"]

# A kernel with fewer rows or columns is hardly a matrix.
_LEAST_SIDE = 8


class KernelMuon(Muon):
    """Muon (K. Jordan et al. 2024) for kernels of convolutions, taken as matrices (out, in × taps).

    Orthogonal updates move every direction of a kernel at one speed; here the same error takes a third
    of the images that Adam needs (docs/train.md).

    Parameters
    ----------
    kernels : iterable of Parameter
        Contiguous, on their final device.
    lr : float
        In Adam's scale: the root mean square of an update is 0.2 times as much.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], lr: float) -> None:
        self._kernels = list(kernels)
        # torch's Muon takes matrices alone: these share the kernels' memory.
        matrices = [nn.Parameter(kernel.detach().flatten(1)) for kernel in self._kernels]
        super().__init__(matrices, lr=lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take the kernels' gradients and move them."""
        for matrix, kernel in zip(self.param_groups[0]["params"], self._kernels, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)  # type: ignore[no-untyped-call]


def make_optimisers(network: nn.Module, config: OptimiserConfig) -> list[Optimizer]:
    """Muon for the network's kernels and Adam for its other weights.

    Parameters
    ----------
    network : Module
        On its final device.
    config : OptimiserConfig
    """
    kernels: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in network.parameters():
        is_kernel = parameter.ndim == 4 and min(parameter.flatten(1).shape) >= _LEAST_SIDE
        (kernels if is_kernel else others).append(parameter)
    optimisers: list[Optimizer] = [Adam(others, lr=config.learning_rate)]
    if kernels:
        optimisers.append(KernelMuon(kernels, lr=config.kernel_learning_rate))
    return optimisers


def learning_rate(images: int, config: OptimiserConfig) -> float:
    """Fraction of the full rates after a number of images: linear rise, plateau, cosine fall to zero."""
    rise = min(1.0, (images + 1) / max(config.warmup_images, 1))
    left = (config.images - images) / max(config.decay_images, 1)
    fall = 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, left)))
    return rise * fall


def set_learning_rate(optimisers: Sequence[Any], images: int, config: OptimiserConfig) -> None:
    """Set the rates of what `make_optimisers` made that are due after a number of images."""
    fraction = learning_rate(images, config)
    rates = (config.learning_rate, config.kernel_learning_rate)
    for optimiser, rate in zip(optimisers, rates, strict=False):
        for group in optimiser.param_groups:
            group["lr"] = rate * fraction
