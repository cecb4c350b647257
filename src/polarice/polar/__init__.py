"""The polar mathematics of the paper: grid, transform, angular convolution, angular attention."""

from .attention import (
    AngularSpectra,
    AttentionResult,
    KeyTrust,
    angular_attention,
    angular_spectra,
    attend_to_spectra,
)
from .convolution import AngularConv, ConditionedAngularConv, LowRankAngularConv, polar_pad
from .grid import PolarGrid
from .peak import peak_angles_deg
from .transform import PolarTransform

__all__ = [
    "AngularConv",
    "AngularSpectra",
    "AttentionResult",
    "ConditionedAngularConv",
    "KeyTrust",
    "LowRankAngularConv",
    "PolarGrid",
    "PolarTransform",
    "angular_attention",
    "angular_spectra",
    "attend_to_spectra",
    "peak_angles_deg",
    "polar_pad",
]
