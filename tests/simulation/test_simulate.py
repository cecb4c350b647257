import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import view_angle_deg
from polarice.errors import OutputError, PolariceError, StructureError
from polarice.imaging import CTF, filter_images, shift_images
from polarice.particles import ParticleStack
from polarice.simulation.projection import project_volume
from polarice.simulation.simulate import SimulationResult, simulate
from polarice.simulation.structure import Structure, read_structure
from polarice.simulation.volume import read_map, write_map

Error = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def molecule() -> Structure:
    """A chiral heap of atoms: a helix that grows thicker, with a foot."""
    turn = np.linspace(0, 5 * np.pi, 300)
    coil = np.stack([14 * np.cos(turn), 14 * np.sin(turn), np.linspace(-35, 35, 300)], 1)
    rng = np.random.default_rng(0)
    foot = rng.normal(size=(200, 3)) * 5 + [18, -6, -25]
    coordinates = np.concatenate([coil + rng.normal(size=coil.shape) * 1.5, foot]).astype(np.float32)
    return Structure("coil", coordinates, rng.choice([6, 7, 8], 500).astype(np.uint8)).centred()


def images_of(star: Path) -> Tensor:
    stack = ParticleStack.open(star)
    assert stack.problems() == []
    return torch.from_numpy(stack.images(slice(None)))


@pytest.fixture(scope="module")
def shot(molecule: Structure, tmp_path_factory: pytest.TempPathFactory) -> SimulationResult:
    out = tmp_path_factory.mktemp("sim") / "new" / "folder"
    return simulate(molecule, out, particles=300, box=48, snr=0.1, ctf=True, max_shift_px=4, seed=3)


def test_everything_is_there_and_says_what_it_is(shot: SimulationResult, molecule: Structure) -> None:
    folder = shot.config.parent
    assert sorted(p.name for p in folder.iterdir()) == [
        "clean.mrcs",
        "clean.star",
        "particles.mrcs",
        "particles.star",
        "simulation.json",
        "volume.mrc",
    ]
    config = json.loads(shot.config.read_text())
    assert config["snr"] == 0.1
    assert config["pixel_size_A"] == pytest.approx(molecule.diameter_A / (0.6 * 48))
    for star in (shot.particles, shot.clean):
        stack = ParticleStack.open(star)
        assert stack.format == "RELION 3.1"
        assert len(stack) == 300
        assert stack.pixel_size_A == pytest.approx(shot.pixel_size_A, rel=1e-5)
        assert not stack.phase_flipped
    noisy, clean = ParticleStack.open(shot.particles), ParticleStack.open(shot.clean)
    assert noisy.has_ctf
    assert not clean.has_ctf
    assert noisy.column("rlnAngleRot") == clean.column("rlnAngleRot")
    assert noisy.half_sets is not None
    assert noisy.half_sets[:4].tolist() == [1, 2, 1, 2]


def test_images_follow_from_the_files_alone(shot: SimulationResult, squared_error: Error) -> None:
    """Project the written volume by the written poses and CTFs: the same images, but for the digits."""
    stack = ParticleStack.open(shot.particles)
    volume = read_map(shot.volume)
    rotations, shifts = stack.rotations(), stack.shifts_px()
    assert rotations is not None
    assert shifts is not None
    expected = shift_images(project_volume(volume, rotations), torch.from_numpy(shifts))
    clean = images_of(shot.clean)
    assert squared_error(clean, expected) < 1e-6
    assert float(torch.from_numpy(shifts).norm(dim=-1).max()) <= 4
    ctf: CTF = stack.ctf(slice(None))
    seen = filter_images(expected, ctf.evaluate(48, stack.pixel_size_A))
    noise = images_of(shot.particles) - seen
    assert float(noise.var()) == pytest.approx(1, rel=0.01)
    assert abs(float(noise.mean())) < 0.01
    assert float(seen.square().mean()) == pytest.approx(0.1, rel=1e-4)
    mean_defocus = (ctf.defocus_u_A + ctf.defocus_v_A) / 2
    assert 15000 <= float(mean_defocus.min()) < float(mean_defocus.max()) <= 25000
    assert float((ctf.defocus_u_A - ctf.defocus_v_A).min()) >= 0
    assert float((ctf.defocus_u_A - ctf.defocus_v_A).max()) <= 500


def test_an_image_depends_on_seed_and_index_alone(
    shot: SimulationResult, molecule: Structure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polarice.simulation.forward._BATCH", 7)
    settings: dict[str, Any] = {"box": 48, "snr": 0.1, "ctf": True, "max_shift_px": 4}
    fewer = simulate(molecule, tmp_path / "a", particles=20, seed=3, **settings)
    many, few = ParticleStack.open(shot.particles), ParticleStack.open(fewer.particles)
    for name in ("rlnAnglePsi", "rlnOriginXAngst", "rlnDefocusU"):
        assert (many.column(name) or [])[:20] == few.column(name)
    # The signal's power is that of the stack, so only the grey scale of the molecule differs.
    scale = [json.loads(r.config.read_text())["grey_scale"] for r in (shot, fewer)]
    seen = [
        filter_images(images_of(r.clean)[:20], few.ctf(slice(None)).evaluate(48, few.pixel_size_A))
        for r in (shot, fewer)
    ]
    noise = [images_of(r.particles)[:20] - s for r, s in zip((shot, fewer), seen, strict=True)]
    assert scale[0] == pytest.approx(scale[1], rel=0.1)
    torch.testing.assert_close(noise[0], noise[1], atol=1e-4, rtol=0)
    other = simulate(molecule, tmp_path / "b", particles=20, seed=4, **settings)
    assert ParticleStack.open(other.particles).column("rlnAnglePsi") != few.column("rlnAnglePsi")


def test_sets_look_from_one_side(molecule: Structure, tmp_path: Path) -> None:
    result = simulate(
        molecule, tmp_path / "a", particles=40, box=32, views="sets", set_size=8, set_angle_deg=10
    )
    stack = ParticleStack.open(result.particles)
    rotations = stack.rotations()
    assert rotations is not None
    sets = rotations.double().view(5, 8, 3, 3)
    within = view_angle_deg(sets[:, :, None], sets[:, None])
    assert float(within.max()) <= 20.01
    assert [int(c) for c in stack.column("rlnClassNumber") or []] == [
        s for s in range(1, 6) for _ in range(8)
    ]
    assert stack.half_sets is not None
    assert stack.half_sets.tolist() == [1] * 8 + [2] * 8 + [1] * 8 + [2] * 8 + [1] * 8
    flat = simulate(molecule, tmp_path / "b", particles=16, box=32, views="sets", set_angle_deg=0)
    directional = ParticleStack.open(flat.particles).rotations()
    assert directional is not None
    assert float(view_angle_deg(directional[:8].double(), directional[:1].double()).max()) < 0.1


def test_poisson_noise(molecule: Structure, tmp_path: Path) -> None:
    result = simulate(
        molecule, tmp_path / "a", particles=60, box=32, snr=0.1, noise="poisson", poissonicity=0.2
    )
    clean, noisy = images_of(result.clean), images_of(result.particles)
    background = noisy[clean.abs() < 0.01]
    assert float(background.var()) == pytest.approx(1, rel=0.05)
    # Grey values are whole electrons, of which an empty pixel receives 1 / 0.2² = 25.
    electrons = 25 - noisy / 0.2
    torch.testing.assert_close(electrons, electrons.round(), atol=1e-4, rtol=0)
    inside = clean > 0.7
    ratio = float((noisy - clean)[inside].var() / (1 - 0.2 * clean[inside]).mean())
    assert ratio == pytest.approx(1, rel=0.15)
    with pytest.raises(PolariceError, match="electrons"):
        simulate(molecule, tmp_path / "b", particles=8, box=32, snr=50.0, noise="poisson")
    assert not (tmp_path / "b").exists()


def test_a_map_keeps_its_field_of_view(shot: SimulationResult, tmp_path: Path, squared_error: Error) -> None:
    volume = read_map(shot.volume)
    result = simulate(shot.volume, tmp_path / "a", particles=4, box=32, snr=1.0)
    assert result.pixel_size_A == pytest.approx(volume.pixel_size_A * 48 / 32)
    result = simulate(volume, tmp_path / "b", particles=4, box=48, pixel_size_A=volume.pixel_size_A, snr=1.0)
    written = read_map(result.volume).density
    factor = (written * volume.density).sum() / volume.density.square().sum()
    assert squared_error(written, volume.density * factor) < 1e-10
    write_map(tmp_path / "zero.mrc", type(volume)(torch.zeros(32, 32, 32), 1.0))
    with pytest.raises(PolariceError, match="empty"):
        simulate(tmp_path / "zero.mrc", tmp_path / "c", particles=4, box=32)


def test_a_structure_file_gives_what_its_structure_gives(tmp_path: Path) -> None:
    lines = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {10 * np.cos(i):8.3f}{10 * np.sin(i):8.3f}{2.0 * i:8.3f}"
        "  1.00 20.00           C"
        for i in range(1, 30)
    ]
    path = tmp_path / "coil.pdb"
    path.write_text("\n".join([*lines, "END", ""]))
    from_file = simulate(path, tmp_path / "a", particles=4, box=32)
    from_atoms = simulate(read_structure(path), tmp_path / "b", particles=4, box=32)
    assert torch.equal(images_of(from_file.particles), images_of(from_atoms.particles))
    assert json.loads(from_file.config.read_text())["source"] == str(path)


def test_progress_ends_at_the_total(molecule: Structure, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    simulate(molecule, tmp_path / "a", particles=10, box=32, progress=lambda *call: calls.append(call))
    assert calls == [(10, 20), (20, 20)]


def test_folder_that_is_not_empty(molecule: Structure, tmp_path: Path) -> None:
    first = simulate(molecule, tmp_path, particles=10, box=32)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        simulate(molecule, tmp_path, particles=4, box=32)
    assert len(ParticleStack.open(first.particles)) == 10
    simulate(molecule, tmp_path, particles=4, box=32, overwrite=True)
    assert len(ParticleStack.open(first.particles)) == 4
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file"):
        simulate(molecule, tmp_path / "notes.txt", particles=4, box=32)


def test_a_broken_run_leaves_nothing_that_looks_finished(molecule: Structure, tmp_path: Path) -> None:
    simulate(molecule, tmp_path, particles=10, box=32)

    def stop(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(molecule, tmp_path, particles=10, box=32, overwrite=True, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["volume.mrc"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"particles": 0}, "particles"),
        ({"box": 8}, "box"),
        ({"snr": 0.0}, "ratio"),
        ({"snr": float("nan")}, "ratio"),
        ({"pixel_size_A": -1.0}, "pixel size"),
        ({"defocus_A": (2e4, 1e4)}, "defocus"),
        ({"noise": "pink"}, "pink"),
        ({"views": "side"}, "side"),
        ({"max_shift_px": 40.0}, "shift"),
        ({"poissonicity": 0.0}, "poissonicity"),
        ({"set_angle_deg": 200.0, "set_size": 0}, "set has .*; the set angle"),
        ({"seed": -1}, "seed"),
        ({"max_shift_px": 20.0}, "leaves a box"),
        ({"pixel_size_A": 0.5}, "larger pixels"),
    ],
)
def test_senseless_settings_are_refused_before_anything_is_written(
    molecule: Structure, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(PolariceError, match=words):
        simulate(molecule, tmp_path / "a", **settings)
    assert not (tmp_path / "a").exists()


def test_missing_source(tmp_path: Path) -> None:
    for name in ("absent.pdb", "absent.mrc"):
        with pytest.raises(StructureError, match="does not exist"):
            simulate(tmp_path / name, tmp_path / "out")


def shell_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    a, b = np.fft.fftn(first), np.fft.fftn(second)
    k = np.fft.fftfreq(len(first)) * len(first)
    shell = np.sqrt(k[:, None, None] ** 2 + k[None, :, None] ** 2 + k**2).round().astype(int).ravel()

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values.ravel())[: len(first) // 2]

    return total((a * b.conj()).real) / np.sqrt(total(abs(a) ** 2) * total(abs(b) ** 2))


@pytest.mark.interop
@pytest.mark.parametrize("ctf", [False, True])
def test_relion_reconstructs_the_volume_with_its_hand(
    relion: Any, molecule: Structure, tmp_path: Path, ctf: bool
) -> None:
    out = relion.folder
    simulate(molecule, out, particles=800, box=48, snr=20.0, ctf=ctf, max_shift_px=3, overwrite=True)
    relion.run("relion_reconstruct", "--i", "particles.star", "--o", "found.mrc", *(["--ctf"] if ctf else []))
    truth, found = mrcfile.read(out / "volume.mrc"), mrcfile.read(out / "found.mrc")
    correlation = shell_correlation(truth, found)
    assert correlation[:18].min() > 0.97
    mirrored = np.roll(truth[:, :, ::-1], 1, axis=2)
    assert np.corrcoef(truth.ravel(), found.ravel())[0, 1] > 0.95
    assert np.corrcoef(mirrored.ravel(), found.ravel())[0, 1] < 0.7
    # One grey scale: RELION's map has that of the volume.
    assert float((truth * found).sum() / (truth**2).sum()) == pytest.approx(1, abs=0.05)
    stats = relion.run("relion_image_handler", "--stats", "--i", "clean.star")
    assert stats.count("(x,y,z,n)= 48 x 48 x 1 x 1") == 800
