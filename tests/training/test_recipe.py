from pathlib import Path
from typing import Any

import pytest

from polarice.errors import RecipeError
from polarice.models import build_model
from polarice.training import OptimiserConfig, Recipe, RunConfig

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=[path.stem for path in RECIPES])
def test_shipped_recipes(path: Path) -> None:
    """They load, their network can be built and takes the data's box, and they survive being written out."""
    recipe = Recipe.load(path)
    model = build_model(recipe.architecture, recipe.model)
    assert model.box == recipe.data.box
    assert recipe.optimiser.decay_images < recipe.optimiser.images
    tables = recipe.to_tables()
    tables["data"] = {k: list(v) if isinstance(v, tuple) else v for k, v in tables["data"].items()}
    assert Recipe.from_tables(tables) == recipe


def test_there_are_recipes() -> None:
    assert {"polar-transformer-64", "unet-64"} <= {path.stem for path in RECIPES}


def load(tmp_path: Path, text: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Recipe.load(path)


def test_defaults_and_conversions(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        '[model]\narchitecture = "unet"\nwidths = [4, 8]\n[data]\nsnr = [1, 2]\nctf = 1\nset_size = 3\n',
    )
    assert recipe.model == {"widths": [4, 8]}
    assert recipe.data.snr == (1.0, 2.0)
    assert isinstance(recipe.data.snr[0], float)
    assert isinstance(recipe.data.ctf, float)
    assert recipe.optimiser == OptimiserConfig()
    assert recipe.run == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\n", r"unknown table 'optimizer'.*model, data, optimiser, run"),
        ("[data]\n", r"unknown architecture None.*Set architecture in \[model\] to one of polar-transformer"),
        ('[model]\narchitecture = "vit"\n', r"unknown architecture 'vit'"),
        ('model = "unet"\n', r"model must be a table. Begin it with \[model\]"),
        ("UNET[data]\nset_sise = 3\n", r"\[data\] has no entry 'set_sise'. It has box, set_size"),
        ("UNET[data]\nset_size = 3.5\n", r"\[data\] set_size must be of type int, not 3.5"),
        ("UNET[data]\nset_size = true\n", r"\[data\] set_size must be of type int, not True"),
        ('UNET[data]\nctf = "yes"\n', r"\[data\] ctf must be of type float, not 'yes'"),
        ("UNET[data]\nctf = true\n", r"\[data\] ctf must be of type float, not True"),
        ("UNET[data]\nsnr = 0.1\n", r"\[data\] snr must be a list of 2 numbers"),
        ("UNET[data]\nsnr = [0.1]\n", r"\[data\] snr must be a list of 2 numbers"),
        ('UNET[data]\nsnr = ["a", "b"]\n', r"\[data\] snr must be a list of 2 numbers"),
        ('UNET[run]\nprecision = "8-bit"\n', r"\[run\] unknown precision '8-bit'.*32-true, bf16-mixed"),
        ("UNET[run]\nprecision = 16\n", r"\[run\] precision must be of type str, not 16"),
        ("UNET[optimiser\n", r"not TOML"),
    ],
)
def test_errors_name_the_file_and_the_entry(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.toml: " + message):
        load(tmp_path, text.replace("UNET", '[model]\narchitecture = "unet"\n'))


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"absent\.toml: no such recipe"):
        Recipe.load(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(RecipeError, match=r"binary\.toml: not TOML"):
        Recipe.load(tmp_path / "binary.toml")


def test_tables_without_a_file() -> None:
    wrong: dict[str, Any] = {"model": {"architecture": "unet"}, "run": {"sead": 1}}
    with pytest.raises(RecipeError, match=r"^\[run\] has no entry 'sead'"):
        Recipe.from_tables(wrong)
