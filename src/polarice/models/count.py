"""How large the networks are and how much they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .registry import ARCHITECTURES, build_model, read_card, shipped_models
from .unet import DnCNN, DnCNNConfig, UNet, UNetConfig

__all__ = ["count_flops", "count_parameters", "model_table"]


def count_parameters(network: nn.Module) -> int:
    """Trainable numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_flops(network: nn.Module, box: int, *, set_size: int = 16) -> float:
    """Floating-point operations for one image, forward: those of convolutions and matrix products.

    Fourier transforms, normalisations and the sparse polar transform are not counted.

    Parameters
    ----------
    network : Module
    box : int
        Side of the images.
    set_size : int
        Images in the set of a joint network.
    """
    sets = isinstance(getattr(network, "jointly", None), bool) and network.jointly
    shape = (1, set_size, box, box) if sets else (1, box, box)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.zeros(shape))
    return counter.get_total_flops() / (set_size if sets else 1)


def model_table() -> list[dict[str, Any]]:
    """Every shipped model and every network that can be trained, with sizes and figures.

    Returns
    -------
    list of dict
        ``name``, ``what``, ``parameters``, ``flops_per_image``, ``figures``.
    """
    networks: list[tuple[str, str, nn.Module, dict[str, Any]]] = []
    for name, path in shipped_models().items():
        card = read_card(path)
        network = build_model(card.architecture, card.config)
        networks.append((name, f"shipped weights ({card.architecture})", network, card.figures))
    for name, (network_type, _) in ARCHITECTURES.items():
        networks.append((name, "network, default configuration", network_type(), {}))
    papers = {"unet": UNet(UNetConfig.paper()), "dncnn": DnCNN(DnCNNConfig.paper())}
    networks += [(name, "network, the paper's configuration", net, {}) for name, net in papers.items()]
    return [
        {
            "name": name,
            "what": what,
            "parameters": count_parameters(network),
            "flops_per_image": count_flops(network, int(network.box)),  # type: ignore[arg-type]
            "figures": figures,
        }
        for name, what, network, figures in networks
    ]
