"""Neighbours that nobody clustered: how far their views lie, and what joint denoising makes of them.

One structure is seen from uniform directions. Columns: median angle to the nearest that exist; to those that
somebody would find who knew the molecule and where each particle lies; to those nearest in the network's
embedding; to those found by the stack alone; by both, as `polarice denoise` takes them; and with mirror
images too, which count as views from the other side (the nearest that exist are then nearer by a third). Then
the error of the stack denoised alone, jointly, and by a covariance Wiener filter with the stack's covariance,
about the centres that the network has found.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

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


def with_the_molecule_known(
    harmonics: DiscHarmonics, about: Tensor, passed: Tensor, truth: Tensor, k: int
) -> Tensor:
    """Rows (n, k) of the others whose clean images best explain an image, at any in-plane angle.

    Parameters
    ----------
    harmonics : DiscHarmonics
    about : Tensor, shape (n, h), complex
        Coefficients about the true centres of images filtered by their CTFs.
    passed : Tensor, shape (n, h)
        Squared CTFs.
    truth : Tensor, shape (n, h), complex
        Coefficients of the clean images.
    k : int
    """
    orders = harmonics.orders
    by_order = torch.nn.functional.one_hot(orders).bool().T
    weight = torch.where(orders == 0, 0.5, 1.0)
    found = []
    for rows in torch.arange(len(about)).split(64):
        products = torch.stack([about[rows][:, of] @ truth[:, of].conj().T for of in by_order], -1)
        angles = torch.fft.irfft(products, n=2 * len(by_order), norm="forward")
        likelihood = torch.logsumexp(angles, -1) - passed[rows] @ (weight * truth.abs().square()).T
        likelihood[torch.arange(len(rows)), rows] = -torch.inf
        found.append(likelihood.topk(k).indices)
    return torch.cat(found)


@torch.inference_mode()
def measure(
    network: PolarTransformer, single: nn.Module, source: SetSampler, n: int, k: int
) -> dict[str, float]:
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
        companions = find_companions(harmonics, views, k, one, one, cpu).companions
        blind = views._replace(embedding=np.zeros_like(views.embedding))
        stack = find_companions(harmonics, blind, k, one, one, cpu).companions
        both_sides = find_companions(harmonics, views, k, one, one, cpu, mirrored=True).companions
        centre = torch.from_numpy(encoded.state.centre.copy())
        result = attend_graph(
            network, encoded, companions.rows, one, Path(name), cpu, lambda index, done: None
        )
        joint = torch.from_numpy(np.array(result.images))
        alone = torch.cat([single(batch.noisy[0], batch.ctf[0]) for batch in batches])
        spectra = harmonics.moved(torch.from_numpy(np.array(views.spectra)), -torch.from_numpy(views.centre))
        filtered, passed = harmonics.analyse_spectra(spectra), torch.from_numpy(np.array(views.passed))
    covariance = StackCovariance(harmonics.orders)
    covariance.add(filtered, passed.float())
    shifts = torch.cat([batch.shifts_px[0] for batch in batches])
    spectra = harmonics.moved(torch.from_numpy(np.array(views.spectra)), -shifts)
    truth = harmonics.analyse_spectra(harmonics.moved(harmonics.spectra(clean), -shifts))
    known = with_the_molecule_known(harmonics, harmonics.analyse_spectra(spectra), passed.float(), truth, k)
    wiener = harmonics.synthesise(covariance.wiener(filtered, passed.float()))
    cosine = torch.from_numpy(views.embedding @ views.embedding.T).fill_diagonal_(-2)
    angle = torch.cat([view_angle_deg(rows[:, None], rotations) for rows in rotations.split(256)])

    def median(table: Tensor, mirrored: Tensor | None = None) -> float:
        found = angle.gather(1, table)
        return float((found if mirrored is None else torch.where(mirrored, 180 - found, found)).median())

    return {
        "nearest": median(angle.clone().fill_diagonal_(999.0).topk(k, largest=False).indices),
        "molecule known": median(known),
        "embedding": median(cosine.topk(k).indices),
        "stack": median(torch.from_numpy(stack.rows)),
        "both": median(torch.from_numpy(companions.rows)),
        "mirrored too": median(torch.from_numpy(both_sides.rows), torch.from_numpy(both_sides.mirrored)),
        "alone": relative_mse(alone, clean),
        "joint": relative_mse(joint, clean),
        "covariance Wiener filter": relative_mse(moved(wiener, centre), clean),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="polar-transformer-64")
    parser.add_argument("--single-model", default="unet-64")
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
    single, _ = load_model(arguments.single_model)
    rows = []
    for name in arguments.structures:
        for snr in arguments.snr:
            source = sampler(bank, name, snr, not arguments.no_ctf)
            found = measure(network, single, source, arguments.particles, arguments.neighbours)
            if not rows:
                print("| structure | SNR | " + " | ".join(found) + " |\n" + "|---" * (2 + len(found)) + "|")
            figures = [
                f"{value:.1f}°" if index < 6 else f"{value:.3f}" for index, value in enumerate(found.values())
            ]
            print(f"| {name} | {snr:g} | " + " | ".join(figures) + " |", flush=True)
            rows.append({"structure": name, "snr": snr, **found})
    print("\n" + json.dumps({"particles": arguments.particles, "rows": rows}))


if __name__ == "__main__":
    main()
