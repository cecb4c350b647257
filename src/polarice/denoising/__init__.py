"""From noisy particles to denoised ones: single images, sets, and whole stacks."""

from .agreement import agreement_columns, measure_agreement, parts_of
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
from .preflight import misfits
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
    "agreement_columns",
    "aligned_sums",
    "attend_graph",
    "class_average",
    "confidence",
    "denoise_stack",
    "effective_neighbours",
    "encode_stack",
    "in_each_frame",
    "measure_agreement",
    "misfits",
    "parts_of",
    "signal_power",
    "wiener_filter",
]
