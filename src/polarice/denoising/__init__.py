"""From noisy particles to denoised ones: single images, sets, and whole stacks."""

from .classical import (
    ClassAverage,
    aligned_sums,
    class_average,
    in_each_frame,
    signal_power,
    wiener_filter,
)
from .denoiser import Denoiser, NetworkDenoiser, SetDenoiser, SetResult
from .graph import GraphResult, attend_graph, encode_stack
from .pipeline import denoise_stack
from .result import DenoiseResult, DenoiseSettings, confidence, effective_neighbours

__all__ = [
    "ClassAverage",
    "DenoiseResult",
    "DenoiseSettings",
    "Denoiser",
    "GraphResult",
    "NetworkDenoiser",
    "SetDenoiser",
    "SetResult",
    "aligned_sums",
    "attend_graph",
    "class_average",
    "confidence",
    "denoise_stack",
    "effective_neighbours",
    "encode_stack",
    "in_each_frame",
    "signal_power",
    "wiener_filter",
]
