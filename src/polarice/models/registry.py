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
from safetensors.torch import save
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

_FOREIGN = "give a .safetensors file that `polarice train` has written; pickles are never loaded"
# No side and no number of channels or layers is larger than this.
_LARGEST = 4096

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
    for key, value in config.items():
        _require_modest(architecture, key, value)
    frozen = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    try:
        return network(config_type(**frozen))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelError(f"{architecture} cannot be built: {error}") from error


def _require_modest(architecture: str, key: str, value: Any) -> None:
    """Raise where a value would make no network, or one that no memory holds."""
    parts = value if isinstance(value, (list, tuple)) else [value]
    sizes = [part for part in parts if isinstance(part, (int, float))]
    # There may be no rounds or layers of a kind, but not a level without channels.
    least = 1 if key == "box" or parts is value else 0
    fault = None
    if len(parts) > _LARGEST:
        fault = f"{key} has {len(parts)} values"
    elif not all(least <= size <= _LARGEST for size in sizes):
        fault = f"{key} is {value}, not between {least} and {_LARGEST}"
    elif key == "box" and sizes and sizes[0] % 2:
        fault = f"the box must be even, not {value}"
    if fault is not None:
        raise ModelError(f"{architecture} cannot be built: {fault}")


def save_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card as one safetensors file, whole or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole(path) as partial:
        partial.write_bytes(save(tensors, metadata={"polarice": json.dumps(asdict(card))}))


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
        card = ModelCard(**json.loads(metadata["polarice"]))
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError("not a weights file of polarice", path=path, hint=_FOREIGN) from error
    mappings = (card.config, card.recipe, card.figures)
    if not isinstance(card.architecture, str) or not all(isinstance(each, dict) for each in mappings):
        raise ModelError("not a weights file of polarice", path=path, hint=_FOREIGN)
    return card


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
    try:
        network = build_model(card.architecture, card.config)
    except ModelError as error:
        raise ModelError(error.reason, path=path, hint=error.hint) from error
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, wanted in network.state_dict().items():
        # As they will be; what is not there is told of below.
        given = state.get(name, wanted)
        numbers = given.is_floating_point() == wanted.is_floating_point()
        if not (numbers and bool(given.to(wanted.dtype).isfinite().all())):
            reason = f"the weights {name} are not all finite numbers"
            raise ModelError(reason, path=path, hint="get or train the weights anew")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError("the weights do not fit their configuration", path=path) from error
    return network.to(device).eval(), card
