import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from polarice.errors import ModelError
from polarice.models import (
    ModelCard,
    build_model,
    find_weights,
    load_model,
    read_card,
    save_model,
    shipped_models,
)

SMALL: dict[str, dict[str, Any]] = {
    "polar-transformer": {"box": 32, "widths": [4, 8], "match_channels": 2, "embedding": 8},
    "polar-cnn": {"box": 32, "widths": [4, 8], "depth": 1},
    "unet": {"box": 32, "widths": [4, 8]},
    "dncnn": {"box": 32, "depth": 3, "width": 4},
}


def outputs(model: torch.nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        out = model(images) if getattr(model, "jointly", False) else model(images[0])
    result: Tensor = out if isinstance(out, Tensor) else out.images
    return result


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "unet.safetensors"
    save_model(path, build_model("unet", SMALL["unet"]), ModelCard("unet", SMALL["unet"]))
    return path


@pytest.mark.parametrize("architecture", list(SMALL))
def test_round_trip_with_card(architecture: str, tmp_path: Path, images: Tensor) -> None:
    torch.manual_seed(1)
    model = build_model(architecture, SMALL[architecture]).eval()
    card = ModelCard(
        architecture, SMALL[architecture], {"run": {"seed": 3}}, {"images_seen": 10, "relative_mse": 0.5}
    )
    path = tmp_path / "m.safetensors"
    save_model(path, model, card)
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]
    assert read_card(path) == card
    loaded, read = load_model(path)
    assert read == card
    assert not loaded.training
    assert torch.equal(outputs(loaded, images), outputs(model, images))


def test_card_survives_non_ascii(tmp_path: Path) -> None:
    card = ModelCard("unet", SMALL["unet"], figures={"größe": "Å"})
    path = tmp_path / "m.safetensors"
    save_model(path, build_model("unet", SMALL["unet"]), card)
    assert read_card(path) == card


@pytest.mark.parametrize(
    ("architecture", "config", "message"),
    [
        ("resnet", {}, r"unknown architecture 'resnet'.*polar-transformer, polar-cnn, unet, dncnn"),
        ("unet", {"depth": 3}, r"unet has no entry depth.*box, widths"),
        ("unet", {"widths": 3}, r"unet cannot be built"),
        ("unet", {"box": 30, "widths": [4, 4, 4]}, r"a box of 30 cannot be halved 2 times"),
        ("unet", {"widths": [6, 8]}, r"unet cannot be built: .*divisible"),
        ("polar-cnn", {"box": 33}, r"the box must be even, not 33"),
        ("polar-transformer", {"grid": "fine"}, r"unknown polar grid 'fine': choose from paper, compact"),
    ],
)
def test_what_cannot_be_built_is_explained(architecture: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build_model(architecture, config)


def test_unknown_model_lists_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"no model 'nowhere'.*\.safetensors file or a shipped model"):
        find_weights("nowhere")


def test_foreign_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"foreign\.safetensors: not a weights file of polarice"):
        load_model(path)
    save_file({"x": torch.zeros(3)}, path, metadata={"polarice": json.dumps({"name": "other"})})
    with pytest.raises(ModelError, match="not a weights file of polarice"):
        load_model(path)
    save_file({"x": torch.zeros(3)}, path, metadata={"polarice": "{"})
    with pytest.raises(ModelError, match="not a weights file of polarice"):
        read_card(path)


@pytest.mark.parametrize("length", [0, 4, 100, -10])
def test_truncated_file(length: int, saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:length])
    with pytest.raises(ModelError, match=r"unet\.safetensors: not a weights file of polarice"):
        load_model(saved)


def test_something_else_entirely(tmp_path: Path) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("not weights at all, but long enough to have a header of eight bytes")
    with pytest.raises(ModelError, match="not a weights file of polarice"):
        load_model(path)


def test_weights_that_do_not_fit_their_card(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    other = {"box": 32, "widths": [8, 8]}
    save_model(path, build_model("unet", SMALL["unet"]), ModelCard("unet", other))
    with pytest.raises(ModelError, match="the weights do not fit their configuration"):
        load_model(path)


def test_failed_write_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_model(saved, build_model("unet", SMALL["unet"]), ModelCard("unet", {"box": object()}))
    assert saved.read_bytes() == before


@pytest.mark.parametrize("name", list(shipped_models()))
def test_shipped_weights(name: str, generator: torch.Generator) -> None:
    """They load, say what they were trained on, and turn noise into something finite and weaker."""
    model, card = load_model(name)
    assert card.recipe
    assert card.figures["images_seen"] > 0
    box = int(model.box)
    noise = torch.randn(1, 3, box, box, generator=generator)
    out = outputs(model, noise)
    assert bool(out.isfinite().all())
    assert float(out.square().mean()) < 0.2
