"""Training: recipes, objectives, the loop and its curves; adaptation to a stack."""

from .adaptation import AdaptResult, AdaptSettings, adapt
from .curves import training_curves
from .loop import train
from .objectives import relative_squared_error, view_contrast
from .optimiser import learning_rate
from .recipe import OptimiserConfig, Recipe, RunConfig

__all__ = [
    "AdaptResult",
    "AdaptSettings",
    "OptimiserConfig",
    "Recipe",
    "RunConfig",
    "adapt",
    "learning_rate",
    "relative_squared_error",
    "train",
    "training_curves",
    "view_contrast",
]
