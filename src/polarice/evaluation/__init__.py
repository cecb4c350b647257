"""What came out: metrics against the truth, and the report page."""

from .content import (
    AngleProfile,
    AttentionMap,
    FileWritten,
    Gallery,
    GalleryRow,
    GuardCheck,
    Histogram,
    KeyFigure,
    Neighbour,
    Neighbourhood,
    Notice,
    RadialCurve,
    RadialCurves,
    ReportContent,
    StageTime,
)
from .demo import DemoResult, run_demo
from .evaluate import evaluate, require_correspondence
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
from .report import report_html, write_report
from .run_report import run_report
from .summary import evaluation_curves, evaluation_figures

__all__ = [
    "AngleProfile",
    "AttentionMap",
    "DemoResult",
    "FileWritten",
    "Gallery",
    "GalleryRow",
    "GuardCheck",
    "Histogram",
    "KeyFigure",
    "Neighbour",
    "Neighbourhood",
    "Notice",
    "RadialCurve",
    "RadialCurves",
    "ReportContent",
    "StageTime",
    "best_linear_scale",
    "evaluate",
    "evaluation_curves",
    "evaluation_figures",
    "fourier_ring_correlation",
    "frc_resolution_A",
    "psnr",
    "radial_power",
    "relative_mse",
    "relative_mse_per_image",
    "report_html",
    "require_correspondence",
    "ring_products",
    "run_demo",
    "run_report",
    "shell_gain",
    "ssim",
    "write_report",
]
