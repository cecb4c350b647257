"""Neighbours that nobody clustered: how far their views lie, and what joint denoising makes of them.

One structure is seen from uniform directions. Rows: the nearest that exist, those nearest in the network's
embedding, by the likelihood ratio under the stack's own covariance, and by both as `polarice denoise` takes
them. Below, the error of the stack denoised jointly with the latter, and that of a covariance Wiener filter
with the same covariance, about the centres that the network has found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polarice.conventions import view_angle_deg
from polarice.denoising import attend_graph, encode_stack
from polarice.devices import keep_freed_memory
from polarice.models import PolarTransformer, load_model
from polarice.models.centring import moved
from polarice.neighbours import DiscHarmonics, StackCovariance, find_companions
from polarice.simulation import SamplerConfig, SetSampler, StructureBank
from polarice.simulation.views import random_rotations

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures_test.npz"
SET = 16


def sampler(bank: StructureBank, name: str, snr: float, ctf: bool) -> SetSampler:
    """Images of one structure, all of one size and sharpness."""
    config = SamplerConfig(
        set_size=SET,
        snr=(snr, snr),
        ctf=float(ctf),
        defocus_A=(10_000.0, 25_000.0),
        max_shift_px=3.0 if ctf else 0.0,
        diameter=(0.6, 0.6),
        blur_px=(0.7, 0.7),
        crowded=0.0,
        masked=0.0,
        divided=0.0,
    )
    return SetSampler(bank.subset([bank.index(name)]), config, seed=0)


def relative_mse(images: Tensor, clean: Tensor) -> float:
    """Mean over images."""
    return float(((images - clean).square().sum((1, 2)) / clean.square().sum((1, 2))).mean())


@torch.inference_mode()
def measure(network: PolarTransformer, source: SetSampler, n: int, k: int) -> dict[str, float]:
    """All figures of one stack."""
    rotations = random_rotations(n // SET * SET, torch.Generator().manual_seed(5)).unflatten(0, (-1, SET))
    batches = [source.batch(i, 1, rotations[i : i + 1]) for i in range(len(rotations))]
    clean = torch.cat([batch.clean[0] for batch in batches])
    rotations, n = rotations.flatten(0, 1), len(clean)
    one = np.zeros(n, np.int64)
    cpu = torch.device("cpu")
    with tempfile.TemporaryDirectory() as name, torch.autocast("cpu", torch.bfloat16):
        seen = ((batch.noisy[0], batch.ctf[0]) for batch in batches)
        encoded = encode_stack(network, seen, n, Path(name), lambda done: None)
        views = encoded.views
        harmonics = DiscHarmonics(clean.shape[-1])
        companions = find_companions(harmonics, views, k, one, one, cpu)
        blind = views._replace(embedding=np.zeros_like(views.embedding))
        ratio = find_companions(harmonics, blind, k, one, one, cpu)
        centre = torch.from_numpy(encoded.state.centre.copy())
        result = attend_graph(
            network, encoded, companions.rows, one, Path(name), cpu, lambda index, done: None
        )
        joint = torch.from_numpy(np.array(result.images))
        spectra = harmonics.moved(torch.from_numpy(np.array(views.spectra)), -torch.from_numpy(views.centre))
        filtered, passed = harmonics.analyse_spectra(spectra), torch.from_numpy(np.array(views.passed))
    covariance = StackCovariance(harmonics.orders)
    covariance.add(filtered, passed.float())
    wiener = harmonics.synthesise(covariance.wiener(filtered, passed.float()))
    cosine = torch.from_numpy(views.embedding @ views.embedding.T).fill_diagonal_(-2)
    angle = torch.cat([view_angle_deg(rows[:, None], rotations) for rows in rotations.split(256)])

    def median(table: Tensor) -> float:
        return float(angle.gather(1, table).median())

    return {
        "nearest": median(angle.clone().fill_diagonal_(999.0).topk(k, largest=False).indices),
        "embedding": median(cosine.topk(k).indices),
        "likelihood ratio": median(torch.from_numpy(ratio.rows)),
        "both": median(torch.from_numpy(companions.rows)),
        "joint": relative_mse(joint, clean),
        "covariance Wiener filter": relative_mse(moved(wiener, centre), clean),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="polar-transformer-64")
    parser.add_argument("--bank", type=Path, default=DATA)
    parser.add_argument("--structures", nargs="+", default=["1FDO", "6BQN"])
    parser.add_argument("--particles", type=int, default=2048)
    parser.add_argument("--neighbours", type=int, default=16)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.03])
    parser.add_argument("--no-ctf", action="store_true", help="neither CTF nor shifts")
    arguments = parser.parse_args()
    keep_freed_memory()
    bank = StructureBank.load(arguments.bank)
    network, _ = load_model(arguments.model)
    assert isinstance(network, PolarTransformer)
    rows = []
    for name in arguments.structures:
        for snr in arguments.snr:
            source = sampler(bank, name, snr, not arguments.no_ctf)
            found = measure(network, source, arguments.particles, arguments.neighbours)
            if not rows:
                print("| structure | SNR | " + " | ".join(found) + " |\n" + "|---" * (2 + len(found)) + "|")
            figures = [
                f"{value:.1f}°" if index < 4 else f"{value:.3f}" for index, value in enumerate(found.values())
            ]
            print(f"| {name} | {snr:g} | " + " | ".join(figures) + " |", flush=True)
            rows.append({"structure": name, "snr": snr, **found})
    print("\n" + json.dumps({"particles": arguments.particles, "rows": rows}))


if __name__ == "__main__":
    main()
