import gemmi
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from polarice.simulation.example import example_structure
from polarice.simulation.structure import Structure
from polarice.simulation.volume import density_from_structure

Points = NDArray[np.float64]


@pytest.fixture(scope="module")
def residues() -> Points:
    """Positions, shape (residue, atom, 3), with the atoms N, CA, C, O, CB."""
    return example_structure().coordinates_A.astype(np.float64).reshape(-1, 5, 3)


def positions(points: Points) -> list[gemmi.Position]:
    return [gemmi.Position(*p) for p in points]


def test_size_and_elements() -> None:
    structure = example_structure()
    assert len(structure) == 1750
    extent = np.ptp(structure.coordinates_A, axis=0)
    assert 80 < extent.max() < 100
    assert structure.atomic_numbers.reshape(-1, 5).tolist() == [[7, 6, 6, 8, 6]] * 350


def test_bonds_and_angles_are_those_of_peptides(residues: Points) -> None:
    n, ca, c, o, cb = residues.transpose(1, 0, 2)
    bonds = [(n, ca, 1.458), (ca, c, 1.525), (c, o, 1.231), (ca, cb, 1.530), (c[:-1], n[1:], 1.329)]
    for first, second, length in bonds:
        np.testing.assert_allclose(np.linalg.norm(first - second, axis=1), length, atol=1e-4)
    angles = [
        (n, ca, c, 109.5),
        (ca, c, o, 120.1),
        (n, ca, cb, 110.5),
        (ca[:-1], c[:-1], n[1:], 117.2),
        (c[:-1], n[1:], ca[1:], 121.7),
    ]
    for first, middle, last, degrees in angles:
        found = [
            np.degrees(gemmi.calculate_angle(*triple))
            for triple in zip(positions(first), positions(middle), positions(last), strict=True)
        ]
        np.testing.assert_allclose(found, degrees, atol=0.02)


def test_peptides_are_trans_and_planar_and_residues_are_l(residues: Points) -> None:
    n, ca, c, o, cb = residues.transpose(1, 0, 2)
    quadruples = zip(positions(ca[:-1]), positions(c[:-1]), positions(n[1:]), positions(ca[1:]), strict=True)
    omega = np.degrees([gemmi.calculate_dihedral(*q) for q in quadruples])
    np.testing.assert_allclose(np.abs(omega), 180, atol=0.05)
    quadruples = zip(positions(o[:-1]), positions(c[:-1]), positions(n[1:]), positions(ca[1:]), strict=True)
    np.testing.assert_allclose(np.degrees([gemmi.calculate_dihedral(*q) for q in quadruples]), 0, atol=0.05)
    handedness = np.einsum("ij,ij->i", np.cross(n - ca, c - ca), cb - ca)
    assert (handedness > 0).all()


def test_helices_are_right_handed_with_the_rise_and_turn_of_alpha_helices(residues: Points) -> None:
    ca = residues[:28, 1]
    inwards = ca[2:] + ca[:-2] - 2 * ca[1:-1]
    inwards /= np.linalg.norm(inwards, axis=1, keepdims=True)
    turns = np.degrees(np.arccos((inwards[1:] * inwards[:-1]).sum(1)))
    np.testing.assert_allclose(turns, 100, atol=1.0)
    axis = np.cross(inwards[:-1], inwards[1:])
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    rise = ((ca[2:-1] - ca[1:-2]) * axis).sum(1)
    # A right-handed screw advances along the axis about which it turns counterclockwise.
    np.testing.assert_allclose(rise, 1.5, atol=0.02)
    # Its hydrogen bonds, from O of residue i to N of i + 4, are closed.
    bonds = np.linalg.norm(residues[:24, 3] - residues[4:28, 0], axis=1)
    assert bonds.min() > 2.6
    assert bonds.max() < 3.3


def test_hardly_anything_clashes(residues: Points) -> None:
    atoms = residues.reshape(-1, 3)
    pairs = cKDTree(atoms).query_pairs(2.75, output_type="ndarray")
    apart = np.abs(pairs[:, 0] // 5 - pairs[:, 1] // 5) >= 2
    assert apart.sum() <= 4
    close = np.linalg.norm(atoms[pairs[apart, 0]] - atoms[pairs[apart, 1]], axis=1)
    assert close.min() > 2.45


def test_it_is_neither_symmetric_nor_its_own_mirror_image(residues: Points) -> None:
    atoms = residues.reshape(-1, 3)
    moments = np.linalg.eigvalsh(np.cov(atoms.T))
    assert (moments[1:] / moments[:-1] > 1.2).all()
    # No half-turn about an axis of inertia, and no reflection, brings the density back onto itself.
    frame = np.linalg.eigh(np.cov(atoms.T))[1]
    local = ((atoms - atoms.mean(0)) @ frame).astype(np.float32)
    elements = example_structure().atomic_numbers
    own = density_from_structure(Structure("own", local, elements), 40, 4.0, 10.0).density
    for signs in ([1, -1, -1], [-1, 1, -1], [-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1], [-1, -1, -1]):
        turned = Structure("turned", local * np.float32(signs), elements)
        other = density_from_structure(turned, 40, 4.0, 10.0).density
        assert np.corrcoef(own.flatten(), other.flatten())[0, 1] < 0.8
