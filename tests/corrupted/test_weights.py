"""Weights that are cut, do not fit, are no numbers, or are something else under their name."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load, save_file
from torch import Tensor

KIND = "weights"
State = dict[str, Tensor]
CUTS = 16


def card_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        card: dict[str, Any] = json.loads(file.metadata()["polarice"])
    return card


def state_of(path: Path) -> State:
    return load(path.read_bytes())


@pytest.fixture
def weights(single_weights: Path, tmp_path: Path) -> Path:
    """A copy of the weights, to be broken."""
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "mine.safetensors"
    path.write_bytes(single_weights.read_bytes())
    return path


@pytest.fixture
def stack(whole: Any, tmp_path: Path) -> Path:
    """A whole stack."""
    path: Path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    return path


def refused(judge: Any, stack: Path, weights: Path, *words: str) -> None:
    judge.refused(KIND, stack, words, names=weights, model=weights)


@pytest.mark.parametrize("cut", range(CUTS))
def test_cut_anywhere(cut: int, weights: Path, judge: Any, stack: Path) -> None:
    data = weights.read_bytes()
    weights.write_bytes(data[: (len(data) - 1) * cut // (CUTS - 1)])
    refused(judge, stack, weights, "not a weights file of polarice")


@pytest.mark.parametrize("length", [4, 8, 9, 100, 1000])
def test_cut_in_the_header(length: int, weights: Path, judge: Any, stack: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:length])
    refused(judge, stack, weights, "not a weights file of polarice")


BYTES: dict[str, Callable[[bytes], bytes]] = {
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"weights " * 1000,
    "a header of no length": lambda data: bytes(8) + data[8:],
    "a header of all the memory": lambda data: b"\xff" * 7 + b"\x7f" + data[8:],
    "a header of another length": lambda data: (
        struct.pack("<Q", struct.unpack("<Q", data[:8])[0] - 9) + data[8:]
    ),
    "a header that is no JSON": lambda data: data.replace(b'"dtype"', b'"dtype', 1),
    "an unknown type": lambda data: data.replace(b'"F32"', b'"F99"', 1),
    "another type": lambda data: data.replace(b'"F32"', b'"F16"', 1),
    "a place twice": lambda data: data.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
    "bytes after the end": lambda data: data + bytes(100),
    "bytes not UTF-8": lambda data: data[:20] + b"\xff\xfe" + data[22:],
}


@pytest.mark.parametrize("name", BYTES)
def test_broken_bytes(name: str, weights: Path, judge: Any, stack: Path) -> None:
    data = weights.read_bytes()
    weights.write_bytes(BYTES[name](data))
    assert weights.read_bytes() != data
    refused(judge, stack, weights, "not a weights file of polarice")


def one(state: State, change: Callable[[Tensor], Tensor]) -> None:
    state["head.weight"] = change(state["head.weight"]).contiguous()


def put(value: float) -> Callable[[State], None]:
    return lambda state: one(state, lambda tensor: tensor.index_fill(1, torch.tensor([2]), value))


STATES: dict[str, tuple[Callable[[State], object], str]] = {
    "none at all": (lambda state: state.clear(), "do not fit"),
    "the first is missing": (lambda state: state.pop(min(state)), "do not fit"),
    "the last is missing": (lambda state: state.pop(max(state)), "do not fit"),
    "one is missing": (lambda state: state.pop("head.weight"), "do not fit"),
    "one too many": (lambda state: state.update(more=torch.zeros(3)), "do not fit"),
    "another name": (lambda state: state.update(heads=state.pop("head.weight")), "do not fit"),
    "turned": (lambda state: one(state, lambda tensor: tensor.transpose(0, 1)), "do not fit"),
    "flat": (lambda state: one(state, lambda tensor: tensor.flatten()), "do not fit"),
    "of one number": (lambda state: one(state, lambda tensor: tensor.sum()), "do not fit"),
    "empty": (lambda state: one(state, lambda tensor: tensor[:0]), "do not fit"),
    "a channel more": (lambda state: one(state, lambda t: torch.cat([t, t[:, :1]], 1)), "do not fit"),
    "NaN": (put(float("nan")), "head.weight"),
    "infinite": (put(float("inf")), "head.weight"),
    "minus infinity": (put(-float("inf")), "head.weight"),
    "too large for float32": (lambda state: one(state, lambda t: t.double() * 1e300), "head.weight"),
    "whole numbers": (lambda state: one(state, lambda tensor: tensor.to(torch.int64)), "head.weight"),
    "bytes": (lambda state: one(state, lambda tensor: tensor.to(torch.uint8)), "head.weight"),
    "flags": (lambda state: one(state, lambda tensor: tensor > 0), "head.weight"),
}


@pytest.mark.parametrize("name", STATES)
def test_other_tensors(name: str, weights: Path, judge: Any, stack: Path) -> None:
    change, words = STATES[name]
    card, state = card_of(weights), state_of(weights)
    change(state)
    save_file(state, weights, metadata={"polarice": json.dumps(card)})
    refused(judge, stack, weights, words)


CONFIG = {"box": 32, "widths": [4, 8]}
FOREIGN = "not a weights file of polarice"
CARDS: dict[str, tuple[str | None, str]] = {
    "none": (None, FOREIGN),
    "empty": ("", FOREIGN),
    "no JSON": ("{", FOREIGN),
    "null": ("null", FOREIGN),
    "a list": ("[]", FOREIGN),
    "a number": ("7", FOREIGN),
    "nothing in it": ("{}", FOREIGN),
    "no configuration": (json.dumps({"architecture": "unet"}), FOREIGN),
    "an entry more": (json.dumps({"architecture": "unet", "config": CONFIG, "more": 1}), FOREIGN),
    "brackets without end": ("[" * 100_000, FOREIGN),
    "no architecture": (json.dumps({"config": CONFIG}), FOREIGN),
    "figures that are none": (json.dumps({"architecture": "unet", "config": CONFIG, "figures": 7}), FOREIGN),
    "a recipe that is none": (json.dumps({"architecture": "unet", "config": CONFIG, "recipe": []}), FOREIGN),
}
for architecture in ("resnet", "", "UNet", None, 7, ["unet"], {"unet": 1}):
    words = "unknown architecture" if isinstance(architecture, str) else FOREIGN
    CARDS[f"architecture {architecture!r}"] = (
        json.dumps({"architecture": architecture, "config": CONFIG}),
        words,
    )
for architecture in ("dncnn", "polar-cnn", "polar-transformer", "paper-polar-cnn", "paper-polar-transformer"):
    CARDS[f"weights of a {architecture}"] = (
        json.dumps({"architecture": architecture, "config": {"box": 32}}),
        "",
    )
for config in (None, 7, "unet", [], [["box", 32]], True):
    CARDS[f"configuration {config!r}"] = json.dumps({"architecture": "unet", "config": config}), FOREIGN
BUILT = "cannot be built"
for key, values in {
    "box": (0, -32, 31, 32.5, 1e300, float("nan"), 10**9, 2**70, "32", None, [], [32, 32], {}, True),
    "widths": (
        0, None, "48", [], [0], [4, -8], [4, 6], [4, 8.5], [4, "8"], [4, None], [4, [8]], [4, 10**9], [4] * 9,
        [4] * 10_000, {"0": 4}, [8, 8],
    ),
    "depth": (3,),
    "": (1,),
}.items():  # fmt: skip
    for value in values:
        name = f"{key} {value!r}"[:60]
        CARDS[name] = json.dumps({"architecture": "unet", "config": CONFIG | {key: value}}), ""


@pytest.mark.parametrize("name", CARDS)
def test_other_cards(name: str, weights: Path, judge: Any, stack: Path) -> None:
    card, words = CARDS[name]
    save_file(state_of(weights), weights, metadata=None if card is None else {"polarice": card})
    refused(judge, stack, weights, words)


class Harmful:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was loaded",)


PICKLES: dict[str, Callable[[State, Path], object]] = {
    "of torch": lambda state, path: torch.save(state, path),
    "of torch, as it once was": lambda state, path: torch.save(
        state, path, _use_new_zipfile_serialization=False
    ),
    "of Python": lambda state, path: path.write_bytes(pickle.dumps(Harmful())),
    "that does harm, of torch": lambda state, path: torch.save(Harmful(), path),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_in_disguise(name: str, weights: Path, judge: Any, stack: Path) -> None:
    PICKLES[name](state_of(weights), weights)
    refused(judge, stack, weights, "not a weights file of polarice", "pickles are never loaded")


@pytest.mark.parametrize("name", ["absent", "a folder", "a dead link"])
def test_no_file(name: str, weights: Path, judge: Any, stack: Path) -> None:
    weights.unlink()
    if name == "a folder":
        weights.mkdir()
    elif name == "a dead link":
        weights.symlink_to(weights.parent / "nowhere")
    refused(judge, stack, weights, "no model")


def test_double_precision_is_the_same(weights: Path, judge: Any, stack: Path) -> None:
    card, state = card_of(weights), state_of(weights)
    wide = {name: tensor.double() for name, tensor in state.items()}
    save_file(wide, weights, metadata={"polarice": json.dumps(card), "other": "of no use"})
    judge.harmless(KIND, stack, model=weights)
