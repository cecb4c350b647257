"""Training: recipes, objectives, the loop and its curves."""

from .curves import training_curves
from .loop import train
from .objectives import relative_squared_error, view_contrast
from .optimiser import learning_rate
from .recipe import OptimiserConfig, Recipe, RunConfig

__all__ = [
    "OptimiserConfig",
    "Recipe",
    "RunConfig",
    "learning_rate",
    "relative_squared_error",
    "train",
    "training_curves",
    "view_contrast",
]
