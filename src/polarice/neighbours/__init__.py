"""Which particles show the same view: a stack's own covariance, likelihoods of pairs, neighbour tables."""

from .covariance import StackCovariance, ViewFeatures, ViewLikelihood
from .harmonics import DiscHarmonics
from .search import Companions, StackViews, find_companions, likeliest_companions
from .table import NOBODY, groups_of

__all__ = [
    "NOBODY",
    "Companions",
    "DiscHarmonics",
    "StackCovariance",
    "StackViews",
    "ViewFeatures",
    "ViewLikelihood",
    "find_companions",
    "groups_of",
    "likeliest_companions",
]
