"""From a molecule to particle images whose truth is known."""

from .structure import Structure, read_structure

__all__ = ["Structure", "read_structure"]
