"""What benchmarks ask of ASPIRE: run by a Python that has ASPIRE, and never imported.

ASPIRE (GPL-3.0) and polarice meet in files alone. Prints one JSON line. Reading the input and writing
the result are part of the time that is measured; importing ASPIRE is not.
"""

from __future__ import annotations

import argparse
import json
import time

import aspire
import mrcfile
import numpy as np
from aspire.abinitio import CLSync3N
from aspire.basis import FFBBasis2D
from aspire.classification import BFTAverager2D, RIRClass2D
from aspire.denoising import DenoiserCov2D
from aspire.source import ArrayImageSource


def cwf(source: ArrayImageSource, noise_variance: float) -> tuple[np.ndarray, dict[str, float]]:
    """Covariance Wiener filter in the fast Fourier-Bessel basis, told the true noise variance."""
    basis = FFBBasis2D(source.L, dtype=source.dtype)
    return DenoiserCov2D(source, basis, noise_variance).denoise[:].asnumpy(), {}


def class_average(
    source: ArrayImageSource, neighbours: int, some: np.ndarray | slice = slice(None)
) -> tuple[np.ndarray, dict[str, float]]:
    """Rotationally invariant classification, then averages of aligned images without a shift search."""
    basis = FFBBasis2D(source.L, dtype=source.dtype)
    start = time.perf_counter()
    classes, reflections, _ = RIRClass2D(source, n_nbor=neighbours, seed=0).classify()
    classified = time.perf_counter()
    averager = BFTAverager2D(basis, source, radius=0)
    averages = averager.average(classes[some], reflections[some]).asnumpy()
    return averages, {"classify": classified - start, "average": time.perf_counter() - classified}


def write_stack(path: str, images: np.ndarray, pixel_size_A: float) -> None:
    """Write images (n, y, x) as MRC."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images.astype(np.float32))
        file.set_image_stack()
        file.voxel_size = pixel_size_A


def neighbours(source: ArrayImageSource, count: int) -> tuple[np.ndarray, dict[str, float]]:
    """Rows (n, k) of each image's neighbours as `RIRClass2D` finds them; n is added to mirror images."""
    start = time.perf_counter()
    # A class begins with the image that it is of.
    classes, reflections, _ = RIRClass2D(source, n_nbor=count + 1, seed=0).classify()
    rows = classes[:, 1:] + source.n * reflections[:, 1:]
    return rows, {"classify": time.perf_counter() - start}


def orientations(source: ArrayImageSource) -> tuple[np.ndarray, dict[str, float]]:
    """Rotations (n, 3, 3) from specimen to image coordinates, by common lines without a shift search."""
    # Its own are the inverses.
    rotations = CLSync3N(source, max_shift=0, seed=0).estimate_rotations()
    return rotations.transpose(0, 2, 1), {}


def chain(
    source: ArrayImageSource, denoiser: str, neighbours: int, count: int, noise_variance: float
) -> tuple[np.ndarray, dict[str, float]]:
    """Denoise a stack, and find rotations (count, 3, 3) of some of its images, evenly spread over it.

    The time of common lines grows with the third power of the number of images.
    """
    some = np.linspace(0, source.n - 1, count).round().astype(int)
    start = time.perf_counter()
    if denoiser == "cwf":
        images = cwf(source, noise_variance)[0][some]
    else:
        images = class_average(source, neighbours, some)[0]
    denoised = time.perf_counter()
    rotations, _ = orientations(ArrayImageSource(images, pixel_size=source.pixel_size))
    return rotations, {"denoise": denoised - start, "orient": time.perf_counter() - denoised}


def mean_volume(source: ArrayImageSource, rotations: str) -> tuple[np.ndarray, dict[str, float]]:
    """Least-squares volume (z, y, x) for orientations in a file, with ASPIRE's own defaults."""
    from aspire.reconstruction import MeanEstimator

    start = time.perf_counter()
    source.rotations = np.load(rotations).astype(source.dtype)
    volume = MeanEstimator(source, basis=None).estimate()
    return volume.asnumpy().reshape(source.L, source.L, source.L), {"estimate": time.perf_counter() - start}


def main() -> None:
    """Do one job on one stack after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "job", choices=["cwf", "class-average", "neighbours", "orientations", "chain", "mean"]
    )
    parser.add_argument("files", nargs="+", help="a stack and where its result goes, another stack, …")
    parser.add_argument("--noise-variance", type=float, default=1.0)
    parser.add_argument("--neighbours", type=int, default=8, help="images in a class, K")
    parser.add_argument("--denoiser", choices=["cwf", "class-average"], default="class-average")
    parser.add_argument("--images", type=int, default=100, help="oriented by a chain")
    parser.add_argument("--rotations", help="orientations (n, 3, 3) as .npy, for the mean volume")
    arguments = parser.parse_args()
    done = []
    for path, out in zip(arguments.files[::2], arguments.files[1::2], strict=True):
        start = time.perf_counter()
        with mrcfile.open(path) as file:
            images, pixel_size_A = np.array(file.data, np.float32), float(file.voxel_size.x)
        source = ArrayImageSource(images, pixel_size=pixel_size_A)
        if arguments.job == "cwf":
            result, stages = cwf(source, arguments.noise_variance)
        elif arguments.job == "mean":
            result, stages = mean_volume(source, arguments.rotations)
        elif arguments.job == "neighbours":
            result, stages = neighbours(source, arguments.neighbours)
        elif arguments.job == "orientations":
            result, stages = orientations(source)
        elif arguments.job == "chain":
            told = arguments.denoiser, arguments.neighbours, arguments.images, arguments.noise_variance
            result, stages = chain(source, *told)
        else:
            result, stages = class_average(source, arguments.neighbours)
        if arguments.job == "neighbours":
            np.save(out, result.astype(np.int64))
        elif arguments.job in ("orientations", "chain", "mean"):
            np.save(out, result)
        else:
            write_stack(out, result, pixel_size_A)
        done.append({"images": len(images), "seconds": time.perf_counter() - start, "stages": stages})
    print(json.dumps({"aspire": aspire.__version__, "done": done}))


if __name__ == "__main__":
    main()
