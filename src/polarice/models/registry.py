"""Names, configurations and weights: how a network is made, stored and found.

Weights are safetensors; the configuration and the model card travel in the file's own header, so
one file is a whole model and no pickle is ever loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..errors import ModelError
from ..files import whole
from .paper import PaperConfig, PaperPolarCNN, PaperPolarTransformer
from .polar_cnn import PolarCNN, PolarCNNConfig
from .polar_transformer import PolarTransformer, PolarTransformerConfig
from .unet import DnCNN, DnCNNConfig, UNet, UNetConfig

__all__ = [
    "ARCHITECTURES",
    "ModelCard",
    "build_model",
    "find_weights",
    "load_model",
    "read_card",
    "save_model",
    "shipped_models",
]

WEIGHTS_FOLDER = Path(__file__).parent / "weights"

ARCHITECTURES: dict[str, tuple[type[nn.Module], type[Any]]] = {
    "polar-transformer": (PolarTransformer, PolarTransformerConfig),
    "polar-cnn": (PolarCNN, PolarCNNConfig),
    "unet": (UNet, UNetConfig),
    "dncnn": (DnCNN, DnCNNConfig),
    "paper-polar-transformer": (PaperPolarTransformer, PaperConfig),
    "paper-polar-cnn": (PaperPolarCNN, PaperConfig),
}


@dataclass(frozen=True)
class ModelCard:
    """What is known of a set of weights.

    Attributes
    ----------
    architecture : str
        Key of `ARCHITECTURES`.
    config : dict
        Fields of the architecture's configuration.
    recipe : dict
        The training recipe, whole.
    figures : dict
        Measured after training: images seen, relative MSE, and so on.
    """

    architecture: str
    config: dict[str, Any]
    recipe: dict[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)


def build_model(architecture: str, config: Mapping[str, Any]) -> nn.Module:
    """A fresh network.

    Raises
    ------
    ModelError
        Unknown architecture or configuration entry, or a value that makes no network.
    """
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ModelError(f"unknown architecture {architecture!r}", hint=f"choose from {known}")
    network, config_type = ARCHITECTURES[architecture]
    names = {f.name for f in fields(config_type)}
    unknown = sorted(set(config) - names)
    if unknown:
        hint = f"it has {', '.join(sorted(names))}"
        raise ModelError(f"{architecture} has no entry {', '.join(unknown)}", hint=hint)
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    try:
        return network(config_type(**frozen))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{architecture} cannot be built: {error}") from error


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card as one safetensors file, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as partial:
        save_file(tensors, partial, metadata={"polarice": json.dumps(asdict(card))})
        # safetensors makes files that only their owner may read.
        partial.chmod(0o644)


def shipped_models() -> dict[str, Path]:
    """Names and files of the weights that come with polarice."""
    return {path.stem: path for path in sorted(WEIGHTS_FOLDER.glob("*.safetensors"))}


def find_weights(model: str | Path) -> Path:
    """The weights file of a shipped model's name or of a path.

    Raises
    ------
    ModelError
        There is neither.
    """
    shipped = shipped_models()
    if str(model) in shipped:
        return shipped[str(model)]
    if Path(model).is_file():
        return Path(model)
    known = ", ".join(shipped) or "none"
    raise ModelError(f"no model {str(model)!r}", hint=f"give a .safetensors file or a shipped model: {known}")


def read_card(path: Path) -> ModelCard:
    """The card of a weights file.

    Raises
    ------
    ModelError
        The file is not one of polarice's.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return ModelCard(**json.loads(metadata["polarice"]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError("not a weights file of polarice", path=path) from error


def load_model(model: str | Path, device: torch.device | str = "cpu") -> tuple[nn.Module, ModelCard]:
    """A trained network in evaluation mode, and its card.

    Parameters
    ----------
    model : str or Path
        Name of a shipped model, or a weights file.
    device : torch.device or str

    Raises
    ------
    ModelError
        Unknown model, or weights that do not fit.
    """
    path = find_weights(model)
    card = read_card(path)
    network = build_model(card.architecture, card.config)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError("the weights do not fit their configuration", path=path) from error
    return network.to(device).eval(), card
