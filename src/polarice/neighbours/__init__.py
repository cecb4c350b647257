"""Which particles show the same view: a stack's own covariance, likelihoods of pairs, neighbour tables."""

from .averages import Judgement, judge_by_averages
from .centres import likeliest_centres
from .covariance import ImagePrior, StackCovariance, ViewFeatures, ViewLikelihood
from .harmonics import DiscHarmonics
from .pairs import likeliest_pairs
from .search import Companions, Search, StackViews, find_companions, likeliest_companions
from .table import NOBODY, groups_of

__all__ = [
    "NOBODY",
    "Companions",
    "DiscHarmonics",
    "ImagePrior",
    "Judgement",
    "Search",
    "StackCovariance",
    "StackViews",
    "ViewFeatures",
    "ViewLikelihood",
    "find_companions",
    "groups_of",
    "judge_by_averages",
    "likeliest_centres",
    "likeliest_companions",
    "likeliest_pairs",
]
