"""How a stack is read for a network: what every command that takes particles has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..particles import Contrast

__all__ = ["NeighbourSettings", "StackSettings"]


@dataclass(frozen=True, kw_only=True)
class StackSettings:
    """How a stack is read for a network.

    Attributes
    ----------
    model : str
        A shipped model's name or a weights file.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``mps``.
    pixel_size_A : float, optional
        Overrides what the files say.
    contrast : {"bright", "dark"}, optional
        Contrast of the protein; found out by default.
    mask_diameter_A : float, "auto" or None
        Diameter of the disc outside of which nothing is looked at; None is the box. By default it is found
        from the stack where other particles reach into the boxes.
    ctf : bool
        Use the CTF where its parameters are given: undo its sign changes, and tell the network.
    whiten : bool
        Make the noise of each optics group white, where the CTF's parameters are given.
    mixed_precision : bool
        Compute convolutions in bfloat16 where the device has instructions for it: nearly twice as fast, and
        the images differ by a relative squared error of a few 1e-5 between devices.
    """

    model: str = "polar-transformer-64"
    device: str = "auto"
    pixel_size_A: float | None = None
    contrast: Contrast | None = None
    mask_diameter_A: float | Literal["auto"] | None = "auto"
    ctf: bool = True
    whiten: bool = True
    mixed_precision: bool = True


@dataclass(frozen=True, kw_only=True)
class NeighbourSettings(StackSettings):
    """How the neighbours of a stack's particles are found.

    Attributes
    ----------
    neighbours : int
        Other particles that each particle gets, at most.
    mirrored : bool
        Look for views from the other side too, which are mirror images.
    split_halves : bool
        Put particles that no half set is known of into two, at random; they are then never neighbours of each
        other.
    """

    neighbours: int = 16
    mirrored: bool = False
    split_halves: bool = False
