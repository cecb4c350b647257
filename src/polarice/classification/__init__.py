"""Classes of particles that show one view, and their averages."""

from .averages import average_classes, average_denoised
from .classes import Classes, assign, first_classes, refine_classes
from .pipeline import ClassifyResult, ClassifySettings, classify_stack

__all__ = [
    "Classes",
    "ClassifyResult",
    "ClassifySettings",
    "assign",
    "average_classes",
    "average_denoised",
    "classify_stack",
    "first_classes",
    "refine_classes",
]
