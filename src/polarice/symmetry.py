"""Point groups: the rotations that leave a specimen as it is, in RELION's settings of the axes."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from .errors import PolariceError

__all__ = ["point_group"]

_GOLDEN = (1 + math.sqrt(5)) / 2
# Axes (x, y, z) and their order, from which all other rotations follow.
_PLATONIC: dict[str, tuple[tuple[int, tuple[float, float, float]], ...]] = {
    "T": ((3, (0, 0, 1)), (2, (0, math.sqrt(2 / 3), math.sqrt(1 / 3)))),
    "O": ((4, (0, 0, 1)), (3, (1, 1, 1))),
    "I": ((2, (0, 0, 1)), (5, (1, 0, _GOLDEN)), (3, (0, 1, _GOLDEN**2))),
}
_SAME = 1e-6
_MOST_FOLD = 100


def point_group(name: str) -> Tensor:
    """Rotations of a point group.

    The axis of highest order of ``Cn`` and ``Dn`` is z, a twofold axis of ``Dn`` is x; ``T`` has a threefold
    axis along z, ``O`` fourfold axes along x, y and z, ``I`` twofold ones (RELION's I, or I2).

    Parameters
    ----------
    name : str
        ``C1``, ``C2``, …, ``D2``, …, ``T``, ``O`` or ``I``, in either case.

    Returns
    -------
    Tensor, shape (order, 3, 3), float64
        Of specimen coordinates, the identity first. An image at the orientation A shows the same at A g.

    Raises
    ------
    PolariceError
        There is no such group.
    """
    told = re.fullmatch(r"([CD])([1-9]\d*)|([TOI])", name.strip().upper())
    if told is None or int(told[2] or 1) > _MOST_FOLD:
        hint = f"Choose from C1, C2 to C{_MOST_FOLD}, D2 to D{_MOST_FOLD}, T, O, I"
        raise PolariceError(f"{name!r} is no point group", hint=hint)
    kind, fold, platonic = told.groups()
    axes: list[tuple[int, tuple[float, float, float]]]
    axes = list(_PLATONIC[platonic]) if platonic else [(int(fold), (0, 0, 1))]
    if kind == "D":
        axes.append((2, (1, 0, 0)))
    found = [torch.eye(3, dtype=torch.float64)]
    generators = [_turn(fold, axis) for fold, axis in axes]
    # Every rotation is a product; what is new is multiplied on.
    for rotation in found:
        for generator in generators:
            product = generator @ rotation
            if not any(torch.allclose(product, known, atol=_SAME) for known in found):
                found.append(product)
    return torch.stack(found)


def _turn(fold: int, axis: tuple[float, float, float]) -> Tensor:
    """Rotation by one n-th of a turn about an axis."""
    x, y, z = (torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)).tolist()
    skew = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation: Tensor = torch.linalg.matrix_exp(skew * (2 * math.pi / fold))
    return rotation
