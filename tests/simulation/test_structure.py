import gzip
from pathlib import Path

import gemmi
import numpy as np
import pytest

from polarice.errors import StructureError
from polarice.simulation.structure import Structure, read_structure

PDB = """\
REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A, Q
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        0.00000
ATOM      1  N   GLY A   1      10.000   0.000   0.000  1.00 20.00           N
ATOM      2  CA AGLY A   1      11.400   0.000   0.000  0.50 20.00           C
ATOM      3  CA BGLY A   1      11.500   1.000   0.000  0.50 20.00           C
ATOM      4  H   GLY A   1       9.500   0.800   0.000  1.00 20.00           H
ATOM      5  C   GLY A   1      12.000   1.400   0.000  1.00 20.00           C
ATOM      6  O   GLY A   1      11.300   2.400   0.000  1.00 20.00           O
HETATM    7 ZN    ZN A   2       5.000   5.000   5.000  1.00 20.00          ZN
HETATM    8  O   HOH A   3      20.000  20.000  20.000  1.00 20.00           O
END
"""


@pytest.fixture
def pdb(tmp_path: Path) -> Path:
    path = tmp_path / "toy.pdb"
    path.write_text(PDB)
    return path


def test_assembly_without_water_hydrogen_and_second_altloc(pdb: Path) -> None:
    structure = read_structure(pdb)
    assert structure.name == "toy"
    assert sorted(structure.atomic_numbers) == sorted([7, 6, 6, 8, 30] * 2)
    # The two-fold axis along z makes the copies' x and y cancel.
    mass = np.array([gemmi.Element(int(z)).weight for z in structure.atomic_numbers])
    np.testing.assert_allclose(mass @ structure.coordinates_A / mass.sum(), 0, atol=1e-5)
    rounded = np.round(structure.coordinates_A[structure.atomic_numbers == 30][:, :2], 3)
    np.testing.assert_allclose(sorted(rounded.tolist()), [[-5, -5], [5, 5]], atol=2e-3)


def test_mmcif_and_gzip_read_the_same(pdb: Path, tmp_path: Path) -> None:
    expected = read_structure(pdb)
    gz = tmp_path / "toy.ent.gz"
    gz.write_bytes(gzip.compress(PDB.encode()))
    cif = tmp_path / "toy.cif"
    parsed = gemmi.read_structure(str(pdb))
    parsed.setup_entities()
    parsed.make_mmcif_document().write_file(str(cif))
    for path in (gz, cif):
        structure = read_structure(path)
        np.testing.assert_array_equal(structure.atomic_numbers, expected.atomic_numbers)
        np.testing.assert_allclose(structure.coordinates_A, expected.coordinates_A, atol=2e-3)


def test_huge_assembly_falls_back_to_the_deposited_chains(pdb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polarice.simulation.structure._MOST_ATOMS", 9)
    assert len(read_structure(pdb)) == 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pdb", "", "no heavy atoms"),
        ("a.pdb", PDB.splitlines()[-2], "no heavy atoms"),
        ("a.cif", "not a cif", "cannot be read"),
        ("a.mrc", "", "name"),
    ],
)
def test_useless_files_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(StructureError, match=words) as caught:
        read_structure(path)
    assert caught.value.path == path
    assert caught.value.hint


def test_truncated_gzip_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pdb.gz"
    path.write_bytes(gzip.compress(PDB.encode() * 50)[:200])
    with pytest.raises(StructureError):
        read_structure(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="does not exist"):
        read_structure(tmp_path / "absent.pdb")


def test_structure_checks_its_arrays() -> None:
    with pytest.raises(StructureError, match="no atoms"):
        Structure("a", np.zeros((0, 3), np.float32), np.zeros(0, np.uint8))
    with pytest.raises(StructureError, match="shape"):
        Structure("a", np.zeros((2, 3), np.float32), np.zeros(1, np.uint8))
    with pytest.raises(StructureError, match="not numbers"):
        Structure("a", np.full((1, 3), np.nan, np.float32), np.ones(1, np.uint8))


@pytest.mark.data
def test_real_file(shared_data: Path) -> None:
    structure = read_structure(shared_data / "named" / "7lgu_emodelx_built.pdb.gz")
    assert len(structure) == 10_569
    assert 120 < structure.diameter_A < 140
