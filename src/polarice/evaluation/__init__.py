"""What came out: metrics against the truth, and the report page."""

from .angles import (
    angle_error_deg,
    class_average_angles_deg,
    correlation_angles_deg,
    rotation_self_similarity,
    true_angles_deg,
)
from .attention_benchmark import QUICK_DIAGNOSTICS, attention_table, benchmark_attention
from .chart_data import AngleProfile, AttentionMap, Histogram, RadialCurve, RadialCurves
from .class_report import class_report
from .classes import adjusted_rand_index, attention_classes
from .content import (
    ClassTile,
    FileWritten,
    Gallery,
    GalleryRow,
    GuardCheck,
    KeyFigure,
    Neighbour,
    Neighbourhood,
    Notice,
    ReportContent,
    StageTime,
)
from .demo import DemoResult, run_demo
from .diagnostics import AttentionDiagnostics, DiagnosticSettings, diagnose_attention
from .evaluate import evaluate, require_correspondence
from .guard_report import guard_report
from .guards import GuardResult, GuardSettings, Verdict, guard_stack
from .map_report import map_report
from .metrics import (
    best_linear_scale,
    fourier_ring_correlation,
    frc_resolution_A,
    psnr,
    radial_power,
    relative_mse,
    relative_mse_per_image,
    ring_products,
    shell_gain,
    ssim,
)
from .neighbour_benchmark import (
    NeighbourBenchmarkSettings,
    benchmark_neighbours,
    neighbour_angles_deg,
    neighbour_benchmark_table,
)
from .neighbour_report import neighbour_report
from .orientations import (
    RANDOM_ORIENTATIONS_DEG,
    OrientationErrors,
    orientation_errors,
    register_orientations,
)
from .report import report_html, write_report
from .run_report import run_report, verdict
from .shell_figure import shell_correlation_picture
from .summary import evaluation_curves, evaluation_figures
from .threed_benchmark import THREED_METHODS, ThreedBenchmarkSettings, benchmark_threed, threed_table
from .truth import Compared, Truth

__all__ = [
    "QUICK_DIAGNOSTICS",
    "RANDOM_ORIENTATIONS_DEG",
    "THREED_METHODS",
    "AngleProfile",
    "AttentionDiagnostics",
    "AttentionMap",
    "ClassTile",
    "Compared",
    "DemoResult",
    "DiagnosticSettings",
    "FileWritten",
    "Gallery",
    "GalleryRow",
    "GuardCheck",
    "GuardResult",
    "GuardSettings",
    "Histogram",
    "KeyFigure",
    "Neighbour",
    "NeighbourBenchmarkSettings",
    "Neighbourhood",
    "Notice",
    "OrientationErrors",
    "RadialCurve",
    "RadialCurves",
    "ReportContent",
    "StageTime",
    "ThreedBenchmarkSettings",
    "Truth",
    "Verdict",
    "adjusted_rand_index",
    "angle_error_deg",
    "attention_classes",
    "attention_table",
    "benchmark_attention",
    "benchmark_neighbours",
    "benchmark_threed",
    "best_linear_scale",
    "class_average_angles_deg",
    "class_report",
    "correlation_angles_deg",
    "diagnose_attention",
    "evaluate",
    "evaluation_curves",
    "evaluation_figures",
    "fourier_ring_correlation",
    "frc_resolution_A",
    "guard_report",
    "guard_stack",
    "map_report",
    "neighbour_angles_deg",
    "neighbour_benchmark_table",
    "neighbour_report",
    "orientation_errors",
    "psnr",
    "radial_power",
    "register_orientations",
    "relative_mse",
    "relative_mse_per_image",
    "report_html",
    "require_correspondence",
    "ring_products",
    "rotation_self_similarity",
    "run_demo",
    "run_report",
    "shell_correlation_picture",
    "shell_gain",
    "ssim",
    "threed_table",
    "true_angles_deg",
    "verdict",
    "write_report",
]
