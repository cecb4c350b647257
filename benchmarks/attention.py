"""Angular attention: agreement of its forms, and time and memory of the fast ones.

Agreement is measured in float64 with a mask, a null key and mirrored keys. Time and working memory are
measured in a fresh process each, in float32 with C N = 1024 and M = 256: working memory is the peak of the
resident memory beyond the inputs and the output. A set whose scores and weights alone would fill
``--limit-gb`` is left to the streamed form. Prints a Markdown table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from polarice.polar import angular_attention
from polarice.polar.attention import Method

CHANNELS, RADII, ANGLES = 16, 64, 256


def agreement() -> dict[str, float]:
    """Largest difference of each fast form from the direct one."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    query, key, value = draw(2, 7, 3, 8, 32), draw(2, 9, 3, 8, 32), draw(2, 9, 4, 8, 32)
    options: dict[str, Any] = {
        "mask": torch.rand(2, 7, 9, generator=generator) > 0.3,
        "null_logit": torch.tensor(0.5, dtype=torch.float64),
        "mirror": True,
    }
    direct = angular_attention(query, key, value, method="direct", **options).output
    fft = angular_attention(query, key, value, method="fft", **options).output
    streamed = angular_attention(query, key, value, method="streamed", block=4, **options).output
    return {"fft": float((fft - direct).abs().max()), "streamed": float((streamed - direct).abs().max())}


def measure(method: Method, size: int) -> dict[str, float]:
    """Seconds and working memory of one call in this process."""
    features = torch.randn(1, size, CHANNELS, RADII, ANGLES)
    with torch.no_grad():
        # Libraries load and threads start on the first call.
        angular_attention(features[:, :2], features[:, :2], features[:, :2], method=method)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        output = angular_attention(features, features, features, method=method).output
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024
    beyond = (peak - before) * unit - output.numel() * output.element_size()
    return {"seconds": round(seconds, 3), "working_gb": round(beyond / 1e9, 3)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 128, 1000], help="images in the set, K")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-gb", type=float, default=4.0, help="leave larger sets to the streamed form")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "K"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        method, size = arguments.measure
        print(json.dumps(measure(method, int(size))))
        return

    differences = agreement()
    rows = []
    for size in arguments.sizes:
        for method in ("fft", "streamed"):
            # Products, scores and weights of all pairs at once, beside the spectra.
            if method == "fft" and 5 * size**2 * ANGLES * 4 / 1e9 > arguments.limit_gb:
                continue
            command = [sys.executable, __file__, "--threads", str(arguments.threads)]
            done = subprocess.run(
                [*command, "--measure", method, str(size)], capture_output=True, text=True, check=True
            )
            gflop = 2 * size**2 * CHANNELS * RADII * (ANGLES // 2 + 1) * 8 / 1e9
            rows.append({"form": method, "k": size, "gflop": round(gflop, 2), **json.loads(done.stdout)})

    print(f"Angular attention, C N = {CHANNELS * RADII}, M = {ANGLES}, {arguments.threads} thread(s)\n")
    print("Largest difference from the direct form, float64: ", end="")
    print(", ".join(f"{name} {value:.1e}" for name, value in differences.items()) + "\n")
    print("| form | K | GFLOP | seconds | working memory (GB) |")
    print("|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(str(row[name]) for name in row) + " |")
    figures = {
        "benchmark": "attention",
        "threads": arguments.threads,
        "difference": differences,
        "rows": rows,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
