"""From denoised images to orientations of the original ones, and to a volume."""

from .abinitio import AbInitioResult, AbInitioSettings, abinitio

__all__ = ["AbInitioResult", "AbInitioSettings", "abinitio"]
