"""Maps, masks and correlation curves from files and to them."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..errors import PolariceError, StructureError
from ..files import make_folder, prepare_output
from ..particles import StarTable, write_star
from ..simulation import Volume, read_map
from .fsc import MapComparison, compare_maps
from .masks import soft_mask

__all__ = ["compare_map_files", "fsc_tables", "read_mask", "write_fsc"]

_RELION_31 = 30001
_SAME_SIZE = 1.001


def compare_map_files(
    first: str | Path, second: str | Path, mask: str | Path | None = None, *, auto_mask: bool = False
) -> MapComparison:
    """Correlate two maps from files.

    Parameters
    ----------
    first, second : path-like
        MRC maps of one box and pixel size.
    mask : path-like, optional
        A map between 0 and 1.
    auto_mask : bool
        Make a mask from the mean of the two maps.

    Raises
    ------
    PolariceError
        A file is no map, or they do not fit each other.
    """
    if mask is not None and auto_mask:
        raise PolariceError("a mask is given or made, not both")
    one, two = _read(first), _read(second)
    if one.box != two.box:
        raise PolariceError(f"has a box of {two.box} voxels, {Path(first).name} of {one.box}", path=second)
    ratio = one.pixel_size_A / two.pixel_size_A
    if max(ratio, 1 / ratio) > _SAME_SIZE:
        sizes = f"{two.pixel_size_A:.4g} A, {Path(first).name} of {one.pixel_size_A:.4g} A"
        raise PolariceError(f"has voxels of {sizes}", path=second, hint="resample one of the maps")
    within = None if mask is None else read_mask(mask, one.box)
    if auto_mask:
        within = soft_mask(one.density + two.density, one.pixel_size_A)
    return compare_maps(one.density, two.density, one.pixel_size_A, within)


def _read(path: str | Path) -> Volume:
    """Read a map whose values can be compared."""
    volume = read_map(path)
    density = volume.density.float()
    if not bool(density.isfinite().all()):
        raise StructureError("the map has values that are not finite", path=path)
    if float(density.min()) == float(density.max()):
        raise StructureError("the map is constant", path=path)
    return Volume(density, volume.pixel_size_A)


def read_mask(path: str | Path, box: int) -> Tensor:
    """Read a mask.

    Raises
    ------
    PolariceError
        It is no map, of another size, or not between 0 and 1.
    """
    mask = _read(path).density
    if len(mask) != box:
        raise PolariceError(f"a mask of {len(mask)} voxels does not fit a box of {box}", path=path)
    if not (float(mask.min()) >= -1e-3 and float(mask.max()) <= 1 + 1e-3 and float(mask.max()) > 0):
        low, high = float(mask.min()), float(mask.max())
        raise PolariceError(f"a mask lies between 0 and 1, not between {low:g} and {high:g}", path=path)
    return mask.clamp(0, 1)


def fsc_tables(comparison: MapComparison) -> list[StarTable]:
    """The curves as the tables that RELION's postprocessing writes."""
    columns = {
        "corrected": "rlnFourierShellCorrelationCorrected",
        "unmasked": "rlnFourierShellCorrelationUnmaskedMaps",
        "masked": "rlnFourierShellCorrelationMaskedMaps",
        "randomised": "rlnCorrectedFourierShellCorrelationPhaseRandomizedMaskedMaps",
    }
    side_A = comparison.box * comparison.pixel_size_A
    shells = range(len(comparison.unmasked))
    table = {
        "rlnSpectralIndex": [str(shell) for shell in shells],
        "rlnResolution": [f"{shell / side_A:.6f}" for shell in shells],
        "rlnAngstromResolution": [f"{side_A / shell if shell else 999:.6f}" for shell in shells],
    }
    curves = comparison.curves()
    table |= {
        column: [f"{value:.6f}" for value in curves[name].tolist()]
        for name, column in columns.items()
        if name in curves
    }
    general = {"rlnFinalResolution": [f"{comparison.resolution_A():.6f}"]}
    if comparison.randomised_from is not None:
        general["rlnRandomiseFrom"] = [f"{side_A / comparison.randomised_from:.6f}"]
    return [StarTable("general", general, False), StarTable("fsc", table)]


def write_fsc(out: str | Path, comparison: MapComparison, *, overwrite: bool = False) -> Path:
    """Write ``fsc.star`` into a folder, and return its path.

    Raises
    ------
    OutputError
        The folder is not empty, and ``overwrite`` is not given, or cannot be written.
    """
    out = Path(out)
    prepare_output(out, overwrite)
    make_folder(out)
    write_star(out / "fsc.star", fsc_tables(comparison), version=_RELION_31)
    return out / "fsc.star"
