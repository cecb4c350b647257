"""Guards against structure that is not in the data."""

from .result import GuardResult, GuardSettings, Verdict
from .run import guard_stack
from .sample import Sample, evenly

__all__ = ["GuardResult", "GuardSettings", "Sample", "Verdict", "evenly", "guard_stack"]
