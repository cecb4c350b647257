"""What cryoSPARC's fields mean, one convention a test, held to real files and to other programs.

Real: particles of EMPIAR-10076 whose RELION metadata cryoSPARC itself has imported, and a refinement whose
poses cryoDRGN has brought to its own convention, which images fix (`test_cryodrgn_rotations_are_ours`).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from polarice.particles import ParticleStack, convert_metadata

Write = Callable[..., Path]


@pytest.fixture
def imported(shared_data: Path) -> tuple[ParticleStack, ParticleStack]:
    """RELION's and cryoSPARC's metadata of the same seven particles."""
    folder = shared_data / "particles" / "empiar10076"
    star, cs = (ParticleStack.open(folder / f"empiar_10076_7.{suffix}") for suffix in ("star", "cs"))
    return star, cs


@pytest.fixture
def refined(shared_data: Path) -> ParticleStack:
    """A real refinement, without its images."""
    folder = shared_data / "particles" / "metadata_only"
    return ParticleStack.open(folder / "cryosparc_P12_J24_001_particles.cs")


# -- real files -------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    "column",
    ["DefocusU", "DefocusV", "DefocusAngle", "Voltage", "SphericalAberration", "AmplitudeContrast"],
)
def test_ctf_as_cryosparc_imported_it(imported: tuple[ParticleStack, ParticleStack], column: str) -> None:
    star, cs = (stack.numeric(f"rln{column}") for stack in imported)
    np.testing.assert_allclose(cs, star, rtol=1e-6)


@pytest.mark.data
def test_images_and_pixel_size_as_cryosparc_imported_them(
    imported: tuple[ParticleStack, ParticleStack],
) -> None:
    star, cs = imported
    np.testing.assert_array_equal(cs.images(slice(None)), star.images(slice(None)))
    assert cs.pixel_size_A == pytest.approx(star.pixel_size_A, rel=1e-5)
    assert cs.box == star.box


@pytest.mark.data
def test_sign_times_image_is_bright(imported: tuple[ParticleStack, ParticleStack]) -> None:
    """``blob/sign`` is what an image must be multiplied by: all seven particles are dark, and have -1."""
    stack = imported[1]
    images = stack.images(slice(None))
    y, x = np.mgrid[: stack.box, : stack.box] - stack.box // 2
    radius_A = np.hypot(x, y) * stack.pixel_size_A
    contrast = images[:, radius_A < 65].mean(1) - images[:, (radius_A > 155) & (radius_A < 210)].mean(1)
    assert stack.dataset is not None
    assert (contrast * stack.dataset["blob/sign"] > 0.04).all()  # 0.003 would be one sd of white noise


@pytest.mark.data
def test_cryodrgn_rotations_are_ours(shared_data: Path) -> None:
    """Simulated images beside their volume: an atom at r is seen at the first two of ``rot @ r``."""
    folder = shared_data / "particles" / "toy"
    with mrcfile.open(folder / "toymodel_small_nocenter.mrc") as mrc:
        volume = mrc.data.copy()
    images = ParticleStack.open(folder / "toy_projections.mrcs", pixel_size_A=1.0).images(slice(5))
    axis = np.arange(len(volume)) - len(volume) // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    seen_at = np.stack([x, y, z])
    for image, rot in zip(images, np.load(folder / "poses.npz")["rot"], strict=False):
        r = np.einsum("ji,j...->i...", rot, seen_at)  # the inverse of rot @ r
        projection = map_coordinates(volume, r[::-1] + len(volume) // 2, order=1).sum(0)
        assert np.corrcoef(projection.ravel(), image.ravel())[0, 1] > 0.999


@pytest.mark.data
def test_poses_and_shifts_of_a_refinement(refined: ParticleStack, shared_data: Path) -> None:
    """cryoDRGN's ``trans`` has the sign of RELION's origin and is a fraction of the box, 180 pixels."""
    theirs = np.load(shared_data / "particles" / "metadata_only" / "P12_J24_poses.npz")
    rotations, shifts_px = refined.rotations(), refined.shifts_px()
    assert rotations is not None
    assert shifts_px is not None
    np.testing.assert_allclose(rotations.numpy(), theirs["rot"], atol=2e-6)
    np.testing.assert_allclose(-shifts_px / 180, theirs["trans"], atol=1e-7)
    x, y = refined.numeric("rlnOriginXAngst"), refined.numeric("rlnOriginYAngst")
    np.testing.assert_allclose(np.stack([x, y], 1) / 2.95 / 180, theirs["trans"], atol=1e-7)


@pytest.mark.data
def test_a_refinement_survives_star(refined: ParticleStack, tmp_path: Path) -> None:
    convert_metadata(refined.path, tmp_path / "a.star")
    convert_metadata(tmp_path / "a.star", tmp_path / "b.cs")
    ours, theirs = np.load(tmp_path / "b.cs", allow_pickle=False), refined.dataset
    assert theirs is not None
    again = Rotation.from_rotvec(ours["alignments3D/pose"])
    apart = (again.inv() * Rotation.from_rotvec(theirs["alignments3D/pose"])).magnitude()
    assert apart.max() < 1e-6
    np.testing.assert_allclose(ours["alignments3D/shift"], theirs["alignments3D/shift"], rtol=2e-7, atol=2e-7)
    same = ["uid", "blob/path", "blob/idx", "blob/shape", "blob/psize_A", "blob/sign", "alignments3D/split"]
    same += ["alignments3D/class", "alignments3D/psize_A", "ctf/exp_group_id", "ctf/accel_kv", "ctf/cs_mm"]
    same += ["ctf/amp_contrast", "ctf/df1_A", "ctf/df2_A", "ctf/phase_shift_rad"]
    for name in same:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    np.testing.assert_allclose(ours["ctf/df_angle_rad"], theirs["ctf/df_angle_rad"], rtol=2e-7)


# -- one row of the table each, without data ---------------------------------------------------------


def test_defocus_is_in_angstrom_and_its_angle_in_radians(small_cs: Path) -> None:
    stack = ParticleStack.open(small_cs)
    assert stack.numeric("rlnDefocusU").tolist() == [15000.5, 16000, 17000, 18000]
    assert stack.numeric("rlnDefocusV").tolist() == [14000.25, 15000, 16000, 17000]
    np.testing.assert_allclose(
        stack.numeric("rlnDefocusAngle"), [28.647890, -57.295780, 0, 85.943669], atol=1e-6
    )


def test_phase_shift_is_in_radians(small_cs: Path) -> None:
    found = ParticleStack.open(small_cs).numeric("rlnPhaseShift")
    np.testing.assert_allclose(found, [0, 14.323945, 28.647890, 85.943669], atol=1e-6)


def test_amplitude_contrast_is_a_fraction(small_cs: Path) -> None:
    assert ParticleStack.open(small_cs).ctf([0]).amplitude_contrast.tolist() == pytest.approx([0.1])


def test_the_rotation_vector_turns_the_axes(small_cs: Path) -> None:
    stack = ParticleStack.open(small_cs)
    poses = Rotation.from_rotvec(np.load(small_cs)["alignments3D/pose"])
    rotations = stack.rotations()
    assert rotations is not None
    atom = np.array([0.2, -0.5, 0.9])
    seen_at = (rotations.double() @ torch.from_numpy(atom)).numpy()
    np.testing.assert_allclose(seen_at, poses.inv().apply(atom), atol=1e-6)
    # About z alone, RELION's rot and psi add up to the angle.
    angles_deg = [stack.numeric(f"rlnAngle{name}")[0] for name in ("Rot", "Tilt", "Psi")]
    assert angles_deg == pytest.approx([0, 0, np.rad2deg(0.5)], abs=1e-5)


def test_in_plane_poses_are_psi(tmp_path: Path, write_cs_file: Write) -> None:
    fields = {
        "alignments2D/pose": np.array([0.5, -1, 3, 0], "f4"),
        "alignments2D/shift": np.array([[1, -2]] * 4, "f4"),
        "alignments2D/class": np.array([49, 0, 1, 2], "u4"),
    }
    stack = ParticleStack.open(write_cs_file(tmp_path / "a.cs", fields, drop=("alignments3D/pose",)))
    np.testing.assert_allclose(stack.numeric("rlnAnglePsi"), np.rad2deg([0.5, -1, 3, 0]), atol=1e-5)
    assert not stack.has_column("rlnAngleRot")
    assert stack.numeric("rlnClassNumber").tolist() == [50, 1, 2, 3]
    # Without a pixel size of its own the alignment has the images', 2 Å.
    np.testing.assert_allclose(stack.shifts_px(), [[-1, 2]] * 4)


def test_shifts_are_in_pixels_of_the_alignment(small_cs: Path) -> None:
    """Its pixels are 4 Å wide, the images' 2 Å; x comes first, and RELION's origin has the same sign."""
    stack = ParticleStack.open(small_cs)
    assert stack.numeric("rlnOriginXAngst").tolist() == [6, 0, 1, -4]
    assert stack.numeric("rlnOriginYAngst").tolist() == [-8, 0, 12, -4]
    np.testing.assert_allclose(stack.shifts_px(), [[-3, 4], [0, 0], [-0.5, -6], [2, 2]])


def test_images_are_counted_from_one_in_star(small_cs: Path) -> None:
    assert ParticleStack.open(small_cs).column("rlnImageName") == [
        f"00000{k}@stack.mrcs" for k in (4, 1, 3, 2)
    ]


def test_the_sign_is_kept_and_pixels_stay_as_they_are(small_cs: Path) -> None:
    stack = ParticleStack.open(small_cs)
    assert stack.column("cryosparcSign") == ["-1.0"] * 4
    assert float(stack.images([0]).mean()) == pytest.approx(3, abs=0.1)


@pytest.mark.interop
def test_relion_projects_as_the_poses_and_shifts_say(tmp_path: Path, write_cs_file: Write) -> None:
    """An atom off the centre comes to lie where cryoSPARC's pose and shift put it."""
    if shutil.which("relion_project") is None:
        pytest.skip("RELION is not installed")
    box, atom = 32, np.array([6.0, -4.0, 3.0])
    z, y, x = np.mgrid[:box, :box, :box] - box // 2
    volume = np.exp(-((x - atom[0]) ** 2 + (y - atom[1]) ** 2 + (z - atom[2]) ** 2) / 8)
    with mrcfile.new(tmp_path / "in.mrc") as file:
        file.set_data(volume.astype("f4"))
        file.voxel_size = 2.0
    cs = write_cs_file(tmp_path / "a.cs", {"blob/shape": np.full((4, 2), box, "u4")}, drop=("ctf/df1_A",))
    convert_metadata(cs, tmp_path / "in.star")
    command = ["relion_project", "--i", "in.mrc", "--o", "out", "--ang", "in.star", "--pad", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    images = ParticleStack.open(tmp_path / "out.mrcs", pixel_size_A=2.0).images(slice(None))
    rows, columns = np.mgrid[:box, :box] - box // 2
    weights = np.where(images > 0.2 * images.max((1, 2), keepdims=True), images, 0)
    weights /= weights.sum((1, 2), keepdims=True)
    found = np.stack([(weights * columns).sum((1, 2)), (weights * rows).sum((1, 2))], 1)
    table = np.load(cs)
    turned = Rotation.from_rotvec(table["alignments3D/pose"]).inv().apply(atom)[:, :2]
    np.testing.assert_allclose(found, turned - 2 * table["alignments3D/shift"], atol=0.2)
