"""Classical methods, networks and bounds, measured side by side."""

from .output import table_lines, write_benchmark
from .result import BenchmarkResult, Curve, Energies, Row, SweepRow
from .run import run_benchmark
from .settings import PAPER_CONDITIONS, BenchmarkSettings, Condition, default_models
from .statistics import EffectiveImages, Interval

__all__ = [
    "PAPER_CONDITIONS",
    "BenchmarkResult",
    "BenchmarkSettings",
    "Condition",
    "Curve",
    "EffectiveImages",
    "Energies",
    "Interval",
    "Row",
    "SweepRow",
    "default_models",
    "run_benchmark",
    "table_lines",
    "write_benchmark",
]
