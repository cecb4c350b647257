"""From a molecule to particle images whose truth is known."""

from .projection import Projector, project_volume
from .structure import Structure, read_structure
from .volume import Volume, density_from_structure, read_map, resample_volume, write_map

__all__ = [
    "Projector",
    "Structure",
    "Volume",
    "density_from_structure",
    "project_volume",
    "read_map",
    "read_structure",
    "resample_volume",
    "write_map",
]
