"""What is planted among a stack's particles: another protein's, as they would look there, and copies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import StructureError
from ...imaging import filter_images, move_images, turn_matrices
from ...particles import StarTable, read_star, write_star
from ...simulation import (
    Projector,
    Structure,
    density_from_structure,
    example_structure,
    read_structure,
    uniform_views,
)
from .sample import Sample

__all__ = ["Planted", "foreign_structure", "name_copies", "places_for", "turned_average"]

_FOREIGN, _COPIES = 0.05, 0.01
# Residues of the example protein that make its bundle of helices, each of five atoms.
_BUNDLE = 5 * 175
_IN_A_RING = 3
# How far the bundles lie from the axis, Å.
_RADIUS_A = 30.0
# Share of the box that the protein may take.
_FILL = 0.8
# With less signal than this share of the noise there is nothing to recognise.
_FAINTEST = 1e-3
_PLACES, _VIEWS, _NOISE = 4, 3, 5
_TURNS = 36


def foreign_structure(given: str | Path | None = None) -> Structure:
    """Read or make a protein that is hardly in the stack.

    The default is a ring of three of the embedded example's helix bundles; it looks neither like the example
    nor like a protein of nature.
    """
    if given is not None:
        return read_structure(given)
    example = example_structure()
    bundle = example.coordinates_A[:_BUNDLE]
    bundle = bundle - bundle.mean(0) + np.array([_RADIUS_A, 0, 0], np.float32)
    copies = []
    for turn in 2 * math.pi * np.arange(_IN_A_RING) / _IN_A_RING:
        c, s = math.cos(turn), math.sin(turn)
        copies.append(bundle @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32))
    numbers = np.tile(example.atomic_numbers[:_BUNDLE], _IN_A_RING)
    return Structure("a ring of helix bundles", np.concatenate(copies), numbers).centred()


def places_for(halves: NDArray[np.int64]) -> tuple[NDArray[np.int64], dict[int, int]]:
    """Choose, at random, which particles become foreign ones, and which become copies of which.

    Parameters
    ----------
    halves : ndarray of int, shape (n,)
        A copy and its original are of one.
    """
    generator = np.random.default_rng(_PLACES)
    foreign: list[NDArray[np.int64]] = []
    copies: dict[int, int] = {}
    for half in np.unique(halves):
        members = generator.permutation(np.flatnonzero(halves == half))
        # Two of a kind at least, so that they can meet.
        planted, copied = max(2, round(_FOREIGN * len(members))), max(1, round(_COPIES * len(members)))
        foreign.append(members[:planted])
        pairs = members[planted : planted + 2 * copied]
        pairs = pairs[: len(pairs) // 2 * 2].reshape(-1, 2)
        copies |= {int(pair.max()): int(pair.min()) for pair in pairs}
    return np.sort(np.concatenate(foreign)), copies


def name_copies(star: Path, copies: dict[int, int]) -> None:
    """Let some rows of a STAR file name the images of others."""
    tables, version = read_star(star)
    changed = []
    for table in tables:
        names = table.columns.get("rlnImageName")
        if names is not None:
            given = [names[copies.get(row, row)] for row in range(len(names))]
            table = StarTable(table.name, {**table.columns, "rlnImageName": given})
        changed.append(table)
    write_star(star, changed, version=version)


def turned_average(image: Tensor) -> Tensor:
    """An image (y, x) averaged over turns about its centre."""
    matrices = turn_matrices(2 * math.pi * torch.arange(_TURNS, dtype=image.dtype) / _TURNS)
    average: Tensor = move_images(image, matrices, torch.zeros(_TURNS, 2, dtype=image.dtype)).mean(0)
    return average


@dataclass(frozen=True)
class Planted:
    """Another protein's particles, in a sample's places.

    Attributes
    ----------
    places : ndarray of int, shape (n,)
    truth : Tensor, shape (n, y, x)
        Without CTF and noise; in units of the noise, bright.
    images : Tensor, shape (n, y, x)
        As they would be in the stack: seen by each place's own CTF, with noise of its own spectrum, of as
        much signal as the stack's particles; in units of the noise and in the stack's contrast.
    """

    places: NDArray[np.int64]
    truth: Tensor
    images: Tensor

    @classmethod
    def of(
        cls,
        structure: Structure,
        sample: Sample,
        places: NDArray[np.int64],
        snr: float,
        spectra: Tensor,
    ) -> Planted:
        """Simulate a structure's particles for some places of a sample, from all sides.

        Raises
        ------
        StructureError
            It does not fit into the box, or there is no signal that it could have as much of.
        """
        box, pixel_A = sample.stack.box, sample.stack.pixel_size_A
        if structure.diameter_A > _FILL * box * pixel_A:
            raise StructureError(
                f"{structure.name} is {structure.diameter_A:.0f} Å across, too large for a box of "
                f"{box * pixel_A:.0f} Å"
            )
        if snr < _FAINTEST:
            raise StructureError("the stack has next to no signal, of which others could have as much")
        project = Projector(density_from_structure(structure, box, pixel_A))
        truth = torch.cat([project(part) for part in uniform_views(len(places), _VIEWS).split(256)])
        transfer = sample.transfer(sample.rows[places])
        seen = truth if transfer is None else filter_images(truth, transfer)
        scale = (snr / seen.square().mean()).sqrt()
        images = scale * seen * sample.preprocessor.sign + sample.noise(places, spectra, _NOISE)
        return cls(places, scale * truth, images)

    def into(self, part: slice, images: Tensor) -> Tensor:
        """Put the images of some places into a batch of the sample's."""
        here = np.flatnonzero((self.places >= part.start) & (self.places < part.stop))
        changed = images.clone()
        changed[torch.from_numpy(self.places[here] - part.start)] = self.images[torch.from_numpy(here)]
        return changed
