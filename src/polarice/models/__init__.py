"""The networks, and how they are named, configured, stored and found."""

from .attention_round import ImageState, Offer
from .count import count_flops, count_parameters, model_table
from .paper import PaperConfig, PaperPolarCNN, PaperPolarTransformer
from .polar_cnn import PolarCNN, PolarCNNConfig
from .polar_transformer import PolarTransformer, PolarTransformerConfig, SetOutput
from .registry import (
    ARCHITECTURES,
    ModelCard,
    build_model,
    find_weights,
    load_model,
    read_card,
    save_model,
    shipped_models,
)
from .unet import DnCNN, DnCNNConfig, UNet, UNetConfig

__all__ = [
    "ARCHITECTURES",
    "DnCNN",
    "DnCNNConfig",
    "ImageState",
    "ModelCard",
    "Offer",
    "PaperConfig",
    "PaperPolarCNN",
    "PaperPolarTransformer",
    "PolarCNN",
    "PolarCNNConfig",
    "PolarTransformer",
    "PolarTransformerConfig",
    "SetOutput",
    "UNet",
    "UNetConfig",
    "build_model",
    "count_flops",
    "count_parameters",
    "find_weights",
    "load_model",
    "model_table",
    "read_card",
    "save_model",
    "shipped_models",
]
