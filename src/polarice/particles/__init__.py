"""What a user brings and takes away: particle stacks, their files, and their preprocessing."""

from .convert import Conversion, convert_metadata
from .cryosparc import Dataset, read_cs, write_cs
from .info import describe, format_description
from .mrc import MrcHeader, MrcReader, read_header
from .mrc_writer import MrcStackWriter
from .noise import noise_spectrum, on_half_spectrum, whitening_filters
from .preprocess import Preprocessor
from .scan import Contrast, ImageStatistics, StackScan, measure, scan
from .stack import ParticleStack
from .star import StarTable, format_values, read_star, write_star
from .tables import origin_columns, particle_tables
from .writer import ParticleWriter, denoised_columns

__all__ = [
    "Contrast",
    "Conversion",
    "Dataset",
    "ImageStatistics",
    "MrcHeader",
    "MrcReader",
    "MrcStackWriter",
    "ParticleStack",
    "ParticleWriter",
    "Preprocessor",
    "StackScan",
    "StarTable",
    "convert_metadata",
    "denoised_columns",
    "describe",
    "format_description",
    "format_values",
    "measure",
    "noise_spectrum",
    "on_half_spectrum",
    "origin_columns",
    "particle_tables",
    "read_cs",
    "read_header",
    "read_star",
    "scan",
    "whitening_filters",
    "write_cs",
    "write_star",
]
