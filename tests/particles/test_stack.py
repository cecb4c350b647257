"""Opening particle stacks: RELION 3.0, 3.1, bare files, and every way in which one can be broken."""

from __future__ import annotations

import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from polarice.conventions import euler_to_matrix
from polarice.errors import ParticleFileError
from polarice.particles import ParticleStack

Build = Callable[..., Path]

RELION_30 = """
data_images

loop_
_rlnImageName #1
_rlnDefocusU #2
_rlnDefocusV #3
_rlnDefocusAngle #4
_rlnVoltage #5
_rlnSphericalAberration #6
_rlnAmplitudeContrast #7
_rlnMagnification #8
_rlnDetectorPixelSize #9
_rlnAngleRot #10
_rlnAngleTilt #11
_rlnAnglePsi #12
_rlnOriginX #13
_rlnOriginY #14
_rlnRandomSubset #15
2@stack.mrcs 15000 14000 20 200 2.0 0.07 50000 7.0 10 20 30 1.5 -2.5 1
1@stack.mrcs 16000 15000 25 200 2.0 0.07 50000 7.0 40 50 60 0.0 3.0 2
"""


@pytest.fixture
def stack_30(tmp_path: Path, write_stack: Build) -> ParticleStack:
    images = np.random.default_rng(0).normal(size=(2, 8, 8)).astype("f4")
    write_stack(tmp_path / "stack.mrcs", images)
    (tmp_path / "old.star").write_text(RELION_30)
    return ParticleStack.open(tmp_path / "old.star")


def test_relion_31(small_stack: Path) -> None:
    stack = ParticleStack.open(small_stack)
    assert (len(stack), stack.box, stack.format, stack.pixel_size_A) == (10, 8, "RELION 3.1", 2.0)
    np.testing.assert_allclose(stack.images(slice(None)).mean((1, 2)), range(10), atol=0.1)
    ctf = stack.ctf([3, 0])
    assert ctf.defocus_u_A.tolist() == [10030, 10000]
    assert ctf.voltage_kV.tolist() == [300, 300]
    assert ctf.cs_mm[0] == pytest.approx(2.7)
    assert ctf.phase_shift_deg.tolist() == [0, 0]
    assert stack.half_sets is None
    assert stack.rotations() is None
    assert stack.shifts_px() is None
    assert not stack.phase_flipped
    assert not stack.denoised
    assert stack.problems() == []


def test_relion_30(stack_30: ParticleStack) -> None:
    assert stack_30.format == "RELION 3.0"
    assert stack_30.pixel_size_A == pytest.approx(1.4)  # 7 um / 50,000
    assert stack_30.ctf(slice(None)).amplitude_contrast.tolist() == pytest.approx([0.07, 0.07])
    assert stack_30.half_sets is not None
    assert stack_30.half_sets.tolist() == [1, 2]
    assert stack_30.half_sets.dtype == np.int8
    rotations = stack_30.rotations()
    assert rotations is not None
    torch.testing.assert_close(rotations[1], euler_to_matrix(torch.tensor([40.0, 50.0, 60.0])))
    np.testing.assert_allclose(stack_30.shifts_px(), [[-1.5, 2.5], [0, -3]])  # pixels, the other sign
    assert stack_30.problems() == []


def test_shifts_in_angstrom_become_pixels(small_stack: Path) -> None:
    text = small_stack.read_text().replace("_rlnOpticsGroup #5", "_rlnOriginXAngst\n_rlnOriginYAngst")
    small_stack.write_text(text.replace(" 30.0 1\n", " 30.0 5.0 -3.0\n"))
    shifts = ParticleStack.open(small_stack).shifts_px()
    assert shifts is not None
    np.testing.assert_allclose(shifts[0], [-2.5, 1.5])


def test_images_come_in_the_order_asked_for(
    tmp_path: Path, write_stack: Build, write_particles: Build
) -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(6, 8, 8)).astype("f4"), rng.normal(size=(5, 8, 8)).astype("f2")
    single = rng.normal(size=(8, 8)).astype("f4")
    write_stack(tmp_path / "a.mrcs", first)
    write_stack(tmp_path / "b.mrcs", second)
    write_stack(tmp_path / "c.mrc", single)
    names = ["3@a.mrcs", "1@b.mrcs", "000001@c.mrc", "2@a.mrcs", "5@b.mrcs", "c.mrc", "6@a.mrcs"]
    stack = ParticleStack.open(write_particles(tmp_path / "p.star", names))
    truth = np.stack([first[2], second[0], single, first[1], second[4], single, first[5]]).astype("f4")
    np.testing.assert_array_equal(stack.images(slice(None)), truth)
    rows = [6, 0, 1, 1, 5, 2]
    np.testing.assert_array_equal(stack.images(rows), truth[rows])
    np.testing.assert_array_equal(stack.images(slice(1, 6, 2)), truth[1:6:2])
    mask = np.array([True, False, False, True, False, False, True])
    np.testing.assert_array_equal(stack.images(mask), truth[mask])
    assert stack.images([]).shape == (0, 8, 8)
    assert stack.problems() == []


def test_a_particle_column_overrides_the_optics_group(small_stack: Path) -> None:
    small_stack.write_text(small_stack.read_text().replace("_rlnDefocusAngle #4", "_rlnVoltage #4"))
    stack = ParticleStack.open(small_stack)
    assert stack.numeric("rlnVoltage").tolist() == [30] * 10
    assert stack.column("rlnSphericalAberration") == ["2.7"] * 10
    assert stack.missing_ctf_columns == ["rlnDefocusAngle"]


def test_optics_after_particles_and_by_group(tmp_path: Path, write_stack: Build) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((3, 8, 8), "f4"))
    (tmp_path / "p.star").write_text(
        "data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 7\n2@a.mrcs 3\n3@a.mrcs 7\n\n"
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnVoltage\n_rlnImagePixelSize\n3 200 1.5\n7 300 1.5\n"
    )
    stack = ParticleStack.open(tmp_path / "p.star")
    assert stack.column("rlnVoltage") == ["300", "200", "300"]
    assert stack.optics_groups.tolist() == [7, 3, 7]
    assert stack.pixel_size_A == 1.5
    assert stack.column("rlnDefocusU") is None
    assert stack.numeric("rlnDefocusU") is None
    assert not stack.has_ctf
    with pytest.raises(ParticleFileError, match="missing _rlnDefocusU, _rlnSphericalAberration"):
        stack.ctf([0])


def test_bare_stack(tmp_path: Path, write_stack: Build) -> None:
    images = np.random.default_rng(0).integers(-99, 99, (4, 8, 8)).astype("i2")
    stack = ParticleStack.open(write_stack(tmp_path / "a.mrcs", images, 1.25))
    assert (stack.format, len(stack), stack.box) == ("MRC", 4, 8)
    assert stack.pixel_size_A == pytest.approx(1.25)
    np.testing.assert_array_equal(stack.images([3, 1]), images[[3, 1]])
    assert stack.optics_groups.tolist() == [1, 1, 1, 1]
    assert stack.half_sets is None
    assert not stack.has_ctf
    assert ParticleStack.open(stack.path, pixel_size_A=3.0).pixel_size_A == 3.0


def test_stack_pickles_for_worker_processes(small_stack: Path) -> None:
    stack = ParticleStack.open(small_stack)
    stack.images([0])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stack)).images([4]), stack.images([4]))


@pytest.mark.parametrize("where", ["beside", "project", "working folder", "absolute"])
def test_stack_files_are_found(
    tmp_path: Path, write_stack: Build, write_particles: Build, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project, job = tmp_path / "project", tmp_path / "project" / "Class2D" / "job012"
    elsewhere = tmp_path / "elsewhere"
    home = {"beside": job, "project": project, "working folder": elsewhere, "absolute": elsewhere}[where]
    for folder in (job, home / "Extract"):
        folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).normal(size=(2, 8, 8)).astype("f4")
    path = write_stack(home / "Extract" / "a.mrcs", images)
    if where == "working folder":
        monkeypatch.chdir(elsewhere)
    name = str(path) if where == "absolute" else "Extract/a.mrcs"
    stack = ParticleStack.open(write_particles(job / "run_data.star", [f"2@{name}"]))
    np.testing.assert_array_equal(stack.images([0])[0], images[1])


def test_thousands_of_stack_files_do_not_exhaust_descriptors(
    tmp_path: Path, write_stack: Build, write_particles: Build
) -> None:
    write_stack(tmp_path / "0.mrcs", np.full((2, 8, 8), 0, "f4"))
    template = bytearray((tmp_path / "0.mrcs").read_bytes())
    for k in range(1, 2000):
        template[1024:] = np.full((2, 8, 8), k, "f4").tobytes()
        (tmp_path / f"{k}.mrcs").write_bytes(template)
    stack = ParticleStack.open(
        write_particles(tmp_path / "p.star", [f"{1 + k % 2}@{k}.mrcs" for k in range(2000)])
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (120, hard))
    try:
        assert stack.problems() == []
        means = stack.images(slice(None)).mean((1, 2))
        again = stack.images([1999, 0, 7])[:, 0, 0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    np.testing.assert_array_equal(means, np.arange(2000))
    assert again.tolist() == [1999, 0, 7]


# -- what is broken ---------------------------------------------------------------------------------


def messages(path: Path) -> list[str]:
    return [str(problem) for problem in ParticleStack.open(path).problems()]


def test_missing_stack_files_are_named_once_with_their_first_row(
    tmp_path: Path, write_stack: Build, write_particles: Build
) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    names = ["1@a.mrcs", "1@x/gone.mrcs", "2@x/gone.mrcs", "1@x/lost.mrcs"]
    path = write_particles(tmp_path / "p.star", names)
    found = messages(path)
    assert len(found) == 2
    assert "p.star, row 2: stack file x/gone.mrcs does not exist; looked in" in found[0]
    assert str(tmp_path) in found[0]
    assert "row 4: stack file x/lost.mrcs" in found[1]
    with pytest.raises(ParticleFileError, match=r"row 2: stack file x/gone\.mrcs does not exist"):
        ParticleStack.open(path).images(slice(None))


def test_many_missing_stack_files_are_counted(tmp_path: Path, write_particles: Build) -> None:
    found = messages(write_particles(tmp_path / "p.star", [f"1@{k}.mrcs" for k in range(500)]))
    assert len(found) < 30
    assert any("500 of 500 stack files are missing or broken" in text for text in found)


def test_index_past_the_end_of_its_stack(tmp_path: Path, write_stack: Build, write_particles: Build) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    path = write_particles(tmp_path / "p.star", ["1@a.mrcs", "3@a.mrcs", "9@a.mrcs"])
    (found,) = messages(path)
    assert "row 2: asks for image 3 of" in found
    assert "a.mrcs, which has 2 (and 1 more rows like it)" in found
    with pytest.raises(ParticleFileError, match="row 3: asks for image 9"):
        ParticleStack.open(path).images([0, 2])


def test_truncated_stack(tmp_path: Path, write_stack: Build, write_particles: Build) -> None:
    stack = write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    stack.write_bytes(stack.read_bytes()[:-1])
    path = write_particles(tmp_path / "p.star", ["1@a.mrcs", "2@a.mrcs"])
    (found,) = messages(path)
    assert "a.mrcs, row 1: is truncated: its header says 1536 bytes" in found
    with pytest.raises(ParticleFileError, match="truncated"):
        ParticleStack.open(path).images([0])
    with pytest.raises(ParticleFileError, match="truncated"):
        ParticleStack.open(stack)


@pytest.mark.parametrize(
    ("shape", "message"), [((2, 8, 10), "8 x 10 pixels, which are not square"), ((2, 9, 9), "an odd box")]
)
def test_box_that_cannot_be_used(
    tmp_path: Path, write_stack: Build, write_particles: Build, shape: tuple[int, ...], message: str
) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros(shape, "f4"))
    found = messages(write_particles(tmp_path / "p.star", ["1@a.mrcs"], box=shape[1]))
    assert len(found) == 1
    assert message in found[0]


def test_boxes_that_differ(tmp_path: Path, write_stack: Build, write_particles: Build) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    write_stack(tmp_path / "b.mrcs", np.zeros((2, 10, 10), "f4"))
    path = write_particles(tmp_path / "p.star", ["1@a.mrcs", "1@b.mrcs", "2@b.mrcs"])
    (found,) = messages(path)
    assert "b.mrcs, row 2: has images of 10 x 10 pixels, other stacks of 8 x 8" in found
    with pytest.raises(ParticleFileError, match=r"row 2: .*b\.mrcs has a box of 10 x 10, others have 8"):
        ParticleStack.open(path).images(slice(None))


def test_optics_table_that_says_another_box(
    tmp_path: Path, write_stack: Build, write_particles: Build
) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    (found,) = messages(write_particles(tmp_path / "p.star", ["1@a.mrcs"], box=16))
    assert "says _rlnImageSize 16, the images have 8 pixels" in found


def test_no_pixel_size(tmp_path: Path, write_stack: Build) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"), 0.0)
    (tmp_path / "p.star").write_text("data_\nloop_\n_rlnImageName\n1@a.mrcs\n")
    for path in (tmp_path / "p.star", tmp_path / "a.mrcs"):
        (found,) = messages(path)
        assert "the pixel size is nowhere. Give it with --pixel-size" in found
        assert ParticleStack.open(path, pixel_size_A=1.1).problems() == []
    with pytest.raises(ParticleFileError, match="makes no sense"):
        ParticleStack.open(path, pixel_size_A=0.0)


def test_pixel_sizes_that_differ(tmp_path: Path, write_stack: Build) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((3, 8, 8), "f4"))
    text = (
        "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 1.0\n2 {}\n3 9.0\n\n"
        "data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n1@a.mrcs 1\n2@a.mrcs 2\n"
    )
    (tmp_path / "p.star").write_text(text.format("3.3"))
    (found,) = messages(tmp_path / "p.star")
    assert "differ between particles: from 1.0000 to 3.3000 A" in found
    assert "split" in found
    (tmp_path / "p.star").write_text(
        text.replace("2@a.mrcs 2", "2@a.mrcs 1 1.3").replace(
            "_rlnOpticsGroup\n1@a.mrcs 1", "_rlnOpticsGroup\n_rlnImagePixelSize\n1@a.mrcs 1 1.0"
        )
    )
    (found,) = messages(tmp_path / "p.star")
    assert "differ between particles: from 1.0000 to 1.3000 A" in found
    (tmp_path / "p.star").write_text(text.format("1.0"))  # group 3 has no particles and does not matter
    assert ParticleStack.open(tmp_path / "p.star").pixel_size_A == 1.0


@pytest.mark.parametrize(
    "name", ["stack", "@a.mrcs", "0@a.mrcs", "x@a.mrcs", "-1@a.mrcs", "1@", "1.5@a.mrcs"]
)
def test_bad_image_names(tmp_path: Path, write_stack: Build, write_particles: Build, name: str) -> None:
    write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "f4"))
    path = write_particles(tmp_path / "p.star", ["1@a.mrcs", name])
    found = messages(path)
    assert len(found) == 1
    assert "row 2" in found[0]
    assert name in found[0]
    with pytest.raises(ParticleFileError, match="row 2"):
        ParticleStack.open(path).images([1])


def test_value_that_is_no_number(small_stack: Path) -> None:
    small_stack.write_text(small_stack.read_text().replace("10030.0", "ten"))
    stack = ParticleStack.open(small_stack)
    (found,) = stack.problems()
    assert "row 4: column _rlnDefocusU has 'ten', which is not a number" in str(found)
    with pytest.raises(ParticleFileError, match="row 4"):
        stack.ctf([0])
    small_stack.write_text(small_stack.read_text().replace("ten", "nan"))
    assert "row 4: column _rlnDefocusU has nan" in messages(small_stack)[0]


def test_optics_group_that_is_not_there(small_stack: Path) -> None:
    small_stack.write_text(small_stack.read_text().replace("9050.0 30.0 1", "9050.0 30.0 2"))
    found = messages(small_stack)
    assert len(found) == 1
    assert "row 6: optics group 2 is not in the optics table" in found[0]


@pytest.mark.parametrize("value", ["0", "3", "nan"])
def test_half_sets_that_are_none(stack_30: ParticleStack, value: str) -> None:
    path = stack_30.path
    path.write_text(path.read_text().replace("3.0 2\n", f"3.0 {value}\n"))
    (found,) = messages(path)
    assert f"row 2: column _rlnRandomSubset has {value}, not 1 or 2" in found


def test_a_stack_that_is_half_phase_flipped(small_stack: Path) -> None:
    text = small_stack.read_text().replace("_rlnDefocusAngle #4", "_rlnCtfDataArePhaseFlipped #4")
    small_stack.write_text(text.replace(" 30.0 1\n", " 1 1\n").replace("9050.0 1 1\n", "9050.0 0 1\n"))
    (found,) = messages(small_stack)
    assert "row 6: this particle is not phase-flipped, others are. Split the stack." in found


def test_star_without_particles(tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text("data_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n")
    (found,) = messages(tmp_path / "p.star")
    assert "has no particles" in found
    (tmp_path / "m.star").write_text("data_\nloop_\n_rlnMicrographName\na.mrc\n")
    with pytest.raises(ParticleFileError, match=r"no particle table.*not of coordinates"):
        ParticleStack.open(tmp_path / "m.star")


@pytest.mark.parametrize("name", ["a.csg", "a.txt", "folder"])
def test_other_files_are_no_stacks(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParticleFileError, match=r"files are not read\. Give a \.star"):
        ParticleStack.open(tmp_path / name)


@pytest.mark.data
def test_real_stacks_open(shared_data: Path) -> None:
    folder = shared_data / "particles"
    stack = ParticleStack.open(folder / "apoferritin" / "particles_64.star")
    assert (len(stack), stack.box, stack.pixel_size_A, stack.has_ctf) == (2114, 64, 3.0, True)
    assert stack.problems() == []
    sample = ParticleStack.open(folder / "aspire_sample" / "sample.star")
    assert sample.format == "RELION 3.0"
    assert sample.pixel_size_A == pytest.approx(1.338, abs=1e-4)
    assert sample.problems() == []
    assert ParticleStack.open(folder / "relion31" / "relion31.star").pixel_size_A == 2.806
    groups = ParticleStack.open(folder / "metadata_only" / "relion31.6opticsgroups.star")
    assert np.unique(groups.optics_groups).size > 1
    sizes = groups.pixel_sizes_A()
    assert sizes is not None
    assert (sizes.min(), sizes.max(), groups.pixel_size_A) == (1.24, 1.25, 1.25)
