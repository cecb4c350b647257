import gzip
from pathlib import Path

import numpy as np
import pytest

from polarice.errors import StructureError
from polarice.simulation.bank import StructureBank, build_bank
from polarice.simulation.structure import Structure


def structure(name: str, atoms: int, seed: int = 0) -> Structure:
    rng = np.random.default_rng(seed)
    coordinates = rng.normal(0, 20, (atoms, 3)).astype(np.float32)
    return Structure(name, coordinates, rng.choice(np.array([6, 7, 8, 16], np.uint8), atoms))


@pytest.fixture
def structures() -> list[Structure]:
    return [structure(name, 30 + 7 * i, i) for i, name in enumerate(("1ABC", "2xyz", "3DEF", "4GHI", "5JKL"))]


@pytest.fixture
def bank(structures: list[Structure]) -> StructureBank:
    return StructureBank.from_structures(structures)


def assert_same(found: StructureBank, expected: StructureBank) -> None:
    assert found.names == expected.names
    for name in ("offsets", "coordinates", "atomic_numbers"):
        array = getattr(found, name)
        np.testing.assert_array_equal(array, getattr(expected, name))
        assert array.dtype == getattr(expected, name).dtype


def test_structures_come_back(structures: list[Structure], bank: StructureBank) -> None:
    assert len(bank) == 5
    for i, true in enumerate(structures):
        assert bank[i].name == true.name
        np.testing.assert_allclose(bank[i].coordinates_A, true.coordinates_A, atol=0.00501)
        np.testing.assert_array_equal(bank[i].atomic_numbers, true.atomic_numbers)


def test_save_and_load(bank: StructureBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    bank.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["bank.npz"]
    assert_same(StructureBank.load(path), bank)


def test_subset_and_concatenate(bank: StructureBank) -> None:
    parts = [bank.subset([0, 1]), bank.subset([2]), bank.subset([3, 4])]
    assert_same(StructureBank.concatenate(parts), bank)
    assert bank.subset([3, 0]).names == ("4GHI", "1ABC")


def test_split_is_a_partition(bank: StructureBank) -> None:
    training, validation = bank.split(2, seed=3)
    assert len(validation) == 2
    assert sorted(training.names + validation.names) == sorted(bank.names)
    assert_same(bank.split(2, seed=3)[1], validation)
    others = {bank.split(2, seed=seed)[1].names for seed in range(10)}
    assert len(others) > 1


def test_index_by_name(bank: StructureBank) -> None:
    assert bank.index("2XYZ") == bank.index("2xyz") == 1
    with pytest.raises(StructureError, match="no structure is called '9ZZZ'"):
        bank.index("9ZZZ")


def test_what_a_bank_cannot_hold() -> None:
    with pytest.raises(StructureError, match="at least one structure"):
        StructureBank.from_structures([])
    wide = Structure("WIDE", np.array([[400.0, 0, 0]], np.float32), np.array([6], np.uint8))
    with pytest.raises(StructureError, match="WIDE is wider than 650 Å"):
        StructureBank.from_structures([wide])


def encode(bank: StructureBank) -> dict[str, np.ndarray]:
    """The corpus files' coding: byte planes of the differences along the atoms, wrapped modulo 2^16."""
    planes = []
    for start, stop in zip(bank.offsets[:-1], bank.offsets[1:], strict=True):
        values = bank.coordinates[start:stop].astype(np.int64)
        planes.append(np.diff(values, axis=0, prepend=0).astype(np.uint64).astype(np.uint16).T)
    words = np.concatenate(planes, axis=1)
    return {
        "lo": (words & 255).astype(np.uint8),
        "hi": (words >> 8).astype(np.uint8),
        "z": bank.atomic_numbers,
        "offset": bank.offsets,
        "id": np.array(bank.names),
    }


def test_corpus_is_decoded(bank: StructureBank, tmp_path: Path) -> None:
    # Differences beyond ±327 Å wrap around.
    ends = Structure("ENDS", np.array([[-320, 0, 5], [320, -1, 5]], np.float32), np.array([6, 7], np.uint8))
    bank = StructureBank.concatenate([bank, StructureBank.from_structures([ends])])
    path = tmp_path / "corpus.npz"
    np.savez_compressed(path, **encode(bank))
    assert_same(StructureBank.load(path), bank)


@pytest.mark.data
def test_real_corpus(shared_data: Path) -> None:
    """The decoding that the data's own description gives; real bond lengths."""
    path = shared_data / "structures_test.npz"
    bank = StructureBank.load(path)
    with np.load(path) as file:
        lo, hi, offset, names = (file[name] for name in ("lo", "hi", "offset", "id"))
    assert bank.names == tuple(names)
    for i in (0, 17, len(bank) - 1):
        a, b = offset[i], offset[i + 1]
        word = (hi[:, a:b].astype(np.uint16) << 8 | lo[:, a:b]).view(np.int16)
        quantised = np.cumsum(word, axis=1, dtype=np.int16)
        np.testing.assert_allclose(bank[i].coordinates_A, quantised.T / np.float32(100), atol=1e-4)
        steps = np.linalg.norm(np.diff(bank[i].coordinates_A, axis=0), axis=1)
        assert 1.2 < np.median(steps) < 2.6


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"absent\.npz: no such bank\. Make one"):
        StructureBank.load(tmp_path / "absent.npz")


@pytest.mark.parametrize(
    "kind", ["text", "empty", "truncated", "corrupt", "array", "pickle", "other", "incomplete"]
)
def test_broken_and_foreign_files(kind: str, bank: StructureBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    bank.save(path)
    whole = path.read_bytes()
    if kind == "text":
        path.write_text("not a bank")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "corrupt":
        path.write_bytes(whole[:300] + bytes(200) + whole[500:])
    elif kind == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif kind == "pickle":
        np.savez(path, names=np.array([object()]))
    elif kind == "other":
        np.savez(path, weights=np.zeros(3))
    else:
        np.savez(path, coordinates=np.zeros((3, 3), np.int16))
    with pytest.raises(StructureError, match=r"bank\.npz: not a bank"):
        StructureBank.load(path)


PDB = "\n".join(
    f"ATOM  {i + 1:5d}  CA  ALA A{i + 1:4d}    {3.8 * i:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00           C"
    for i in range(60)
)


def test_build_from_a_folder(bank: StructureBank, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "1AAA.pdb").write_text(PDB + "\nEND\n")
    with gzip.open(source / "2BBB.ent.gz", "wt") as file:
        file.write(PDB + "\nEND\n")
    (source / "broken.cif").write_text("data_x\nloop_\n_atom_site.id\n")
    (source / "readme.txt").write_text("ignored")
    np.savez_compressed(source / "structures_train_0.npz", **encode(bank))
    np.savez_compressed(source / "structures_test.npz", **encode(bank))
    seen: list[tuple[int, int]] = []
    built, skipped = build_bank(source, tmp_path / "out.npz", progress=lambda a, b: seen.append((a, b)))
    # What is kept for testing must not slip into training.
    assert len(built) == len(bank) + 2
    assert set(bank.names) < set(built.names)
    assert len(skipped) == 1
    assert "broken.cif" in skipped[0]
    assert seen == [(i + 1, 4) for i in range(4)]
    assert_same(StructureBank.load(tmp_path / "out.npz"), built)
    # Asked for by name, a test file may be used.
    assert len(build_bank(source / "structures_test.npz", tmp_path / "test.npz")[0]) == len(bank)


def test_build_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no such file or folder"):
        build_bank(tmp_path / "absent", tmp_path / "out.npz")
    source = tmp_path / "in"
    source.mkdir()
    with pytest.raises(StructureError, match=r"no structure could be read\. Give a folder of PDB or mmCIF"):
        build_bank(source, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()
