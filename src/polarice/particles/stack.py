"""The particle stack that a user brings: a STAR file, a cryoSPARC file or a bare MRC stack, read lazily.

Nothing is read from the stack files until images or their box are asked for, so that a broken stack
can be opened and described.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import ParticleFileError, PolariceError
from .cryosparc import Dataset, read_cs
from .cryosparc_star import star_tables
from .geometry import Geometry
from .image_names import ImageNames, StackLocator, parse_image_names
from .metadata import ParticleMetadata, find_particle_table, require_pixel_size
from .mrc import MrcHeader, MrcReader, read_header
from .star import StarTable, read_star

__all__ = ["ParticleStack", "StackFormat"]

StackFormat = Literal["RELION 3.1", "RELION 3.0", "cryoSPARC", "MRC"]

_RELION_31 = 30001


class ParticleStack(ParticleMetadata):
    """Particles with their metadata; made by `ParticleStack.open`.

    Attributes
    ----------
    path : Path
        The STAR, cryoSPARC or MRC file.
    format : str
        "RELION 3.1" (and later), "RELION 3.0", "cryoSPARC" or "MRC".
    tables : list of StarTable
        Every block of the STAR file in its order, or what a cryoSPARC file says in RELION 3.1's terms;
        empty for a bare stack.
    particles, optics : StarTable or None
        The particle table, and the optics table where there is one.
    version : int or None
        RELION's version number from the STAR file.
    names : ImageNames
        Stack file and index of each particle.
    dataset : Dataset or None
        All that a cryoSPARC file and its passthrough file say, shape (n,).
    """

    def __init__(
        self,
        path: Path,
        stack_format: StackFormat,
        tables: list[StarTable],
        names: ImageNames,
        *,
        version: int | None = None,
        pixel_size_A: float | None = None,
        dataset: Dataset | None = None,
    ) -> None:
        super().__init__(path, tables, len(names.index), pixel_size_A)
        self.format = stack_format
        self.names = names
        self.version = version
        self.dataset = dataset
        self._reader = MrcReader()

    @classmethod
    def open(
        cls, path: str | Path, *, pixel_size_A: float | None = None, passthrough: str | Path | None = None
    ) -> ParticleStack:
        """Open a particle stack without touching its pixels.

        Parameters
        ----------
        path : path-like
            ``.star`` (RELION 3.0, 3.1 or later), ``.cs`` (cryoSPARC), ``.mrcs`` or ``.mrc``.
        pixel_size_A : float, optional
            Å per pixel; overrides what the files say.
        passthrough : path-like, optional
            Passthrough file of a ``.cs`` file; found by its name by default.

        Raises
        ------
        ParticleFileError
            If the STAR or cryoSPARC file is unreadable or names no images, or the bare stack is broken.
        """
        path = Path(path)
        if pixel_size_A is not None:
            require_pixel_size(pixel_size_A, path)
        suffix = path.suffix.lower()
        if suffix in (".mrcs", ".mrc"):
            count = read_header(path).shape[0]
            names = ImageNames([str(path.absolute())], np.zeros(count, np.int32), np.arange(count))
            return cls(path, "MRC", [], names, pixel_size_A=pixel_size_A)
        if suffix == ".cs":
            dataset = read_cs(path, passthrough)
            tables = star_tables(dataset, path)
            names = parse_image_names(tables[1].columns["rlnImageName"])
            return cls(
                path, "cryoSPARC", tables, names,
                version=_RELION_31, pixel_size_A=pixel_size_A, dataset=dataset,
            )  # fmt: skip
        if suffix != ".star":
            raise ParticleFileError(
                f"is no particle stack: '{path.suffix}' files are not read", path=path,
                hint="Give a .star, .cs, .mrcs or .mrc file",
            )  # fmt: skip
        tables, version = read_star(path)
        particles = find_particle_table(path, tables)
        has_optics = any(t.name == "optics" for t in tables) or "rlnOpticsGroup" in particles.columns
        modern = has_optics or particles.name == "particles"
        names = parse_image_names(particles.columns["rlnImageName"])
        stack_format: StackFormat = "RELION 3.1" if modern else "RELION 3.0"
        return cls(path, stack_format, tables, names, version=version, pixel_size_A=pixel_size_A)

    @cached_property
    def locator(self) -> StackLocator:
        """Finds the stack files."""
        return StackLocator(self.path, self.names.files)

    def stack_header(self, file: int) -> MrcHeader:
        """Header of stack file number ``file`` in `names.files`.

        Raises
        ------
        ParticleFileError
            If the file is missing or broken, with the first row that needs it.
        """
        name = self.names.files[file]
        path = self.locator.find(name)
        if path is None:
            row = int(np.flatnonzero(self.names.file == file)[0]) + 1
            raise ParticleFileError(
                f"stack file {name} does not exist; looked in {self.locator.places(name)}",
                path=self.path, row=row,
                hint=f"Put the {self.path.suffix} file into its project folder, or run polarice there",
            )  # fmt: skip
        return self._reader.header(path)

    @cached_property
    def box(self) -> int:
        """Side in pixels of the images as they are read, from the header of the first stack file.

        Optics groups may have boxes of their own (``rlnImageSize``), which are brought to one.

        Raises
        ------
        ParticleFileError
            If there is no particle, its stack file is missing or broken, or the images are not square.
        """
        known = self.names.file[self.names.file >= 0]
        if not len(known):
            raise ParticleFileError("names no image", path=self.path)
        header = self.stack_header(int(known[0]))
        if header.shape[1] != header.shape[2]:
            raise ParticleFileError(
                f"images of {header.shape[1]} x {header.shape[2]} pixels are not square", path=header.path
            )
        if self._own_boxes is None:
            return header.shape[1]
        return Geometry.common(self._own_boxes, self.own_pixels * self.pixel_size_A).box

    @cached_property
    def _own_boxes(self) -> NDArray[np.int64] | None:
        """Side of each particle's own image, shape (n,); None where all are alike."""
        boxes = self.numeric("rlnImageSize")
        if boxes is None or not (np.isfinite(boxes) & (boxes > 0)).all():
            return None
        alike = np.ptp(self.own_pixels) == 0 and np.ptp(boxes) == 0
        return None if alike else boxes.astype(np.int64)

    @property
    def several_geometries(self) -> bool:
        """Whether optics groups differ in box or pixel size, so that reading resamples images."""
        return self._own_boxes is not None

    def images(self, rows: slice | ArrayLike) -> NDArray[np.float32]:
        """Images of some particles, in the order asked for, all of one box and pixel size.

        Parameters
        ----------
        rows : slice or integer array
            Rows of the particle table, counted from 0.

        Returns
        -------
        ndarray, shape (n, y, x), float32
            In the file's own grey scale. Where optics groups differ in box or pixel size, they are cropped
            and resampled to the smallest field of view and the coarsest pixel.

        Raises
        ------
        ParticleFileError
            If a stack file is missing or broken, or has no such image.
        """
        wanted = self.rows(rows)
        out = np.empty((len(wanted), self.box, self.box), dtype=np.float32)
        geometry = Geometry(self.box, self.pixel_size_A)
        files = self.names.file[wanted]
        for file in np.unique(files):
            places = np.flatnonzero(files == file)
            if file < 0:
                raise self.bad_name(int(wanted[places[0]]))
            header = self.stack_header(int(file))
            own = None if self._own_boxes is None else int(self._own_boxes[wanted[places[0]]])
            if header.shape[1:] != (own or self.box, own or self.box):
                row = int(wanted[places[0]]) + 1
                raise ParticleFileError(
                    f"{header.path} has a box of {header.shape[1]} x {header.shape[2]}, "
                    f"{'its optics group' if own else 'others'} have {own or self.box}",
                    path=self.path, row=row,
                )  # fmt: skip
            index = self.names.index[wanted[places]]
            if index.max() >= header.shape[0]:
                raise self.past_end(int(wanted[places[index.argmax()]]), header)
            read = self._reader.read(header.path, index)
            if own is None:
                out[places] = read
                continue
            scales = self.own_pixels[wanted[places]]
            for scale in np.unique(scales):
                out[places[scales == scale]] = geometry.bring(
                    read[scales == scale], scale * self.pixel_size_A
                )
        return out

    def bad_name(self, row: int) -> ParticleFileError:
        """Error for a row (counted from 0) whose image name makes no sense."""
        name = (self.column("rlnImageName") or [""] * len(self))[row]
        return ParticleFileError(
            f"image name '{name}' is not of the form 000001@stack.mrcs", path=self.path, row=row + 1
        )

    def past_end(self, row: int, header: MrcHeader) -> ParticleFileError:
        """Error for a row (counted from 0) that asks for an image past the end of its stack."""
        index = int(self.names.index[row]) + 1
        return ParticleFileError(
            f"asks for image {index} of {header.path}, which has {header.shape[0]}",
            path=self.path, row=row + 1,
        )  # fmt: skip

    def pixel_sizes_A(self) -> NDArray[np.float64] | None:
        """Pixel size of each particle as the files say it, shape (n,); None where they do not.

        A bare stack's comes from its header; that of another file never does, because many programs write
        1 there when they do not know it.
        """
        if self.format != "MRC":
            return super().pixel_sizes_A()
        size = self.stack_header(0).pixel_size_A
        return np.full(len(self), size) if size > 0 else None

    def problems(self) -> list[PolariceError]:
        """Everything that would stop a run, found without reading pixels.

        Returns
        -------
        list of PolariceError
            Empty for a stack that is whole; each file and each kind of fault is named once, with its
            first row.
        """
        from .preflight import find_problems

        return find_problems(self)
