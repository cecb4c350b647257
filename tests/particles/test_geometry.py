"""Optics groups of several boxes and pixel sizes: one molecule, sampled in several ways, is read as one."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from polarice.errors import ParticleFileError
from polarice.particles import ParticleStack, ParticleWriter
from polarice.particles.geometry import Geometry

# Å; what is drawn: three blobs off the centre.
BLOBS = ((20.0, -14.0), (-9.0, 25.0), (3.0, 2.0))
SIGMA_A = 8.0


def drawn(box: int, pixel_size_A: float, shift_A: float = 0.0) -> np.ndarray:
    """The same molecule, of grey value 100 without it."""
    axis = (np.arange(box) - box // 2) * pixel_size_A
    image = np.full((box, box), 100.0)
    for x, y in BLOBS:
        squared = (axis[None, :] - x - shift_A) ** 2 + (axis[:, None] - y) ** 2
        image += 10 * np.exp(-squared / (2 * SIGMA_A**2))
    return image.astype("f4")


@pytest.mark.parametrize(
    ("box", "pixel_size_A"), [(64, 3.0), (96, 2.0), (80, 2.9), (128, 1.06), (250, 1.3), (72, 2.7)]
)
def test_the_same_molecule_whatever_the_sampling(box: int, pixel_size_A: float) -> None:
    geometry = Geometry.common(np.array([60, box]), np.array([3.0, pixel_size_A]))
    assert geometry.pixel_size_A == 3.0
    assert geometry.box == min(60, int(box * pixel_size_A / 3.0 * 1.001) // 2 * 2)
    found = geometry.bring(drawn(box, pixel_size_A)[None], pixel_size_A)[0]
    assert found.shape == (geometry.box,) * 2
    # Blobs of 10; cropping to whole pixels leaves the scale right to a few tenths of a per cent.
    np.testing.assert_allclose(found, drawn(geometry.box, 3.0), atol=0.25)


def test_one_geometry_is_left_alone() -> None:
    images = np.random.default_rng(0).normal(size=(2, 64, 64)).astype("f4")
    geometry = Geometry.common(np.array([64, 64]), np.array([1.06, 1.0605]))
    assert geometry.box == 64
    np.testing.assert_array_equal(geometry.bring(images, 1.06), images)


def mixed_stack(folder: Path, sizes: tuple[tuple[int, float], ...] = ((64, 3.0), (100, 2.2))) -> Path:
    """Particles of two optics groups by turns, each moved by six Å, and no CTF."""
    for group, (box, pixel_A) in enumerate(sizes, 1):
        with mrcfile.new(folder / f"{group}.mrcs", overwrite=True) as mrc:
            mrc.set_data(np.stack([drawn(box, pixel_A, 6.0) + np.float32(k) for k in range(4)]))
            mrc.set_image_stack()
    optics = "".join(f"{g} {box} {pixel_A}\n" for g, (box, pixel_A) in enumerate(sizes, 1))
    rows = "".join(f"{k}@{g}.mrcs {g} -6.0 0.0\n" for k in range(1, 5) for g in (1, 2))
    (folder / "p.star").write_text(
        "# version 30001\ndata_optics\nloop_\n_rlnOpticsGroup\n_rlnImageSize\n_rlnImagePixelSize\n"
        f"{optics}\ndata_particles\nloop_\n_rlnImageName\n_rlnOpticsGroup\n_rlnOriginXAngst\n_rlnOriginYAngst\n"
        f"{rows}"
    )
    return folder / "p.star"


def test_a_stack_of_two_optics_groups(tmp_path: Path) -> None:
    stack = ParticleStack.open(mixed_stack(tmp_path))
    assert stack.problems() == []
    assert stack.several_geometries
    assert (stack.box, stack.pixel_size_A) == (64, 3.0)
    images = stack.images([1, 4, 0])
    for image, level in zip(images, (0, 2, 0), strict=True):
        np.testing.assert_allclose(image, drawn(64, 3.0, 6.0) + level, atol=0.25)
    shifts = stack.shifts_px()
    assert shifts is not None
    np.testing.assert_allclose(shifts, np.tile([2.0, 0.0], (8, 1)), atol=1e-6)


def test_what_is_written_has_one_geometry(tmp_path: Path) -> None:
    source = ParticleStack.open(mixed_stack(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    with ParticleWriter(out, "q", box=source.box, pixel_size_A=source.pixel_size_A, source=source) as writer:
        writer.append(source.images(slice(None)))
    written = ParticleStack.open(out / "q.star")
    assert written.problems() == []
    assert not written.several_geometries
    assert written.optics is not None
    assert written.optics.columns["rlnImageSize"] == ["64", "64"]
    assert written.optics_groups.tolist() == source.optics_groups.tolist()
    np.testing.assert_array_equal(written.images(slice(None)), source.images(slice(None)))
    np.testing.assert_allclose(written.shifts_px(), source.shifts_px())


def test_boxes_that_no_table_tells_of_are_refused(tmp_path: Path) -> None:
    path = mixed_stack(tmp_path)
    path.write_text(path.read_text().replace("2 100 2.2", "2 98 2.2"))
    (problem,) = ParticleStack.open(path).problems()
    assert "row 2: says _rlnImageSize 98, the images have 100 pixels" in str(problem)
    with pytest.raises(ParticleFileError, match=r"row 2: .*100 x 100, its optics group have 98"):
        ParticleStack.open(path).images([1])


def test_noise_stays_white(generator: torch.Generator) -> None:
    noise = torch.randn(200, 120, 120, generator=generator).numpy()
    geometry = Geometry.common(np.array([64, 120]), np.array([3.0, 1.7]))
    found = torch.from_numpy(geometry.bring(noise, 1.7).copy())
    power = torch.fft.rfft2(found).abs().square().mean(0)[2:30, 2:30] / geometry.box**2
    assert power.mean() == pytest.approx((1.7 / 3.0) ** 2, rel=0.02)
    assert power.std() / power.mean() < 0.1
