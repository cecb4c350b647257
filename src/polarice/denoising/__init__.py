"""From noisy particles to denoised ones: single images, sets, and whole stacks."""

from .denoiser import Denoiser, NetworkDenoiser, SetDenoiser, SetResult, in_plane_angles_deg
from .graph import EncodedStack, GraphResult, attend_graph, encode_stack
from .neighbours import NOBODY, find_neighbours, groups_of
from .pipeline import denoise_stack
from .preflight import prepare_output
from .result import DenoiseResult, DenoiseSettings, effective_neighbours

__all__ = [
    "NOBODY",
    "DenoiseResult",
    "DenoiseSettings",
    "Denoiser",
    "EncodedStack",
    "GraphResult",
    "NetworkDenoiser",
    "SetDenoiser",
    "SetResult",
    "attend_graph",
    "denoise_stack",
    "effective_neighbours",
    "encode_stack",
    "find_neighbours",
    "groups_of",
    "in_plane_angles_deg",
    "prepare_output",
]
