"""Fixtures that every room's tests share."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from polarice.models import (
    ModelCard,
    PolarTransformer,
    PolarTransformerConfig,
    UNet,
    UNetConfig,
    save_model,
)
from polarice.particles import ParticleStack, StarTable, read_star, write_star
from polarice.simulation import SimulationResult, example_structure, simulate


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real structures and particle stacks; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("POLARICE_DATA", default))
    if not folder.is_dir():
        pytest.skip("the real data is absent (set POLARICE_DATA to its folder)")
    return folder


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded random generator on the CPU."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tiny_network() -> PolarTransformer:
    """A small joint network with random weights, in which also what starts at zero has moved."""
    torch.manual_seed(7)
    network = PolarTransformer(
        PolarTransformerConfig(
            box=32, widths=(4, 8), coarse_widths=(4, 8), match_channels=4, coarse_rounds=1, embedding=8
        )
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        # Undecided between others and nobody, so that both matter.
        for name, parameter in network.named_parameters():
            if name.endswith("threshold"):
                parameter.fill_(10.0)
            # Random estimates of an image know no angle: let them count for little, as at the start.
            if name.endswith("estimate.weight") or ".trust." in name:
                parameter.mul_(0.01)
    return network


@pytest.fixture(scope="session")
def joint_weights(tiny_network: PolarTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of `tiny_network`."""
    path = tmp_path_factory.mktemp("weights") / "tiny-joint.safetensors"
    config = {
        "box": 32,
        "widths": [4, 8],
        "coarse_widths": [4, 8],
        "match_channels": 4,
        "coarse_rounds": 1,
        "fine_rounds": 2,
        "embedding": 8,
    }
    save_model(path, tiny_network, ModelCard("polar-transformer", config))
    return path


@pytest.fixture(scope="session")
def single_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights file of a small single-image network with random weights."""
    torch.manual_seed(4)
    path = tmp_path_factory.mktemp("weights") / "tiny-unet.safetensors"
    card = ModelCard("unet", {"box": 32, "widths": [4, 8]})
    save_model(path, UNet(UNetConfig(box=32, widths=(4, 8))), card)
    return path


@pytest.fixture(scope="session")
def example_stack(tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    """48 particles of the example protein: box 32, CTF, sets of eight, half sets; protein bright."""
    folder = tmp_path_factory.mktemp("simulated")
    return simulate(
        example_structure(), folder, particles=48, box=32, snr=0.1, ctf=True, views="sets", set_size=8
    )


Images = np.ndarray


@pytest.fixture(scope="session")
def altered(example_stack: SimulationResult) -> Callable[..., Path]:
    """Copy the example stack with changes: (folder, images=..., drop=..., columns=...) -> STAR file."""

    def copy(
        folder: Path,
        *,
        images: Callable[[Images], Images] | None = None,
        drop: Sequence[str] = (),
        columns: Mapping[str, Sequence[object]] | None = None,
    ) -> Path:
        pixels = ParticleStack.open(example_stack.particles).images(slice(None))
        pixels = pixels if images is None else np.float32(images(pixels))
        folder.mkdir(exist_ok=True)
        with warnings.catch_warnings(), mrcfile.new(folder / "particles.mrcs") as file:
            warnings.simplefilter("ignore", RuntimeWarning)  # NaN is what some tests are about
            file.set_data(pixels)
            file.set_image_stack()
        tables = []
        for table in read_star(example_stack.particles)[0]:
            kept = {name: values for name, values in table.columns.items() if name not in drop}
            if "rlnImageSize" in kept:
                kept["rlnImageSize"] = [str(pixels.shape[-1])]
            if "rlnImagePixelSize" in kept:
                kept["rlnImagePixelSize"] = [str(float(kept["rlnImagePixelSize"][0]) * 32 / pixels.shape[-1])]
            if table.name == "particles":
                kept |= {name: [str(value) for value in values] for name, values in (columns or {}).items()}
            tables.append(StarTable(table.name, kept))
        write_star(folder / "particles.star", tables, version=30001)
        return folder / "particles.star"

    return copy
