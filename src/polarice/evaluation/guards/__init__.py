"""Guards against structure that is not in the data."""

from .result import GuardResult, GuardSettings, Verdict
from .run import guard_stack

__all__ = ["GuardResult", "GuardSettings", "Verdict", "guard_stack"]
