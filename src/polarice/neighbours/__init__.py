"""Which particles show the same view: a stack's own covariance, likelihoods of pairs, neighbour tables."""

from .averages import Judgement, judge_by_averages
from .centres import likeliest_centres
from .covariance import ImagePrior, StackCovariance, ViewFeatures, ViewLikelihood
from .estimates import ViewEstimator, Views
from .harmonics import DiscHarmonics
from .pairs import likeliest_pairs
from .search import (
    Companions,
    LearnedStack,
    Search,
    StackViews,
    find_companions,
    learn_from_stack,
    likeliest_companions,
)
from .table import NOBODY, groups_of

__all__ = [
    "NOBODY",
    "Companions",
    "DiscHarmonics",
    "ImagePrior",
    "Judgement",
    "LearnedStack",
    "Search",
    "StackCovariance",
    "StackViews",
    "ViewEstimator",
    "ViewFeatures",
    "ViewLikelihood",
    "Views",
    "find_companions",
    "groups_of",
    "judge_by_averages",
    "learn_from_stack",
    "likeliest_centres",
    "likeliest_companions",
    "likeliest_pairs",
]
