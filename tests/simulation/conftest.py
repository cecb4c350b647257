"""Phantoms with closed forms, and RELION as a separate program."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.simulation.volume import Volume, write_map


@dataclass(frozen=True)
class Phantom:
    """A chiral heap of round Gaussians, lengths in pixels."""

    box: int
    centres: Tensor
    heights: Tensor
    sigma: float

    @classmethod
    def random(cls, box: int, sigma: float = 2.0, seed: int = 0) -> "Phantom":
        g = torch.Generator().manual_seed(seed)
        direction = torch.randn(12, 3, generator=g, dtype=torch.float64)
        radius = torch.rand(12, 1, generator=g, dtype=torch.float64) * (box / 2 - 6 * sigma)
        heights = torch.rand(12, generator=g, dtype=torch.float64) + 0.2
        return cls(box, direction / direction.norm(dim=1, keepdim=True) * radius, heights, sigma)

    def _profiles(self, positions: Tensor) -> Tensor:
        axis = torch.arange(self.box, dtype=torch.float64) - self.box // 2
        return torch.exp(-((axis - positions[..., None]) ** 2) / (2 * self.sigma**2))

    def volume(self, pixel_size_A: float = 1.0, dtype: torch.dtype = torch.float64) -> Volume:
        x, y, z = self._profiles(self.centres.T)
        density = torch.einsum("n,nz,ny,nx->zyx", self.heights, z, y, x)
        return Volume(density.to(dtype), pixel_size_A)

    def projections(self, rotations: Tensor, shifts_px: Tensor | None = None) -> Tensor:
        """Exact sums over z of the rotated phantom, moved by ``shifts_px`` (b, 2)."""
        seen = torch.einsum("bij,nj->bni", rotations.double(), self.centres)[..., :2]
        if shifts_px is not None:
            seen = seen + shifts_px.double()[:, None]
        x, y = self._profiles(seen[..., 0]), self._profiles(seen[..., 1])
        return torch.einsum("n,bny,bnx->byx", self.heights, y, x) * (2 * np.pi) ** 0.5 * self.sigma


@pytest.fixture(scope="session")
def phantom() -> type[Phantom]:
    return Phantom


def relative_squared_error(found: Tensor, true: Tensor) -> float:
    return float(((found.double() - true.double()) ** 2).sum() / (true.double() ** 2).sum())


@pytest.fixture(scope="session")
def squared_error() -> Callable[[Tensor, Tensor], float]:
    return relative_squared_error


class Relion:
    """RELION's programs in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [program, *arguments], cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def project(
        self, volume: Volume, columns: dict[str, Tensor], *options: str, optics: str = "300 2.7 0.1"
    ) -> Tensor:
        """Images that `relion_project` makes of a volume for the rows of a particle table.

        ``optics`` are kV, mm and the amplitude contrast.
        """
        write_map(self.folder / "in.mrc", volume)
        names = ["rlnImageName", "rlnOpticsGroup", *columns]
        n = len(next(iter(columns.values())))
        lines = ["# version 30001", "", "data_optics", "", "loop_"]
        lines += ["_rlnOpticsGroup", "_rlnVoltage", "_rlnSphericalAberration", "_rlnAmplitudeContrast"]
        lines += ["_rlnImagePixelSize", "_rlnImageSize", "_rlnImageDimensionality"]
        lines += [f"1 {optics} {volume.pixel_size_A} {volume.box} 2", "", "# version 30001", ""]
        lines += ["data_particles", "", "loop_", *(f"_{name}" for name in names)]
        for i in range(n):
            values = " ".join(f"{float(column[i]):.6f}" for column in columns.values())
            lines.append(f"{i + 1:06d}@absent.mrcs 1 {values}")
        (self.folder / "in.star").write_text("\n".join(lines) + "\n\n")
        self.run("relion_project", "--i", "in.mrc", "--o", "out", "--ang", "in.star", *options)
        with mrcfile.open(self.folder / "out.mrcs") as file:
            return torch.from_numpy(np.array(file.data, np.float64))


@pytest.fixture
def relion(tmp_path: Path) -> Relion:
    if shutil.which("relion_project") is None:
        pytest.skip("RELION is not installed")
    folder = tmp_path / "relion"
    folder.mkdir()
    return Relion(folder)
