"""Particle stacks going out: ``name.mrcs`` and ``name.star`` that appear only when whole.

With a source, its tables are kept: row order, unknown columns and blocks, and the RELION version. One that
came from cryoSPARC gets ``name.cs`` too, with every field of its own.
Without one, or from a bare stack, RELION 3.1 tables are made of what is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..errors import OutputError
from ..files import writing
from .cryosparc import Dataset, write_cs
from .metadata import ParticleMetadata
from .mrc_writer import MrcStackWriter
from .stack import ParticleStack
from .star import StarTable, format_values, write_star
from .star_cryosparc import with_images, with_marks

__all__ = ["ParticleWriter", "denoised_columns"]

Columns = Mapping[str, Any]
_RELION_31 = 30001


class ParticleWriter:
    """Streams images into ``name.mrcs`` and writes ``name.star`` beside it, for cryoSPARC ``name.cs`` too.

    Used as a context manager. On success the files get their names, the STAR file last; when an
    exception leaves the block, or images are missing, nothing is left.

    Parameters
    ----------
    folder : path-like
        Must exist.
    name : str
        Name of the files without a suffix.
    box : int
        Side of the images in pixels.
    pixel_size_A : float
        Å per pixel.
    source : ParticleStack, optional
        Whose tables are kept.
    rows : array-like of int, optional
        Rows of the source that are written, counted from 0; all by default.
    particles, optics : mapping of str to scalar or sequence, optional
        Columns to set in the particle and in the optics table, named without the underscore; a scalar
        is for all rows. Text is written as it is. Image names, box and pixel size are always set.
    overwrite : bool
        Replace files of these names.

    Raises
    ------
    OutputError
        If the folder is absent, a file is there already, or an output would replace the source.
    """

    def __init__(
        self,
        folder: str | Path,
        name: str,
        *,
        box: int,
        pixel_size_A: float,
        source: ParticleStack | None = None,
        rows: ArrayLike | None = None,
        particles: Columns | None = None,
        optics: Columns | None = None,
        overwrite: bool = False,
    ) -> None:
        folder = Path(folder)
        self.star_path = folder / f"{name}.star"
        self.stack_path = folder / f"{name}.mrcs"
        self.cs_path = None if source is None or source.dataset is None else folder / f"{name}.cs"
        if not folder.is_dir():
            raise OutputError("the output folder does not exist", path=folder)
        for path in self.paths:
            if path.exists() and not overwrite:
                raise OutputError(
                    "the file exists already", path=path, hint="Choose another folder, or say --overwrite"
                )
        if source is not None:
            self._keep_source(source)
        self.box = box
        self.pixel_size_A = pixel_size_A
        self.source = source
        self._rows = None if source is None else source.rows(slice(None) if rows is None else rows)
        self._particles = dict(particles or {})
        self._optics = dict(optics or {})
        self._stack = MrcStackWriter(self.stack_path, box, pixel_size_A)

    @property
    def paths(self) -> dict[Path, str]:
        """What is written, and what it is."""
        paths = {self.star_path: "particles", self.stack_path: "their images"}
        return paths if self.cs_path is None else {**paths, self.cs_path: "particles, for cryoSPARC"}

    def _keep_source(self, source: ParticleStack) -> None:
        """Raise if an output would replace a file that it is made from."""
        outputs = {path.resolve() for path in self.paths}
        namesakes = [name for name in source.names.files if Path(name).name == self.stack_path.name]
        inputs = [source.path, *(source.locator.find(name) for name in namesakes)]
        for path in inputs:
            if path is not None and path.resolve() in outputs:
                raise OutputError(
                    "would be replaced by what is made from it", path=path, hint="Choose another folder"
                )

    def __enter__(self) -> Self:
        self._stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stack.discard()
            return
        try:
            self._finish()
        except BaseException:
            self._stack.discard()
            raise

    def append(self, images: ArrayLike) -> None:
        """Write the next images, shape (n, box, box) or (box, box).

        Raises
        ------
        OutputError
            If the shape is another one, a value is not finite, or the disk refuses.
        """
        self._stack.append(images)

    def set_columns(self, *, particles: Columns | None = None, optics: Columns | None = None) -> None:
        """Set further columns, which need be known only before the block ends."""
        self._particles.update(particles or {})
        self._optics.update(optics or {})

    def _finish(self) -> None:
        count = self._stack.count
        if self._rows is not None and count != len(self._rows):
            raise OutputError(f"{count} images were written for {len(self._rows)} rows", path=self.stack_path)
        self._stack.finish()
        tables, version = self._tables(count)
        # The STAR file comes last: where it is, the stack that it names is whole.
        finals = [path for path in (self.stack_path, self.cs_path, self.star_path) if path is not None]
        partials = [path.with_name(path.name + ".partial") for path in finals]
        try:
            write_star(partials[-1], tables, version=version)
            if self.cs_path is not None:
                write_cs(partials[1], self._dataset(tables, count))
            with writing(self.star_path):
                for partial, final in zip(partials, finals, strict=True):
                    partial.replace(final)
        finally:
            for partial in partials[1:]:
                partial.unlink(missing_ok=True)

    # -- tables -------------------------------------------------------------------------------------

    def _tables(self, count: int) -> tuple[list[StarTable], int | None]:
        names = [f"{k:06d}@{self.stack_path.name}" for k in range(1, count + 1)]
        source = self.source
        if source is None or source.particles is None:
            # RELION wants an optics group for each row; what the caller says comes after.
            columns: Columns = {"rlnImageName": names, "rlnOpticsGroup": 1} | self._particles
            particles = self._with(StarTable("particles", {}), columns, count)
            return [self._new_optics(), particles], _RELION_31
        assert self._rows is not None
        particles = source.particles.take(self._rows.tolist())
        changes = {"rlnImageName": names} | self._scale_changes(particles) | self._particles
        if source.format == "RELION 3.0":
            # There is no optics table to say it in.
            changes = self._optics | changes
        particles = self._with(particles, changes, count)
        tables = [particles if t is source.particles else t for t in source.tables]
        if source.format == "RELION 3.1" and source.optics is None:
            return [self._new_optics(), *tables], source.version or _RELION_31
        if source.optics is not None:
            optics = self._with(source.optics, self._optics_columns(), len(source.optics))
            tables = [optics if t is source.optics else t for t in tables]
        return tables, source.version or (_RELION_31 if source.format == "RELION 3.1" else None)

    def _dataset(self, tables: list[StarTable], count: int) -> Dataset:
        """The source's rows with the new images, and what the tables say that cryoSPARC does not know."""
        assert self.source is not None
        assert self.source.dataset is not None
        rows = self.source.dataset[self._rows]
        dataset = with_images(rows, self.stack_path.name, box=self.box, pixel_size_A=self.pixel_size_A)
        return with_marks(dataset, ParticleMetadata(self.star_path, tables, count))

    def _new_optics(self) -> StarTable:
        # RELION refuses an optics table without voltage and Cs; 0 says that they are not known.
        columns: dict[str, Any] = {
            "rlnOpticsGroupName": "opticsGroup1",
            "rlnOpticsGroup": 1,
            "rlnVoltage": 0.0,
            "rlnSphericalAberration": 0.0,
        }
        columns |= self._optics_columns()
        count = max((len(v) for v in columns.values() if not isinstance(v, str) and np.ndim(v)), default=1)
        return self._with(StarTable("optics", {}), columns, count)

    def _optics_columns(self) -> dict[str, Any]:
        given = {
            "rlnImagePixelSize": self.pixel_size_A,
            "rlnImageSize": self.box,
            "rlnImageDimensionality": 2,
        }
        return given | self._optics

    def _scale_changes(self, particles: StarTable) -> dict[str, Any]:
        """Particle-level columns that say box or pixel size, where these have changed."""
        assert self.source is not None
        changes: dict[str, Any] = {}
        has = particles.columns.__contains__
        for name in filter(has, ("rlnImagePixelSize", "rlnPixelSize")):
            changes[name] = self.pixel_size_A
        if has("rlnImageSize"):
            changes["rlnImageSize"] = self.box
        said = self.source.pixel_sizes_A()
        if self.source.format == "RELION 3.0" and (
            said is None or not np.allclose(said, self.pixel_size_A, rtol=1e-6)
        ):
            detector_um = np.array(particles.columns.get("rlnDetectorPixelSize", ["5"]), dtype=np.float64)
            changes["rlnDetectorPixelSize"] = detector_um[0]
            changes["rlnMagnification"] = detector_um[0] * 1e4 / self.pixel_size_A
        # How many new pixels an old one is.
        scale = self.source.own_pixels[self._rows] * self.source.pixel_size_A / self.pixel_size_A
        if np.abs(scale - 1).max() > 1e-6:
            for name in filter(has, ("rlnOriginX", "rlnOriginY")):
                changes[name] = np.array(particles.columns[name], dtype=np.float64) * scale
        return changes

    def _with(self, table: StarTable, columns: Columns, count: int) -> StarTable:
        text = {name: format_values(values, count) for name, values in columns.items()}
        for name, values in text.items():
            if len(values) != count:
                raise OutputError(
                    f"column _{name} has {len(values)} values for {count} rows", path=self.star_path
                )
        return table.with_columns(text)


def denoised_columns(source: ParticleStack, *, phase_flipped: bool) -> dict[str, dict[str, Any]]:
    """Columns that mark a stack as denoised, as keywords for `ParticleWriter`.

    Parameters
    ----------
    source : ParticleStack
        What was denoised.
    phase_flipped : bool
        Whether the CTF's sign changes were undone on the way.

    Returns
    -------
    dict
        ``particles`` with ``polariceDenoised`` 1, and half sets that were not there; ``optics`` with
        ``rlnCtfDataArePhaseFlipped`` 1 where the images are phase-flipped now and the source did not say so.
    """
    optics = {"rlnCtfDataArePhaseFlipped": 1} if phase_flipped and not source.phase_flipped else {}
    particles: dict[str, Any] = {"polariceDenoised": 1}
    if source.given_half_sets is not None:
        particles["rlnRandomSubset"] = source.given_half_sets
    return {"particles": particles, "optics": optics}
