"""From noisy particles to denoised ones: single images, sets, and whole stacks."""

from .classical import (
    ClassAverage,
    aligned_sums,
    class_average,
    in_each_frame,
    signal_power,
    wiener_filter,
)
from .denoiser import Denoiser, NetworkDenoiser, SetDenoiser, SetResult, in_plane_angles_deg
from .graph import EncodedStack, GraphResult, attend_graph, encode_stack
from .pipeline import denoise_stack
from .preflight import prepare_output
from .result import DenoiseResult, DenoiseSettings, effective_neighbours

__all__ = [
    "ClassAverage",
    "DenoiseResult",
    "DenoiseSettings",
    "Denoiser",
    "EncodedStack",
    "GraphResult",
    "NetworkDenoiser",
    "SetDenoiser",
    "SetResult",
    "aligned_sums",
    "attend_graph",
    "class_average",
    "denoise_stack",
    "effective_neighbours",
    "encode_stack",
    "in_each_frame",
    "in_plane_angles_deg",
    "prepare_output",
    "signal_power",
    "wiener_filter",
]
