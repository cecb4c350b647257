"""What a denoiser is: images in, images out; and for sets, with what was learned on the way."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..devices import resolve_device
from ..errors import ModelError
from ..models import PolarTransformer, load_model
from ..polar import peak_angles_deg

__all__ = ["Denoiser", "NetworkDenoiser", "SetDenoiser", "SetResult"]


class Denoiser(Protocol):
    """Anything that maps normalised images (b, y, x) to denoised images (b, y, x), each alone."""

    box: int

    def __call__(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise; ``ctf`` (b, y, x // 2 + 1) is the magnitude of each image's CTF."""
        ...


class NetworkDenoiser:
    """A single-image network as a `Denoiser`.

    Parameters
    ----------
    model : str, Path or Module
        A shipped model's name, a weights file, or a network.
    device : str
    """

    def __init__(self, model: str | Path | nn.Module, device: str = "auto") -> None:
        self.device = resolve_device(device)
        self.network = _network(model, self.device)
        if getattr(self.network, "jointly", False):
            raise ModelError("this network denoises sets", hint="use SetDenoiser")
        self.box: int = self.network.box  # type: ignore[assignment]

    @torch.inference_mode()
    def __call__(self, images: Tensor, ctf: Tensor | None = None) -> Tensor:
        """Denoise normalised images (b, y, x) with CTFs of magnitude ``ctf`` (b, y, x // 2 + 1), or none."""
        ctf = None if ctf is None else ctf.to(self.device)
        denoised: Tensor = self.network(images.to(self.device), ctf)
        return denoised


class SetResult(NamedTuple):
    """Sets after joint denoising.

    Attributes
    ----------
    images : Tensor, shape (s, k, y, x)
    weights : Tensor, shape (s, k, k)
        How much each image (row) took from each other (column) in the last round; a row sums to the
        image's confidence.
    angles_deg : Tensor, shape (s, k, k)
        How far each other image must be turned, from x towards y, to lie upon this one.
    attention : Tensor, shape (s, k, k, m)
        The coefficients over angles of the last round.
    confidence : Tensor, shape (s, k)
        Weight of all others, 0 (denoised alone) to 1.
    """

    images: Tensor
    weights: Tensor
    angles_deg: Tensor
    attention: Tensor
    confidence: Tensor


class SetDenoiser:
    """A joint network on sets of images.

    Parameters
    ----------
    model : str, Path or Module
        A shipped model's name, a weights file, or a network.
    device : str
    """

    def __init__(self, model: str | Path | nn.Module = "polar-transformer-64", device: str = "auto") -> None:
        self.device = resolve_device(device)
        network = _network(model, self.device)
        if not isinstance(network, PolarTransformer):
            single = not getattr(network, "jointly", False)
            hint = "use NetworkDenoiser" if single else "call the network itself"
            raise ModelError("this network is not a polar transformer of polarice's own", hint=hint)
        self.network = network
        self.box = network.box

    @torch.inference_mode()
    def __call__(self, images: Tensor, mask: Tensor | None = None, ctf: Tensor | None = None) -> SetResult:
        """Denoise sets.

        Parameters
        ----------
        images : Tensor, shape (s, k, y, x)
            Normalised as `polarice.particles.Preprocessor` does it.
        mask : Tensor of bool, shape broadcastable to (s, k, k), optional
            True where the first image may use the second.
        ctf : Tensor, shape (s, k, y, x // 2 + 1), optional
            Magnitude of each image's CTF; none by default.
        """
        mask, ctf = (None if given is None else given.to(self.device) for given in (mask, ctf))
        output = self.network(images.to(self.device), mask, ctf)
        attention = output.attention[-1].weights
        return SetResult(
            output.images, attention.sum(-1), peak_angles_deg(attention), attention, output.confidence
        )


def _network(model: str | Path | nn.Module, device: torch.device) -> nn.Module:
    if isinstance(model, nn.Module):
        return model.to(device).eval()
    return load_model(model, device)[0]
