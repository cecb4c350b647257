"""MRC stacks broken in their header, their length and their pixels; bare ones and those of a STAR file."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

KIND = "MRC"
HEADER, COUNT, BOX = 1024, 8, 32
Change = Callable[[bytes], bytes]
# Where words of the header begin, after MRC2014.
AT = {"nx": 0, "ny": 4, "nz": 8, "mode": 12, "mx": 28, "my": 32, "mz": 36, "x": 40, "y": 44, "z": 48}
AT |= {"nsymbt": 92, "map": 208, "machst": 212}


def word(name: str, value: float, layout: str = "<i") -> Change:
    return lambda data: at(name, struct.pack(layout, value))(data)


def at(name: str, raw: bytes) -> Change:
    return lambda data: data[: AT[name]] + raw + data[AT[name] + len(raw) :]


def cut(length: int) -> Change:
    return lambda data: data[:length]


def both(*changes: Change) -> Change:
    def change(data: bytes) -> bytes:
        for each in changes:
            data = each(data)
        return data

    return change


def pixels(change: Callable[[np.ndarray], object]) -> Change:
    """Change the images (8, 32, 32) in their place."""

    def changed(data: bytes) -> bytes:
        images = np.frombuffer(data[HEADER:], "<f4").reshape(COUNT, BOX, BOX).copy()
        with np.errstate(over="ignore"):
            change(images)
        return data[:HEADER] + images.tobytes()

    return changed


def boxed(y: int, x: int, mode: int = 2, dtype: str = "<f4") -> Change:
    """Eight whole images of another shape and type."""

    def changed(data: bytes) -> bytes:
        images = np.random.default_rng(3).normal(scale=20, size=(COUNT, y, x)).astype(dtype)
        head = both(word("nx", x), word("ny", y), word("mode", mode))(data)[:HEADER]
        return head + images.tobytes()

    return changed


def swap(data: bytes) -> bytes:
    return np.frombuffer(data, "<i4").byteswap().tobytes()


def set_to(value: float, *index: int) -> Change:
    return pixels(lambda images: images.__setitem__(index or slice(None), value))


SIZES: dict[str, Change] = {
    f"{name} is {value}": word(name, value)
    for name in ("nx", "ny", "nz")
    for value in (0, -1, -(2**31), 2**31 - 1, 100_001, 31, 64, 1)
    if not (name == "nz" and value == 31)
}
SIZES |= {
    "nz is a million": word("nz", 10**6),
    "nz is 7": word("nz", 7),
    "nz is 4": word("nz", 4),
    "nx and ny are 16": both(word("nx", 16), word("ny", 16)),
    "nx and ny are 16 and nz is 32": both(word("nx", 16), word("ny", 16), word("nz", 32)),
    "nx and ny are 30000": both(word("nx", 30_000), word("ny", 30_000)),
    "all sizes are 0": both(word("nx", 0), word("ny", 0), word("nz", 0)),
}
UNKNOWN_MODES = [-(2**31), -1, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14, 15, 16, 101, 102, 2**31 - 1]
MODES: dict[str, Change] = {f"mode {mode}": word("mode", mode) for mode in UNKNOWN_MODES}
# Those that are known, but not these pixels': the file would be longer than it should.
MODES |= {f"mode {mode} of float32 pixels": word("mode", mode) for mode in (0, 1, 6, 12)}
EXTENDED: dict[str, Change] = {
    f"nsymbt is {value}": word("nsymbt", value) for value in (-1, -(2**31), 1, 80, 1024, 32768, 2**31 - 1)
}
EXTENDED["an extended header that is not said"] = lambda data: data[:HEADER] + bytes(4096) + data[HEADER:]
LENGTHS: dict[str, Change] = {
    f"cut to {length} bytes": cut(length)
    for length in (0, 1, 4, 100, 208, 512, 1023, 1024, 1025, 5000, 1024 + 4096, 20000, 33791)
}
LENGTHS |= {
    "cut by a pixel": lambda data: data[:-4],
    "the header lost": lambda data: data[HEADER:],
    "an image more than is said": lambda data: data + data[HEADER : HEADER + 4 * BOX * BOX],
    "twice the file": lambda data: data + data,
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"data_particles\n" * 3000,
    "a STAR file": lambda data: b"\ndata_particles\n\nloop_\n_rlnImageName #1\n1@particles.mrcs\n",
}
BOXES: dict[str, Change] = {
    "a box of 1": boxed(1, 1),
    "a box of 2": boxed(2, 2),
    "a box of 4": boxed(4, 4),
    "a box of 33": boxed(33, 33),
    "images of 32 x 30": boxed(32, 30),
    "images of 1 x 1024": boxed(1, 1024),
}
HEADERS = SIZES | MODES | EXTENDED | LENGTHS | BOXES
# Whole stacks that the STAR file does not fit.
OTHERS = ("nx and ny are 16 and nz is 32", "a box of 4")
PIXELS: dict[str, Change] = {
    "a NaN": set_to(np.nan, 4, 7, 9),
    "an infinity": set_to(np.inf, 4, 7, 9),
    "a negative infinity": set_to(-np.inf, 4, 0, 0),
    "NaN alone": set_to(np.nan, 4),
    "both infinities": both(set_to(np.inf, 4, 0, 0), set_to(-np.inf, 4, 1, 0)),
    "zeros": set_to(0, 4),
    "a constant": set_to(-3.5, 4),
    "the largest number": set_to(3e38, 4),
    "one of the largest numbers": set_to(3e38, 4, 5, 5),
    "large numbers": pixels(lambda images: images[4].__imul__(np.float32(1e30))),
    "numbers too small to square": pixels(lambda images: images[4].__imul__(np.float32(1e-30))),
    "numbers next to none": pixels(lambda images: images[4].__imul__(np.float32(1e-42))),
    "an image whose bytes are swapped": pixels(lambda images: images[4].byteswap(inplace=True)),
}
ALL_PIXELS: dict[str, Change] = {
    "all NaN": set_to(np.nan),
    "all zero": set_to(0),
    "all constant": set_to(7),
    "the bytes of all pixels swapped": pixels(lambda images: images.byteswap(inplace=True)),
    # Who does not believe the stamp finds the header's order by its numbers, and reads the pixels in it.
    "the bytes of the header alone swapped": lambda data: swap(data[:208]) + data[208:],
}
# Of a bare stack the pixel size is the header's; that of a stack that a STAR file names is not looked at.
CELLS: dict[str, Change] = {
    f"{name} is {value}": word(name, value, "<i" if name.startswith("m") else "<f")
    for name, values in {
        "mx": (0, -32, -(2**31), 2**31 - 1),
        "x": (0, -96, np.nan, np.inf, -np.inf, 1e30, 1e-30),
    }.items()
    for value in values
}
REST: dict[str, Change] = {
    f"{name} is {value}": word(name, value, "<i" if name.startswith("m") else "<f")
    for name, values in {"my": (0, -1), "mz": (0, 2**31 - 1), "y": (0, np.nan), "z": (-1, np.inf)}.items()
    for value in values
}
REST |= {
    "no map identifier": at("map", bytes(4)),
    "another map identifier": at("map", b"PAM "),
    "no machine stamp": at("machst", bytes(4)),
    "an unknown machine stamp": at("machst", b"\xff\xff\xff\xff"),
    "a few bytes more": lambda data: data + bytes(17),
    "the stamp of the other byte order": at("machst", b"\x11\x11\0\0"),
    "noise in the labels": lambda data: data[:220] + bytes(range(1, 251)) + data[470:],
}


def broken(name: str, changes: dict[str, Change], path: Path) -> None:
    stack = path.with_suffix(".mrcs")
    data = stack.read_bytes()
    stack.write_bytes(changes[name](data))
    assert stack.read_bytes() != data


@pytest.mark.parametrize("name", HEADERS)
def test_headers_and_lengths(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    broken(name, HEADERS, path)
    judge.refused(KIND, path, names=path if name in OTHERS else path.with_suffix(".mrcs"))


@pytest.mark.parametrize("name", [name for name in HEADERS if "nz" not in name and "nx and" not in name])
def test_headers_and_lengths_of_bare_stacks(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".mrcs")
    broken(name, HEADERS, path)
    judge.refused(KIND, path, seen=name not in ("a box of 4",))


@pytest.mark.parametrize("name", CELLS)
def test_pixel_sizes_of_bare_stacks(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".mrcs")
    broken(name, CELLS, path)
    judge.refused(KIND, path, ["pixel size", "--pixel-size"])


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize("suffix", [".star", ".mrcs"])
def test_pixels_of_an_image(name: str, suffix: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", suffix, ".mrcs")
    broken(name, PIXELS, path)
    judge.refused(KIND, path, ["row 5"], seen=False)


@pytest.mark.parametrize("name", ALL_PIXELS)
def test_pixels_of_all_images(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    broken(name, ALL_PIXELS, path)
    judge.refused(KIND, path, ["row 1", "2, 3, 4, 5, 6"], seen=False)


@pytest.mark.parametrize("box", [4098, 20000])
def test_a_box_that_is_too_large(box: int, whole: Any, judge: Any, tmp_path: Path) -> None:
    """Files of which the disk holds the header alone: whoever read them would run out of memory."""
    path = whole.copy(tmp_path / "in", ".mrcs")
    data = both(word("nx", box), word("ny", box), word("nz", 1), word("mode", 0))(path.read_bytes())
    path.write_bytes(data[:HEADER])
    with path.open("r+b") as file:
        file.truncate(HEADER + box * box)
    judge.refused(KIND, path, [str(box)])


@pytest.mark.parametrize("name", [*REST, "mx is 0", "x is nan"])
def test_what_a_star_file_makes_good(name: str, whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    broken(name, REST | CELLS, path)
    judge.harmless(KIND, path)


def test_a_whole_stack_of_the_other_byte_order(whole: Any, judge: Any, tmp_path: Path) -> None:
    path = whole.copy(tmp_path / "in", ".star", ".mrcs")
    data = path.with_suffix(".mrcs").read_bytes()
    head = swap(data[:208]) + data[208:212] + b"\x11\x11\0\0" + swap(data[216:220]) + data[220:HEADER]
    path.with_suffix(".mrcs").write_bytes(head + swap(data[HEADER:]))
    judge.harmless(KIND, path)
