import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from polarice.errors import OutputError, ParticleFileError, PolariceError, StructureError
from polarice.imaging import filter_images, radius_grid, shift_images
from polarice.particles import ParticleStack, StarTable, write_star
from polarice.simulation import example_structure
from polarice.simulation.bank import StructureBank
from polarice.simulation.field import FieldResult, field_set
from polarice.simulation.field_images import NOTHING, STRANGER, FieldSettings, FieldStack
from polarice.simulation.like import RealMetadata
from polarice.simulation.molecule import molecule_density, molecule_diameter_px, read_molecule
from polarice.simulation.projection import project_volume
from polarice.simulation.spectrum import NoiseSpectrum
from polarice.simulation.volume import read_map

Error = Callable[[Tensor, Tensor], float]

ROWS, BOX = 400, 32
PLAIN: dict[str, Any] = {"crowding": 0.0, "gradient": 0.0, "junk": 0.0}


def write_like(path: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    """A table as of a refinement in RELION: two optics groups, no images."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "rlnImageName": [f"{i + 1:06d}@absent.mrcs" for i in range(ROWS)],
        "rlnMicrographName": [f"m{i // 50}.mrc" for i in range(ROWS)],
        "rlnOpticsGroup": 1 + np.arange(ROWS) % 2,
        "rlnDefocusU": rng.uniform(8000, 26000, ROWS),
        "rlnDefocusAngle": rng.uniform(0, 180, ROWS),
        "rlnAngleRot": rng.uniform(-180, 180, ROWS),
        "rlnAngleTilt": rng.uniform(0, 180, ROWS),
        "rlnAnglePsi": rng.uniform(-180, 180, ROWS),
        "rlnOriginXAngst": rng.uniform(-9, 9, ROWS),
        "rlnOriginYAngst": rng.uniform(-9, 9, ROWS),
        "rlnRandomSubset": rng.integers(1, 3, ROWS),
        "rlnMaxValueProbDistribution": rng.uniform(0, 1, ROWS),
    }
    columns["rlnDefocusV"] = columns["rlnDefocusU"] - 300
    columns = {name: values for name, values in (columns | changes).items() if name not in drop}
    optics: dict[str, Any] = {
        "rlnOpticsGroupName": ["one", "two"],
        "rlnOpticsGroup": ["1", "2"],
        "rlnVoltage": ["300", "200"],
        "rlnSphericalAberration": ["2.7", "0.01"],
        "rlnAmplitudeContrast": ["0.1", "0.07"],
        "rlnImagePixelSize": ["1.25", "1.25"],
    }
    text = {name: [str(value) for value in values] for name, values in columns.items()}
    write_star(path, [StarTable("optics", optics), StarTable("particles", text)], version=30001)
    return path


@pytest.fixture(scope="module")
def like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_like(tmp_path_factory.mktemp("real") / "run_data.star")


@pytest.fixture(scope="module")
def ice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patches with twice the power at low frequency."""
    path = tmp_path_factory.mktemp("ice") / "ice.mrcs"
    blurred = np.random.default_rng(0).normal(size=(80, 48, 48)).astype(np.float32)
    blurred += (np.roll(blurred, 1, 1) + np.roll(blurred, 1, 2)) / 4
    with mrcfile.new(path) as file:
        file.set_data(blurred)
        file.set_image_stack()
        file.voxel_size = 3.0
    return path


@pytest.fixture(scope="module")
def made(like: Path, ice: Path, tmp_path_factory: pytest.TempPathFactory) -> FieldResult:
    out = tmp_path_factory.mktemp("field") / "set"
    return field_set("example", like, out, box=BOX, noise=ice, junk=0.3, stranger=stranger(), seed=3)


def stranger() -> Any:
    """The example without its half: another protein."""
    whole = example_structure()
    half = whole.coordinates_A[:, 0] > 0
    return type(whole)("half", whole.coordinates_A[half], whole.atomic_numbers[half]).centred()


def images_of(star: Path) -> Tensor:
    stack = ParticleStack.open(star)
    assert stack.problems() == []
    return torch.from_numpy(stack.images(slice(None)))


def field_stack(like: Path, spectrum: NoiseSpectrum | None = None, **changes: Any) -> FieldStack:
    settings: dict[str, Any] = {
        "particles": ROWS, "box": BOX, "snr": 0.1, "pixel_size_A": None, "junk": 0.05, "crowding": 3.0,
        "gradient": 2.0, "contrast": "bright", "seed": 0,
    }  # fmt: skip
    volume = molecule_density(example_structure(), BOX, None)
    other = molecule_density(stranger(), BOX, volume.pixel_size_A)
    return FieldStack(volume, other, RealMetadata(like), FieldSettings(**(settings | changes)), spectrum)


def test_rows_are_those_of_the_real_stack(made: FieldResult, like: Path) -> None:
    real, stack, truth = (ParticleStack.open(path) for path in (like, made.particles, made.clean))
    assert len(stack) == len(truth) == made.count == ROWS
    for name in (
        "rlnMicrographName", "rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast",
        "rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi",
        "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset",
    ):  # fmt: skip
        assert stack.column(name) == real.column(name), name
    assert truth.column("rlnAnglePsi") == real.column("rlnAnglePsi")
    assert not truth.has_ctf
    assert not stack.has_column("rlnMaxValueProbDistribution")
    assert stack.box == BOX
    assert stack.pixel_size_A == pytest.approx(made.pixel_size_A, rel=1e-5)
    assert made.notices == ()


def test_only_the_truth_tells_junk(made: FieldResult) -> None:
    stack, truth = ParticleStack.open(made.particles), ParticleStack.open(made.clean)
    junk = truth.numeric("polariceJunk")
    assert junk is not None
    assert not stack.has_column("polariceJunk")
    assert (
        set(stack.column("polariceSimulated") or []) == set(truth.column("polariceSimulated") or []) == {"1"}
    )
    counts = np.bincount(junk.astype(int), minlength=3)
    assert (counts[NOTHING], counts[STRANGER]) == (made.nothing, made.strangers)
    for found in (made.nothing, made.strangers):
        assert found == pytest.approx(0.15 * ROWS, abs=4 * (0.15 * 0.85 * ROWS) ** 0.5)
    clean = images_of(made.clean)
    assert float(clean[torch.from_numpy(junk == NOTHING)].abs().max()) == 0
    rotations, shifts = truth.rotations(), truth.shifts_px()
    assert rotations is not None
    assert shifts is not None
    scale = json.loads(made.config.read_text())["grey_scale"]
    volume = molecule_density(stranger(), BOX, made.pixel_size_A)
    is_other = torch.from_numpy(junk == STRANGER)
    expected = project_volume(volume, rotations[is_other]) * scale
    expected = shift_images(expected, torch.from_numpy(shifts)[is_other])
    assert float((clean[is_other] - expected).square().sum() / expected.square().sum()) < 1e-3


def test_images_follow_from_the_files_alone(like: Path, tmp_path: Path, squared_error: Error) -> None:
    """Project the written volume by the tables on a wide canvas: what remains of an image is white noise."""
    made = field_set("example", like, tmp_path / "a", box=BOX, snr=0.5, **PLAIN)
    stack, volume = ParticleStack.open(made.particles), read_map(made.volume)
    rotations, shifts = stack.rotations(), stack.shifts_px()
    assert rotations is not None
    assert shifts is not None
    margin = BOX // 2
    wide = functional.pad(project_volume(volume, rotations), (margin,) * 4)
    wide = shift_images(wide, torch.from_numpy(shifts))
    inner = slice(margin, margin + BOX)
    assert squared_error(images_of(made.clean), wide[:, inner, inner]) < 1e-6
    transfer = stack.ctf(slice(None)).evaluate(2 * BOX, stack.pixel_size_A)
    seen = filter_images(wide, transfer)[:, inner, inner]
    assert float(seen.square().mean()) == pytest.approx(0.5, rel=1e-4)
    noise = images_of(made.particles) - seen
    assert float(noise.var()) == pytest.approx(1, rel=0.01)
    assert abs(float(noise.mean())) < 0.01
    power = torch.fft.rfft2(noise).abs().square().mean(0) / BOX**2
    assert float((power - 1).abs().max()) < 0.35


def test_dark_protein_is_the_negative_of_bright(like: Path, tmp_path: Path) -> None:
    common: dict[str, Any] = {"particles": 12, "box": BOX, "gradient": 0.0}
    bright = field_set("example", like, tmp_path / "bright", **common)
    dark = field_set("example", like, tmp_path / "dark", contrast="dark", **common)
    assert torch.equal(images_of(dark.particles), -images_of(bright.particles))
    assert torch.equal(images_of(dark.clean), -images_of(bright.clean))
    assert float(images_of(bright.clean).mean()) > 0


def test_neighbours_surround_a_particle_and_stay_off_it(tmp_path: Path) -> None:
    """With a transfer function of one, which lets nothing spread, a neighbour has its own place."""
    flat = {"rlnDefocusU": np.zeros(ROWS), "rlnDefocusV": np.zeros(ROWS)}
    microscope = {"rlnAmplitudeContrast": np.ones(ROWS), "rlnSphericalAberration": np.zeros(ROWS)}
    stack = field_stack(write_like(tmp_path / "flat.star", **flat, **microscope), crowding=6.0)
    rows = slice(0, 100)
    torch.testing.assert_close(*stack.particle(rows), atol=1e-4, rtol=1e-4)
    clean, beside = stack.particle(rows)[0], stack.beside(rows)
    axis = torch.arange(BOX) - BOX // 2
    shift = stack.like.shifts_A[rows] / stack.pixel_size_A
    x, y = shift[:, 0, None, None], shift[:, 1, None, None]
    inside = torch.hypot(axis - x, axis[:, None] - y) < stack.diameter_px / 2
    assert float((clean.square() * inside).sum() / clean.square().sum()) > 0.99
    assert float((beside.square() * inside).sum() / beside.square().sum()) < 0.01
    # All six places are taken: most boxes have something at their edge.
    edge = radius_grid(BOX) > BOX / 2
    power = (beside.square() * edge).sum((1, 2))
    assert float((power > 0.01 * clean.square().sum((1, 2)).mean()).float().mean()) > 0.6
    fewer = field_stack(tmp_path / "flat.star", crowding=3.0).beside(rows)
    share = float(fewer.square().sum() / beside.square().sum())
    assert share == pytest.approx(1 / 2, abs=0.15)
    assert float(field_stack(tmp_path / "flat.star", crowding=0.0).beside(rows).abs().max()) == 0


def test_gradients_are_planes_up_to_the_rise_that_was_asked_for(like: Path) -> None:
    rows = slice(0, 300)
    plane = (field_stack(like, gradient=5.0).ice(rows) - field_stack(like, gradient=0.0).ice(rows)).double()
    along_x, along_y = plane.diff(dim=2), plane.diff(dim=1)
    assert float(along_x.flatten(1).std(1).max()) < 1e-5
    assert float(plane.mean((1, 2)).abs().max()) < 1e-5
    rise = BOX * torch.hypot(along_x.mean((1, 2)), along_y.mean((1, 2)))
    assert float(rise.max()) <= 5.001
    assert float(rise.mean()) == pytest.approx(2.5, rel=0.12)


def test_noise_has_the_spectrum_that_was_measured(like: Path) -> None:
    frequency = torch.arange(1, 33, dtype=torch.float64) / (64 * 3.0)
    spectrum = NoiseSpectrum(frequency, 1 + 4 * torch.exp(-((frequency * 25) ** 2)))
    stack = field_stack(like, spectrum, gradient=0.0)
    noise = stack.ice(slice(0, 400))
    assert float(noise.var()) == pytest.approx(1, rel=0.02)
    power = torch.fft.fft2(noise).abs().square().mean(0).double() / BOX**2
    k = torch.fft.fftfreq(BOX, dtype=torch.float64)
    ring = (torch.hypot(k[:, None], k) * BOX).round().long()
    count = ring.flatten().bincount()[1 : BOX // 2]
    found = ring.flatten().bincount(power.flatten())[1 : BOX // 2] / count
    at = torch.arange(1, BOX // 2, dtype=torch.float64) / (BOX * stack.pixel_size_A)
    ratio = found / torch.from_numpy(np.interp(at.numpy(), frequency.numpy(), spectrum.power.numpy()))
    # Cut out of a canvas, the lowest rings leak a little.
    assert float((ratio / ratio.mean() - 1).abs()[2:].max()) < 0.08
    assert float((ratio / ratio.mean() - 1).abs().max()) < 0.15


def test_an_image_depends_on_seed_and_index_alone(like: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = field_stack(like)
    monkeypatch.setattr("polarice.simulation.field_images._CANVAS_PIXELS", 7 * (2 * BOX) ** 2)
    few = field_stack(like, particles=20)
    assert [rows.stop for rows in few.batches()] == [7, 14, 20]
    part, everything = slice(7, 14), slice(0, 20)
    assert torch.equal(few.kinds(part), stack.kinds(everything)[7:14])
    for make in ("beside", "ice"):
        torch.testing.assert_close(getattr(few, make)(part), getattr(stack, make)(everything)[7:14])
    torch.testing.assert_close(few.particle(part)[1], stack.particle(everything)[1][7:14])
    other = field_stack(like, seed=1)
    assert float((other.ice(part) - few.ice(part)).abs().mean()) > 0.5
    assert not torch.equal(other.kinds(slice(0, 400)), stack.kinds(slice(0, 400)))


def test_what_leaves_the_box_does_not_come_back(tmp_path: Path) -> None:
    pixel = molecule_density(example_structure(), BOX, None).pixel_size_A
    far = write_like(
        tmp_path / "far.star",
        rlnOriginXAngst=np.full(ROWS, -0.6 * BOX * pixel),
        rlnOriginYAngst=np.zeros(ROWS),
    )
    clean, _ = field_stack(far, junk=0.0).particle(slice(0, 20))
    power = clean.square().sum((0, 1))
    assert float(power[: BOX // 2].sum() / power.sum()) < 1e-3


def test_what_the_real_stack_does_not_say(tmp_path: Path) -> None:
    drop = ("rlnAngleRot", "rlnOriginXAngst", "rlnOriginYAngst", "rlnRandomSubset", "rlnMicrographName")
    bare = write_like(tmp_path / "bare.star", drop=drop)
    made = field_set("example", bare, tmp_path / "a", particles=30, box=BOX)
    assert [word in " ".join(made.notices) for word in ("views are uniform", "centre", "at random")] == [
        True
    ] * 3
    stack = ParticleStack.open(made.particles)
    rotations, shifts = stack.rotations(), stack.shifts_px()
    assert rotations is not None
    assert shifts is not None
    torch.testing.assert_close(rotations, RealMetadata(bare).rotations[:30], atol=1e-4, rtol=0)
    assert float(np.abs(shifts).max()) == 0
    assert set(stack.half_sets.tolist() if stack.half_sets is not None else []) == {1, 2}
    no_ctf = write_like(tmp_path / "no_ctf.star", drop=("rlnDefocusU",))
    with pytest.raises(ParticleFileError, match=r"no_ctf\.star: has no CTF.*_rlnDefocusU"):
        field_set("example", no_ctf, tmp_path / "b", box=BOX)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"particles": ROWS + 1}, "401 particles .* has 400"),
        ({"particles": 0, "box": 8}, "particles .*; the box"),
        ({"snr": 0.0}, "ratio"),
        ({"pixel_size_A": 0.0}, "pixel size"),
        ({"pixel_size_A": 0.5}, "leaves a box"),
        ({"junk": 1.0}, "junk"),
        ({"crowding": 7.0}, "between 0 and 6"),
        ({"gradient": -1.0}, "gradient"),
        ({"contrast": "grey"}, "grey"),
        ({"seed": -1}, "seed"),
        ({"stranger": "absent.pdb"}, "does not exist"),
    ],
)
def test_senseless_settings_are_refused_before_anything_is_written(
    like: Path, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(PolariceError, match=words):
        field_set("example", like, tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


def test_a_broken_run_leaves_nothing_that_looks_finished(like: Path, tmp_path: Path) -> None:
    field_set("example", like, tmp_path, particles=10, box=BOX)
    with pytest.raises(OutputError, match="not empty"):
        field_set("example", like, tmp_path, particles=10, box=BOX)

    def stop(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        field_set("example", like, tmp_path, particles=10, box=BOX, overwrite=True, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["volume.mrc"]


def test_a_molecule_by_its_name(tmp_path: Path) -> None:
    bank = StructureBank.from_structures([stranger(), example_structure()])
    bank.save(tmp_path / "bank.npz")
    name, found = read_molecule(f"{tmp_path}/bank.npz:EXAMPLE")
    assert name.endswith("bank.npz:EXAMPLE")
    assert len(found.coordinates_A) == 1750  # type: ignore[union-attr]
    with pytest.raises(StructureError, match="no structure is called 'other'"):
        read_molecule(f"{tmp_path}/bank.npz:other")
    volume = molecule_density(example_structure(), 48, None)
    atoms_px = example_structure().diameter_A / volume.pixel_size_A
    assert molecule_diameter_px(volume) == pytest.approx(atoms_px, rel=0.1)


def test_the_real_data(shared_data: Path, tmp_path: Path) -> None:
    """Poses, shifts and defoci of the `.cs` file itself, read by NumPy; two tables of another program."""
    folder = shared_data / "particles" / "metadata_only"
    cs = folder / "cryosparc_P12_J24_001_particles.cs"
    made = field_set(
        "example", cs, tmp_path / "a", particles=40, pixel_size_A=5.5,
        noise=shared_data / "noise" / "ice_apoferritin_64.mrcs",
    )  # fmt: skip
    stack = ParticleStack.open(made.particles)
    said = np.load(cs)[:40]
    for column, field in (("rlnDefocusU", "ctf/df1_A"), ("rlnDefocusV", "ctf/df2_A")):
        np.testing.assert_allclose(stack.numeric(column), said[field], rtol=1e-6)
    shifts = stack.shifts_px()
    assert shifts is not None
    np.testing.assert_allclose(shifts * 5.5, -said["alignments3D/shift"] * 2.95, atol=1e-3)
    assert stack.half_sets is not None
    assert (stack.half_sets == said["alignments3D/split"] + 1).all()
    poses = np.load(folder / "P12_J24_poses.npz")["rot"][:40]
    rotations = stack.rotations()
    assert rotations is not None
    np.testing.assert_allclose(rotations.numpy(), poses, atol=1e-4)
