import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.denoising import DenoiseSettings, denoise_stack
from polarice.errors import ModelError, OutputError, ParticleFileError, PolariceError
from polarice.imaging import fourier_resample, move_images, turn_matrices
from polarice.neighbours import NOBODY, Companions, Search
from polarice.particles import ParticleStack, ParticleWriter
from polarice.simulation import SimulationResult
from polarice.stacks import (
    GUESSES,
    GivenNeighbours,
    NeighbourResult,
    NeighbourSettings,
    NeighbourTable,
    find_neighbours,
)

Altered = Callable[..., Path]


@pytest.fixture(scope="module")
def settings(joint_weights: Path) -> NeighbourSettings:
    return NeighbourSettings(model=str(joint_weights), neighbours=6, device="cpu", mixed_precision=False)


@pytest.fixture(scope="module")
def found(
    example_stack: SimulationResult, settings: NeighbourSettings, tmp_path_factory: pytest.TempPathFactory
) -> NeighbourResult:
    """Neighbours of the example stack; nothing may change their files."""
    return find_neighbours(example_stack.particles, tmp_path_factory.mktemp("neighbours") / "out", settings)


def smooth(box: int = 32) -> Tensor:
    """An image without any symmetry that is zero near the edge, shape (y, x)."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(box) - box // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = torch.zeros(box, box)
    for _ in range(5):
        (at_x, at_y), height = 8 * torch.rand(2, generator=generator) - 4, torch.rand(1, generator=generator)
        image += height * torch.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / 6)
    return image


def test_a_table_says_how_neighbours_lie_upon_particles() -> None:
    """Two images of one view, turned, moved, and one of them mirrored: as the table says, they agree."""
    view = smooth()
    centre = torch.tensor([[1.5, -2.0], [-1.0, 0.5]])
    turns = torch.deg2rad(torch.tensor([20.0, -75.0]))
    for mirrored in (False, True):
        flip = torch.diag(torch.tensor([1.0, -1.0 if mirrored else 1.0]))
        # Image i shows at R_i p + c_i what the view shows at p; the second shows the view's mirror image.
        back = torch.stack([turn_matrices(turns[0]).T, flip @ turn_matrices(turns[1]).T])
        images = move_images(view.expand(2, -1, -1), back, -(back @ centre[..., None])[..., 0])
        # Turned back, the second is the view or its mirror image; that must be turned the other way.
        angle = torch.rad2deg(turns[0] + turns[1] if mirrored else turns[0] - turns[1])
        companions = Companions.nobody(2, 3)
        companions.rows[0, 1], companions.mirrored[0, 1] = 1, mirrored
        companions.angles_deg[0, 1] = angle
        table = NeighbourTable.of_search(Search(companions, centre.numpy(), True), 1.0)
        assert (table.shifts_px[1] == 0).all()
        matrices, shifts = (torch.from_numpy(part).float() for part in table.frames(0, np.array([1])))
        laid = move_images(images[1:], matrices, shifts)
        error = (laid - images[:1]).square().sum() / images[0].square().sum()
        assert float(error) < 1e-3


def test_neighbours_of_a_stack(found: NeighbourResult, example_stack: SimulationResult) -> None:
    stack = ParticleStack.open(example_stack.particles)
    halves = stack.half_sets
    assert halves is not None
    table = found.table
    assert table.rows.shape == (48, 6)
    assert (halves[table.rows] == halves[:, None]).all()
    assert (table.rows != np.arange(48)[:, None]).all()
    assert ((table.probability > 0) & (table.probability <= 1)).all()
    assert not table.mirrored.any()
    out = Path(next(iter(found.files))).parent
    assert sorted(path.name for path in out.iterdir()) == ["neighbours.json", "neighbours.npz"]
    with np.load(out / "neighbours.npz") as arrays:
        np.testing.assert_array_equal(arrays["neighbours"], table.rows)
        for name in ("probability", "angles_deg", "shifts_px", "mirrored", "centre_px"):
            np.testing.assert_array_equal(arrays[name], getattr(table, name))
    written = json.loads((out / "neighbours.json").read_text())
    assert written["configuration"]["settings"]["neighbours"] == 6
    assert written["figures"]["particles"] == 48
    assert written["figures"]["expected_neighbours"] == pytest.approx(
        table.probability.sum(1).mean(), abs=0.01
    )


def test_pixels_of_the_stack(
    altered: Altered, settings: NeighbourSettings, found: NeighbourResult, tmp_path: Path
) -> None:
    """A stack of twice the box has the same neighbours, and all lengths twice as long in its pixels."""
    star = altered(tmp_path / "in", images=lambda x: fourier_resample(torch.from_numpy(x), 64).numpy())
    large = find_neighbours(star, tmp_path / "out", settings).table
    assert (large.rows == found.table.rows).mean() > 0.8
    expected = 2 * found.table.centre_px
    assert np.median(np.abs(large.centre_px - expected)) < 0.05 * np.median(np.abs(expected))


def test_denoising_takes_them(
    example_stack: SimulationResult,
    settings: NeighbourSettings,
    found: NeighbourResult,
    joint_weights: Path,
    tmp_path: Path,
) -> None:
    """A search beforehand gives what a search on the way gives, to the bit; fewer may be taken."""
    folder = Path(next(iter(found.files))).parent
    searching = DenoiseSettings(model=str(joint_weights), neighbours=6, device="cpu", mixed_precision=False)
    given = replace(searching, neighbours_from=folder)
    first = denoise_stack(example_stack.particles, tmp_path / "a", searching)
    second = denoise_stack(example_stack.particles, tmp_path / "b", given)
    for name in ("denoised.mrcs", "denoised.star"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    np.testing.assert_array_equal(first.neighbours, second.neighbours)
    assert "find neighbours" in first.seconds
    assert "find neighbours" not in second.seconds
    # What a denoising run leaves can be taken too.
    third = denoise_stack(
        example_stack.particles, tmp_path / "c", replace(given, neighbours_from=tmp_path / "a", neighbours=4)
    )
    assert third.neighbours is not None
    np.testing.assert_array_equal(third.neighbours, found.table.rows[:, :4])


def test_mirror_images_are_left_out_of_denoising(
    example_stack: SimulationResult, settings: NeighbourSettings, joint_weights: Path, tmp_path: Path
) -> None:
    mirrored = find_neighbours(
        example_stack.particles, tmp_path / "n", replace(settings, mirrored=True)
    ).table
    assert 0.2 < mirrored.mirrored.mean() < 0.8
    stack = ParticleStack.open(example_stack.particles)
    given = GivenNeighbours.load(tmp_path / "n", stack, 6)
    assert given.mirror_images == mirrored.mirrored.sum()
    assert given.probability is not None
    for row in range(48):
        kept = mirrored.rows[row][~mirrored.mirrored[row]]
        np.testing.assert_array_equal(given.rows[row, : len(kept)], kept)
        assert (given.rows[row, len(kept) :] == NOBODY).all()
        assert (given.probability[row, len(kept) :] == 0).all()
    settings_of_run = DenoiseSettings(model=str(joint_weights), device="cpu", neighbours_from=tmp_path / "n")
    result = denoise_stack(example_stack.particles, tmp_path / "out", settings_of_run)
    assert any("mirror images" in notice for notice in result.notices)


def test_tables_of_other_stacks_are_refused(
    found: NeighbourResult, altered: Altered, joint_weights: Path, tmp_path: Path
) -> None:
    """Before anything is computed, and saying why."""
    folder = Path(next(iter(found.files))).parent
    settings = DenoiseSettings(model=str(joint_weights), device="cpu", neighbours_from=folder)

    def refuse(star: Path, words: str, settings: DenoiseSettings = settings) -> None:
        with pytest.raises(ParticleFileError, match=words):
            denoise_stack(star, tmp_path / "out", settings)
        assert not (tmp_path / "out").exists()

    refuse(altered(tmp_path / "noise", images=lambda images: images + 1), "another stack")
    same = altered(tmp_path / "same")
    refuse(
        altered(tmp_path / "mixed", columns={"rlnRandomSubset": [1, 2] * 24}), "row .* of the other half set"
    )
    refuse(same, "no neighbour table", replace(settings, neighbours_from=tmp_path))
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK not a table")
    refuse(same, "is not a neighbour table", replace(settings, neighbours_from=broken))
    with np.load(folder / "neighbours.npz") as arrays:
        table = dict(arrays)
    for rows, words in (
        (np.arange(48)[:, None], "row 1: neighbour 1 is the particle itself"),
        (np.full((48, 1), 48), "neighbour 49 is not in the stack"),
        (np.zeros((3, 1), int), "not one of 48 rows"),
    ):
        np.savez(tmp_path / "wrong.npz", **(table | {"neighbours": rows}))
        refuse(same, words, replace(settings, neighbours_from=tmp_path / "wrong.npz"))


def test_settings_that_contradict_each_other(
    example_stack: SimulationResult, single_weights: Path, joint_weights: Path, tmp_path: Path
) -> None:
    alone = DenoiseSettings(model=str(single_weights), device="cpu", neighbours_from=tmp_path)
    with pytest.raises(ModelError, match="no use for neighbours"):
        denoise_stack(example_stack.particles, tmp_path / "out", alone)
    both = DenoiseSettings(
        model=str(joint_weights), device="cpu", neighbours_from=tmp_path, sets_from="rlnClassNumber"
    )
    with pytest.raises(PolariceError, match="not from both"):
        denoise_stack(example_stack.particles, tmp_path / "out", both)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"neighbours": 0}, "at least one neighbour"),
        ({"neighbours": 24}, "half set of 24 particles, too few .* --neighbours 23"),
        ({"mask_diameter_A": 1e4}, "does not fit a box"),
    ],
)
def test_what_cannot_be_searched(
    changes: dict[str, object],
    words: str,
    example_stack: SimulationResult,
    settings: NeighbourSettings,
    tmp_path: Path,
) -> None:
    with pytest.raises(PolariceError, match=words):
        find_neighbours(example_stack.particles, tmp_path / "out", replace(settings, **changes))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_single_image_model_and_a_full_folder(
    example_stack: SimulationResult, settings: NeighbourSettings, single_weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no embedding"):
        find_neighbours(
            example_stack.particles, tmp_path / "out", replace(settings, model=str(single_weights))
        )
    (tmp_path / "mine").write_text("")
    with pytest.raises(OutputError, match="not empty"):
        find_neighbours(example_stack.particles, tmp_path, settings)


def test_copies_are_told_and_are_no_neighbours(
    altered: Altered, settings: NeighbourSettings, tmp_path: Path
) -> None:
    """Their noise is the same, which an average must not take for signal."""

    def repeat(images: np.ndarray) -> np.ndarray:
        images = images.copy()
        images[[10, 20]] = images[2]
        return images

    star = altered(tmp_path / "in", images=repeat, drop=["rlnRandomSubset"])
    result = find_neighbours(star, tmp_path / "out", settings)
    assert any(
        "2 particles repeat" in notice and "row 11 those of row 3" in notice for notice in result.notices
    )
    same = [2, 10, 20]
    assert not np.isin(result.table.rows[same], same).any()
    assert (result.table.rows[same] != NOBODY).all()


def test_a_stack_of_one_image_repeated(altered: Altered, joint_weights: Path, tmp_path: Path) -> None:
    """Nobody has a neighbour, and every image is denoised alone."""
    star = altered(tmp_path / "in", images=lambda images: np.repeat(images[:1], 48, 0))
    settings = DenoiseSettings(model=str(joint_weights), device="cpu", contrast="bright", ctf=False)
    result = denoise_stack(star, tmp_path / "out", settings)
    assert any("47 particles repeat" in notice for notice in result.notices)
    assert result.neighbours is not None
    assert result.weights is not None
    assert (result.neighbours == NOBODY).all()
    assert (result.weights == 0).all()
    images = ParticleStack.open(result.star).images(slice(None))
    np.testing.assert_allclose(images, np.repeat(images[:1], 48, 0), atol=1e-4)


def test_pure_noise_is_told(settings: NeighbourSettings, joint_weights: Path, tmp_path: Path) -> None:
    """Neighbours are no likelier than chance, and so is the confidence."""
    with ParticleWriter(tmp_path, "noise", box=32, pixel_size_A=3.0) as writer:
        writer.append(np.random.default_rng(0).normal(size=(200, 32, 32)))
    noise = replace(settings, contrast="bright")
    found = find_neighbours(writer.star_path, tmp_path / "n", noise)
    assert GUESSES in found.notices
    np.testing.assert_allclose(found.table.probability, 1 / (1 + 200 / 16), rtol=1e-4)
    denoised = denoise_stack(
        writer.star_path, tmp_path / "d", DenoiseSettings(model=str(joint_weights), contrast="bright")
    )
    assert GUESSES in denoised.notices
    confidence = ParticleStack.open(denoised.star).numeric("polariceConfidence")
    assert confidence is not None
    assert confidence.max() < 0.1
