"""The polar mathematics of the paper: grid, transform, angular convolution, angular attention."""

from .attention import AttentionResult, KeyTrust, angular_attention
from .convolution import AngularConv, ConditionedAngularConv, LowRankAngularConv, polar_pad
from .grid import PolarGrid
from .transform import PolarTransform

__all__ = [
    "AngularConv",
    "AttentionResult",
    "ConditionedAngularConv",
    "KeyTrust",
    "LowRankAngularConv",
    "PolarGrid",
    "PolarTransform",
    "angular_attention",
    "polar_pad",
]
