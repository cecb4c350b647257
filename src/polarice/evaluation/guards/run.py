"""The guards of a stack: its particles changed in ways whose answer is known, and denoised again.

Every changed stack is written to disk and goes through `polarice.denoising.denoise_stack` as a user's does:
scan, preprocessing, its own neighbour search, attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...denoising import DenoiseResult, DenoiseSettings, agreement_columns, denoise_stack, misfits
from ...devices import resolve_device
from ...errors import PolariceError, StructureError
from ...files import prepare_output
from ...imaging import filter_images
from ...models import PolarTransformer, load_model
from ...neighbours import groups_of
from ...particles import ParticleStack
from ...simulation import Structure
from ...stacks import (
    PreparedStack,
    Progress,
    clear_outputs,
    open_stack,
    require_fit,
    scratch_folder,
    timed,
    write_record,
)
from . import verdicts
from .checks import Denoised, RingSums, beyond_shell, correlations, invented_share, shell_for, taken_from
from .noise import empty_power, randomise_phases
from .planted import Planted, foreign_structure, name_copies, places_for, turned_average
from .result import GuardResult, GuardSettings, Shown, Verdict
from .sample import Sample, evenly

__all__ = ["guard_stack"]

_SHOWN = 6
# Seeds.
_NOISE, _PHASES = 1, 2


def guard_stack(
    particles: str | Path,
    out: str | Path,
    settings: GuardSettings | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> GuardResult:
    """Find out whether a stack's denoised particles show structure that is not in them.

    Parameters
    ----------
    particles : path-like
        ``.star``, ``.cs``, ``.mrcs`` or ``.mrc``.
    out : path-like
        Folder for ``guard.json`` and, in ``sample``, the particles that were looked at, denoised.
    settings : GuardSettings, optional
    overwrite : bool
        Allow a folder that is not empty.
    progress : callable, optional
        Called with (stage, images done, images in all).

    Returns
    -------
    GuardResult

    Raises
    ------
    PolariceError
        Anything wrong with the input, the model, the device or the output, before any computing.
    """
    settings, out = settings or GuardSettings(), Path(out)
    told = settings.denoising
    report = progress or (lambda stage, done, total: None)
    prepare_output(out, overwrite)
    device = resolve_device(told.device)
    network, _ = load_model(told.model, device)
    structure = foreign_structure(settings.foreign)
    empty = None
    if told.neighbours_from is not None:
        raise PolariceError("guards search for neighbours themselves, in stacks that they make")
    stack = open_stack(particles, told, split_halves=told.split_halves)
    jointly = isinstance(network, PolarTransformer)
    require_fit(stack, misfits(stack, told, jointly=jointly))
    if settings.noise_from is not None:
        empty = empty_power(settings.noise_from, stack.box, stack.pixel_size_A)
    rows = evenly(groups_of(len(stack), stack.half_sets), settings.particles)
    _require_enough(stack, rows, told, jointly)
    prepared = PreparedStack.measure(stack, told, cast(int, network.box), device, report)
    out.mkdir(parents=True, exist_ok=True)
    clear_outputs(out, ("guard.json", "guard.html"))
    statistics = prepared.found.statistics[torch.from_numpy(rows)]
    sample = Sample(stack, rows, statistics, prepared.preprocessor)
    # What was found of the whole stack is what its parts are; they have half sets now.
    told = replace(
        told,
        contrast=prepared.preprocessor.contrast,
        pixel_size_A=stack.pixel_size_A,
        mask_diameter_A=prepared.preprocessor.mask_diameter_A,
        split_halves=False,
    )
    with scratch_folder(out) as scratch:
        runner = _Guards(
            sample,
            told,
            network,
            scratch,
            out / "sample",
            report,
            dict(prepared.seconds),
            len(prepared.found.copies),
            empty,
        )
        runner.denoise_sample()
        runner.noise()
        runner.phases()
        runner.planted(structure)
        runner.agreement()
    result = GuardResult(
        Path(particles),
        settings,
        runner.original,
        rows,
        tuple(runner.verdicts),
        runner.figures,
        runner.curves,
        runner.shown,
        runner.original.agreement,
        runner.seconds,
        dict(runner.original.files),
    )
    write_record(out / "guard.json", result)
    return result


def _require_enough(
    stack: ParticleStack, rows: NDArray[np.int64], told: DenoiseSettings, jointly: bool
) -> None:
    if not jointly:
        return
    fewest = int(np.bincount(groups_of(len(stack), stack.half_sets)[rows]).min())
    if fewest <= told.neighbours:
        reason = f"{len(rows)} particles are too few for {told.neighbours} neighbours each"
        raise PolariceError(reason, hint="look at more with --particles, or ask for fewer --neighbours")


@dataclass
class _Guards:
    """One guard after the other, and what they have found so far."""

    sample: Sample
    told: DenoiseSettings
    network: nn.Module
    scratch: Path
    kept: Path
    report: Progress
    seconds: dict[str, float]
    own_copies: int
    empty: Tensor | None
    verdicts: list[Verdict] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    original: DenoiseResult = field(init=False)
    noise_agreement: NDArray[np.float32] | None = field(init=False)

    def _denoise(self, name: str, star: Path, out: Path | None = None, **changes: Any) -> DenoiseResult:
        with timed(self.seconds, name):
            return denoise_stack(
                star,
                out or self.scratch / name / "out",
                replace(self.told, **changes),
                overwrite=True,
                progress=lambda stage, done, total: self.report(f"{name}: {stage}", done, total),
            )

    @property
    def _last(self) -> int:
        """Ring of the finest detail that a network can return."""
        return min(self.sample.stack.box, cast(int, self.network.box)) // 2

    @property
    def _some(self) -> NDArray[np.int64]:
        """Places in the sample that are shown."""
        return np.unique(np.linspace(0, len(self.sample) - 1, _SHOWN).astype(int))

    def _seen(self, star: Path, result: DenoiseResult, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """What went into a run, as the network saw it."""
        stack = ParticleStack.open(star, pixel_size_A=self.told.pixel_size_A)
        prepared = PreparedStack(
            stack, result.preprocessor, result.found, torch.device("cpu"), {}, self.report
        )
        return prepared.seen(rows)[0].numpy()

    def denoise_sample(self) -> None:
        """The particles as they are."""
        star = self.sample.write(self.scratch / "sample")
        joint = isinstance(self.network, PolarTransformer)
        self.original = self._denoise("particles", star, self.kept, agreement=joint)
        self.denoised = Denoised(self.original)
        power, signal = torch.zeros(self.sample.stack.box // 2 + 1, dtype=torch.float64), 0.0
        sums = RingSums.of(self.sample, self.denoised, self.denoised)
        power = sums.first
        self.energy = float(
            sum(self.denoised[part].double().square().sum() for part in self.sample.batches())
        )
        for part in self.sample.batches():
            images, transfer = self.denoised[part], self.sample.transfer(self.sample.rows[part])
            signal += float(
                (images if transfer is None else filter_images(images, transfer)).double().square().sum()
            )
        self.power = power
        self.snr = signal / (len(self.sample) * self.sample.stack.box**2)
        self.figures["snr"] = round(self.snr, 4)

    def noise(self) -> None:
        """Noise with the stack's own spectrum, and nothing else."""
        spectra = self.spectra = self._spectra()
        places = np.arange(len(self.sample))
        star = self.sample.write(
            self.scratch / "noise", lambda part, images: self.sample.noise(places[part], spectra, _NOISE)
        )
        joint = isinstance(self.network, PolarTransformer)
        result = self._denoise("noise", star, agreement=joint)
        self.noise_agreement = result.agreement
        out = Denoised(result)
        energy = float(sum(out[part].double().square().sum() for part in self.sample.batches()))
        self.curves["noise spectrum"] = spectra.mean(0).double().numpy()
        self.shown["noise"] = Shown(
            self._seen(star, result, self._some), out[self._some].numpy(), self.denoised[self._some].numpy()
        )
        low = spectra.mean(0)[1 : max(2, self._last // 8)].mean()
        steepness = float(low / spectra.mean(0)[self._last // 2 : self._last].mean())
        given = self.empty is not None
        self._tell("noise", *verdicts.noise(energy / max(self.energy, 1e-30), steepness, given=given))

    def _spectra(self) -> Tensor:
        """Power of each particle's noise, (n, rings), with the same level whoever says what it looks like."""
        measured = self.sample.spectra()
        if self.empty is None:
            return measured
        fine = slice(self._last // 2, self._last)
        return self.empty * (measured[:, fine].mean(1, keepdim=True) / self.empty[fine].mean())

    def phases(self) -> None:
        """Random phases beyond a shell."""
        shell = shell_for(self.power[: self._last], self._last // 2)
        generator = torch.Generator().manual_seed(_PHASES)
        star = self.sample.write(
            self.scratch / "phases", lambda part, images: randomise_phases(images, shell, generator)
        )
        result = self._denoise("phases", star)
        out = Denoised(result)
        sums = RingSums.of(self.sample, out, self.denoised)
        self.curves["phases"] = sums.correlation.numpy()
        self.curves["chance"] = sums.error.numpy()
        self.shown["phases"] = Shown(
            self._seen(star, result, self._some), out[self._some].numpy(), self.denoised[self._some].numpy()
        )
        found = beyond_shell(sums, shell, self._last)
        found["true_share"] = invented_share(self.sample, out, shell, self._last)
        found["shell_A"] = self.sample.stack.box * self.sample.stack.pixel_size_A / shell
        self._tell("phases", *verdicts.phases(found))

    def planted(self, structure: Structure) -> None:
        """Another protein's particles, and copies, among the stack's."""
        sample = self.sample
        places, copies = places_for(groups_of(len(sample), self._halves))
        plant = None
        try:
            plant = Planted.of(structure, sample, places, self.snr, self.spectra)
        except StructureError as error:
            self._tell("foreign", {}, verdicts.unjudged("foreign", error.reason))
        star = sample.write(self.scratch / "planted", None if plant is None else plant.into)
        name_copies(star, copies)
        result = self._denoise("planted", star)
        if plant is not None:
            self._foreign(result, star, plant)
        self._duplicates(result, copies)

    @property
    def _halves(self) -> NDArray[np.int8] | None:
        halves = self.sample.stack.half_sets
        return None if halves is None else halves[self.sample.rows]

    def _foreign(self, result: DenoiseResult, star: Path, plant: Planted) -> None:
        """Judge planted particles by their truth, and beside a stack of their own."""
        sample, out = self.sample, Denoised(result)
        planted, truth, count = out[plant.places], plant.truth, len(plant.places)
        # The stack's average in the plane: what a denoiser would return that knows nothing else.
        average = sum(out[part].sum(0) for part in sample.batches()) / len(sample)
        average = turned_average(cast(Tensor, average)).expand_as(truth)
        own = None
        halves = None if self._halves is None else self._halves[plant.places]
        fewest = int(np.bincount(groups_of(count, halves)).min())
        if fewest > 1 or not isinstance(self.network, PolarTransformer):
            neighbours = min(self.told.neighbours, fewest - 1)
            alone = sample.write(self.scratch / "alone", plant.into, plant.places)
            with_each_other = self._denoise("foreign alone", alone, neighbours=max(1, neighbours))
            own = float(correlations(Denoised(with_each_other)[np.arange(count)], truth).mean())
        as_themselves = correlations(planted, truth)
        found: dict[str, Any] = {
            "planted": count,
            "correlation_with_truth": float(as_themselves.mean()),
            "in_a_stack_of_their_own": own,
            "with_the_stacks_average": float(correlations(planted, average).mean()),
            "truth_with_the_stacks_average": float(correlations(truth, average).mean()),
            "as_themselves": float((as_themselves > correlations(planted, average)).float().mean()),
        }
        if result.neighbours is not None:
            among = np.isin(np.arange(len(sample)), plant.places)
            found["foreign_among_their_neighbours"] = taken_from(result, plant.places, among)
        some = plant.places[:_SHOWN]
        self.shown["foreign"] = Shown(
            self._seen(star, result, some), out[some].numpy(), truth[:_SHOWN].numpy()
        )
        self._tell("foreign", *verdicts.foreign(found))

    def _duplicates(self, result: DenoiseResult, copies: dict[int, int]) -> None:
        """Judge by planted copies, and say what the stack has."""
        original = result.found.original.tolist()
        right = sum(original[to] == original[what] for to, what in copies.items())
        known = set(copies) | set(self.original.found.copies.tolist())
        mistaken = len(set(result.found.copies.tolist()) - known)
        meet = 0
        if result.neighbours is not None:
            meet = sum(bool((result.neighbours[to] == what).any()) for to, what in copies.items())
        judged = verdicts.duplicates(len(copies), right, mistaken, meet, self.own_copies)
        self._tell("duplicates", *judged)

    def agreement(self) -> None:
        """Two estimates of each particle, from neighbours that know nothing of each other."""
        found, of_noise = self.original.agreement, self.noise_agreement
        if found is None or of_noise is None:
            why = "the network looks at each image alone: it has no neighbours to compare"
            self._tell("agreement", {}, verdicts.unjudged("agreement", why))
            return
        side_A = self.sample.stack.box * self.sample.stack.pixel_size_A
        columns, noise = (agreement_columns(each, side_A) for each in (found, of_noise))
        figures = {
            "mean": float(columns["polariceAgreement"].mean()),
            "resolution_A": float(np.median(columns["polariceAgreementResolution"])),
        }
        self.curves["agreement"] = found.mean(0, dtype=np.float64)
        self.curves["agreement of noise"] = of_noise.mean(0, dtype=np.float64)
        self._tell("agreement", *verdicts.agreement(figures, float(noise["polariceAgreement"].mean())))

    def _tell(self, guard: str, figures: dict[str, Any], verdict: Verdict) -> None:
        self.figures[guard] = figures
        self.verdicts.append(verdict)
