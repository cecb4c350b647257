"""MRC stacks against mrcfile, and every way in which one can be broken."""

import gzip
import pickle
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from polarice.errors import OutputError, ParticleFileError
from polarice.particles import MrcReader, MrcStackWriter, read_header


def raw_mrc(path: Path, images: np.ndarray, mode: int, order: str, extended: int = 0) -> Path:
    """Write an MRC file of either byte order by hand, after the MRC2014 specification."""
    head = np.zeros(256, dtype=f"{order}i4")
    head[:4] = images.shape[2], images.shape[1], images.shape[0], mode
    head[7:10] = images.shape[2], images.shape[1], 1
    head[10:13].view(f"{order}f4")[:] = images.shape[2] * 1.5, images.shape[1] * 1.5, 1.5
    head[16:19] = 1, 2, 3
    head[23] = extended
    words = bytearray(head.tobytes())
    words[208:212] = b"MAP "
    words[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
    pixels = images.astype(images.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(bytes(words) + bytes(extended) + pixels)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_every_mode_and_byte_order_reads_as_float32(
    tmp_path: Path, mode: int, dtype: str, order: str
) -> None:
    values = np.random.default_rng(mode).integers(-120, 120, (6, 4, 4))
    images = (values if mode != 6 else values + 40_000).astype(dtype)
    path = raw_mrc(tmp_path / "a.mrcs", images, mode, order, extended=128)
    header = read_header(path)
    assert (header.mode, header.shape, header.offset) == (mode, (6, 4, 4), 1024 + 128)
    assert header.pixel_size_A == pytest.approx(1.5)
    read = MrcReader().read(path, [5, 0, 1, 2, 0])
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, images[[5, 0, 1, 2, 0]].astype(np.float32))


def test_single_image_and_volume_are_stacks(tmp_path: Path) -> None:
    image = np.random.default_rng(0).normal(size=(4, 6)).astype("f4")
    for name, data, shape in (("one.mrc", image, (1, 4, 6)), ("map.mrc", np.stack([image] * 3), (3, 4, 6))):
        with mrcfile.new(tmp_path / name) as mrc:
            mrc.set_data(data)
        assert read_header(tmp_path / name).shape == shape
        np.testing.assert_array_equal(MrcReader().read(tmp_path / name, [shape[0] - 1])[0], image)


def test_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "a.mrcs", np.zeros((5, 8, 8), "f4"), 2, "<")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ParticleFileError, match=r"a\.mrcs: is truncated: .* 2304 bytes .* the file has 2204"):
        read_header(path)


def test_a_longer_file_is_read(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "a.mrcs", np.ones((5, 8, 8), "f4"), 2, "<")
    path.write_bytes(path.read_bytes() + bytes(17))
    assert read_header(path).shape == (5, 8, 8)


@pytest.mark.parametrize(
    "content", [b"", b"short", b"data_particles\n" * 200, gzip.compress(bytes(5000)) * 99]
)
def test_what_is_no_mrc_file_is_said_so(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.mrcs"
    path.write_bytes(content)
    with pytest.raises(ParticleFileError, match=r"a\.mrcs"):
        read_header(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ParticleFileError, match="does not exist"):
        read_header(tmp_path / "a.mrcs")
    with pytest.raises(ParticleFileError, match="cannot be read"):
        read_header(tmp_path)


def test_unread_mode_names_the_way_out(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "a.mrcs", np.zeros((2, 8, 8), "c8"), 4, "<")
    with pytest.raises(ParticleFileError, match=r"MRC mode 4; the modes read are 0, 1, 2, 6, 12.*Convert"):
        read_header(path)


def test_index_past_the_end(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "a.mrcs", np.zeros((5, 8, 8), "f4"), 2, "<")
    with pytest.raises(ParticleFileError, match="has 5 images, none with index 6"):
        MrcReader().read(path, [0, 5])


def test_file_cut_after_opening_is_an_error(tmp_path: Path) -> None:
    path = raw_mrc(tmp_path / "a.mrcs", np.zeros((50, 32, 32), "f4"), 2, "<")
    reader = MrcReader()
    reader.header(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ParticleFileError, match="shorter"):
        reader.read(path, [49])


def test_reader_pickles_without_its_pixels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(50, 32, 32)).astype("f4")
    path = raw_mrc(tmp_path / "a.mrcs", images, 2, "<")
    reader = MrcReader()
    reader.read(path, [0])
    copy = pickle.dumps(reader)
    assert len(copy) < 2000
    np.testing.assert_array_equal(pickle.loads(copy).read(path, [7])[0], images[7])


def test_written_stack_is_valid_and_its_statistics_right(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(100, 3, (7, 10, 10)).astype("f4")
    with MrcStackWriter(tmp_path / "a.mrcs", 10, 1.25) as out:
        out.append(images[:4])
        out.append(images[4])
        out.append(images[5:].astype("f8"))
    assert mrcfile.validate(tmp_path / "a.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as mrc:
        np.testing.assert_array_equal(mrc.data, images)
        assert mrc.is_image_stack()
        assert mrc.voxel_size.x == pytest.approx(1.25)
        exact = images.astype("f8")
        assert mrc.header.dmin == images.min()
        assert mrc.header.dmax == images.max()
        assert mrc.header.dmean == pytest.approx(exact.mean(), rel=1e-7)
        assert mrc.header.rms == pytest.approx(exact.std(), rel=1e-6)


def test_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    def interrupted() -> None:
        with MrcStackWriter(tmp_path / "a.mrcs", 4, 1) as out:
            out.append(np.zeros((2, 4, 4)))
            assert [path.name for path in tmp_path.iterdir()] == ["a.mrcs.partial"]
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 4, 6)), r"shape \(2, 4, 6\)"),
        (np.full((1, 4, 4), np.nan), "not finite"),
        (np.full((1, 4, 4), np.inf), "not finite"),
        (np.zeros((0, 4, 4)), "no image was written"),
    ],
)
def test_writer_refuses(tmp_path: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(OutputError, match=message), MrcStackWriter(tmp_path / "a.mrcs", 4, 1) as out:
        out.append(images)
    assert list(tmp_path.iterdir()) == []


def test_writer_needs_a_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="cannot be written"),
        MrcStackWriter(tmp_path / "no" / "a.mrcs", 4, 1),
    ):
        pass
