"""Kills `polarice denoise` at random moments, and holds what a resumed run leaves against a whole one.

Prints one line a kill: how far the run had come, and whether all files are the same to the bit (times in the
record aside).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from polarice.simulation import example_structure, simulate


def command(stack: Path, out: Path, *options: str) -> list[str]:
    """A run of its own."""
    program = "from polarice.cli import main; main()"
    return [sys.executable, "-c", program, "denoise", str(stack), "--out", str(out), "--quiet", *options]


def fingerprint(out: Path) -> dict[str, str]:
    """Of what each file of a folder holds."""
    found = {}
    for path in sorted(out.iterdir()):
        digest = hashlib.sha256()
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                for name in arrays.files:
                    digest.update(arrays[name].tobytes())
        elif path.suffix == ".json":
            record = json.loads(path.read_text())
            for name in ("seconds", "images_per_s", "files"):
                del record["figures"][name]
            digest.update(json.dumps(record).encode())
        elif path.suffix != ".html":  # the page names the folder and times
            digest.update(path.read_bytes())
        found[path.name] = digest.hexdigest()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--particles", type=int, default=2048)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--model", default="polar-transformer-64")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = simulate(
            example_structure(), folder / "simulated", particles=arguments.particles, snr=0.1, ctf=True
        )
        model = ("--model", arguments.model)
        start = time.monotonic()
        subprocess.run(command(made.particles, folder / "whole", *model), check=True)
        seconds = time.monotonic() - start
        whole = fingerprint(folder / "whole")
        print(f"{arguments.particles} particles, a whole run takes {seconds:.0f} s")
        same = 0
        for number in range(arguments.kills):
            out = folder / "killed"
            shutil.rmtree(out, ignore_errors=True)
            after = moments.uniform(0, seconds)
            run = subprocess.Popen(command(made.particles, out, *model))
            time.sleep(after)
            run.kill()
            run.wait()
            journal = out / ".unfinished" / "journal-0"
            done = len(journal.read_text().splitlines()) if journal.exists() else 0
            last = journal.read_text().splitlines()[-1] if done > 1 else "nothing on record"
            ended = (out / "denoise.json").exists() and not journal.exists()
            if not ended:
                subprocess.run(command(made.particles, out, *model, "--resume"), check=True)
            equal = fingerprint(out).items() >= {k: v for k, v in whole.items() if k != "report.html"}.items()
            same += equal
            verdict = "the same" if equal else "DIFFERENT"
            when = "it had ended" if ended else last
            print(f"{number + 1}: after {after:.1f} s ({when}): {verdict}", flush=True)
    print(f"{same} of {arguments.kills} resumed runs left the same to the bit")
    sys.exit(same != arguments.kills)


if __name__ == "__main__":
    main()
