"""An idealised protein built by code, so that examples need no download.

One chain of 350 residues with the backbone and Cβ of alanine, no protein of nature: a bundle of six
helices, a sheet of six antiparallel strands with two helices on its back, and three helices that
stick out. It is asymmetric, and as chiral as any protein.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .structure import Structure

__all__ = ["example_structure"]

Point = NDArray[np.float64]

# Lengths in Å and angles in degrees of the peptide unit: R. A. Engh and R. Huber, Acta Cryst. A47
# (1991) 392; N-CA-C tetrahedral, which gives helices 1.5 Å and 100 degrees a residue.
_C_N, _N_CA, _CA_C, _C_O, _CA_CB = 1.329, 1.458, 1.525, 1.231, 1.530
_CA_C_N, _C_N_CA, _N_CA_C, _CA_C_O, _N_CA_CB = 117.2, 121.7, 109.5, 120.1, 110.5
_CB_OF_L = -122.5  # torsion C-N-CA-CB of an L amino acid

_HELIX, _STRAND = (-60.0, -45.0), (-125.0, 135.0)  # (phi, psi)

# (phi, psi) of an element, its residues, and the loop that leads to it. The loops were found by least
# squares: each brings the next element to its place in the fold without running into what is there.
_FOLD: tuple[tuple[tuple[float, float], int, tuple[tuple[float, float], ...]], ...] = (
    (_HELIX, 28, ()),
    (_HELIX, 24, ((-43, -59), (-151, 114), (-73, 95), (168, -120))),
    (_HELIX, 21, ((-161, 146), (-138, 3), (-115, 129), (147, 123))),
    (_HELIX, 30, ((-84, 70), (-170, 172), (-123, 119), (-161, 170), (-69, 160))),
    (_HELIX, 18, ((169, -79), (-130, 148), (-93, 8), (-31, -66), (-71, 108), (-152, 15))),
    (_HELIX, 26, ((-158, 141), (109, 55), (-133, 121), (-84, -177), (-28, 170))),
    (_STRAND, 8, ((-67, 163), (-83, 147), (-97, 127), (-65, -105), (-124, -50))),
    (_STRAND, 9, ((-152, -135), (10, 81), (161, 140), (-51, -37))),
    (_STRAND, 9, ((-178, 102), (105, -176), (-78, 22))),
    (_STRAND, 8, ((141, 155), (-12, -131), (-69, 93))),
    (_STRAND, 7, ((-96, 177), (-64, -34), (-71, -170), (-19, -166))),
    (_STRAND, 6, ((-21, -104), (-116, -104), (-110, -6), (-76, -25), (-120, 159))),
    (_HELIX, 18, ((-69, -122), (-85, 24), (-25, 140), (-102, -165))),
    (_HELIX, 20, ((-34, 152), (-90, 176), (122, 1), (53, -102))),
    (_HELIX, 19, ((-21, 168), (-80, 78), (-123, -82), (-33, 168), (138, -6))),
    (_HELIX, 16, ((-55, -145), (-107, 37), (-108, 132), (-116, -91))),
    (_HELIX, 14, ((-67, -158), (-44, 140), (-79, 33), (-51, 110))),
)


def example_structure() -> Structure:
    """Build the example protein.

    Returns
    -------
    Structure
        1,750 atoms (N, CA, C, O and CB of 350 residues, in this order), about 90 Å long, centred.
    """
    torsions = [pair for element, n, loop in _FOLD for pair in (*loop, *([element] * n))]
    atoms = np.array(_backbone(torsions), np.float32)
    elements = np.tile(np.array([7, 6, 6, 8, 6], np.uint8), len(torsions))
    return Structure("example", atoms, elements).centred()


def _backbone(torsions: list[tuple[float, float]]) -> list[Point]:
    """Positions of N, CA, C, O and CB for each residue's (phi, psi); peptide bonds are trans."""
    turn = math.radians(_N_CA_C)
    n, ca = np.zeros(3), np.array([_N_CA, 0.0, 0.0])
    c = ca + _CA_C * np.array([-math.cos(turn), math.sin(turn), 0.0])
    atoms: list[Point] = []
    for i, (phi, psi) in enumerate(torsions):
        if i > 0:
            before = torsions[i - 1][1]
            next_n = _place(n, ca, c, _C_N, _CA_C_N, before)
            next_ca = _place(ca, c, next_n, _N_CA, _C_N_CA, 180)
            n, ca, c = next_n, next_ca, _place(c, next_n, next_ca, _CA_C, _N_CA_C, phi)
        o = _place(n, ca, c, _C_O, _CA_C_O, psi + 180)
        cb = _place(c, n, ca, _CA_CB, _N_CA_CB, _CB_OF_L)
        atoms += [n, ca, c, o, cb]
    return atoms


def _place(a: Point, b: Point, c: Point, length: float, angle_deg: float, torsion_deg: float) -> Point:
    """Position of the atom bound to c, at an angle b-c-x and a torsion a-b-c-x (NeRF).

    J. Parsons et al., J. Comput. Chem. 26 (2005) 1063.
    """
    angle, torsion = math.radians(angle_deg), math.radians(torsion_deg)
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    across = np.cross(normal, along)
    direction: Point = -math.cos(angle) * along + math.sin(angle) * (
        math.cos(torsion) * across + math.sin(torsion) * normal
    )
    return c + length * direction
