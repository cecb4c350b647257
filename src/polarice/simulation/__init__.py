"""From a molecule to particle images whose truth is known."""

from .bank import StructureBank, build_bank
from .example import example_structure
from .field import FieldResult, field_set
from .molecule import read_molecule
from .noise import add_gaussian_noise, add_poisson_noise, item_generator, noise_std
from .projection import Projector, project_volume
from .sampler import SamplerConfig, SetBatch, SetSampler
from .simulate import SimulationResult, simulate
from .spectrum import NoiseSpectrum, coloured_noise, measure_noise_spectrum
from .splat import element_weights, splat_spectra
from .structure import Structure, read_structure
from .views import cluster_views, uniform_views, view_sets
from .volume import Volume, density_from_structure, read_map, resample_volume, write_map

__all__ = [
    "FieldResult",
    "NoiseSpectrum",
    "Projector",
    "SamplerConfig",
    "SetBatch",
    "SetSampler",
    "SimulationResult",
    "Structure",
    "StructureBank",
    "Volume",
    "add_gaussian_noise",
    "add_poisson_noise",
    "build_bank",
    "cluster_views",
    "coloured_noise",
    "density_from_structure",
    "element_weights",
    "example_structure",
    "field_set",
    "item_generator",
    "measure_noise_spectrum",
    "noise_std",
    "project_volume",
    "read_map",
    "read_molecule",
    "read_structure",
    "resample_volume",
    "simulate",
    "splat_spectra",
    "uniform_views",
    "view_sets",
    "write_map",
]
