"""One pass of a network over a whole stack: denoise, calibrate, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..files import give_back, save_arrays
from ..models import PolarTransformer
from ..neighbours import NOBODY, groups_of
from ..particles import ParticleWriter
from ..stacks import GivenNeighbours, PreparedStack, ViewRecorder, Work, search_stack, timed
from .agreement import measure_agreement, parts_of
from .calibration import measure_gain
from .graph import GraphResult, attend_graph, encode_stack
from .result import DenoiseSettings, presence

__all__ = ["JointRun", "SingleRun", "StackRun"]

_BATCH, _PART = 64, 512
_COMPANY = "company.npz"
# Images on which the grey scale is measured, and members of a set among them.
_SAMPLE = 256
_LARGEST_SET = 16
# A gain that is less certain than this is not used.
_LARGEST_ERROR = 0.15


class SingleRun(NamedTuple):
    """What a network that looks at images alone has made of a stack.

    Attributes
    ----------
    images : ndarray, shape (n, y, x), float32
        In a file of the run's.
    gains : ndarray of float32, shape (n,)
        What brings each image to the data's grey scale.
    """

    images: NDArray[np.float32]
    gains: NDArray[np.float32]


class JointRun(NamedTuple):
    """What a joint network has made of a stack, and learned on the way.

    Attributes
    ----------
    images : ndarray, shape (n, y, x), float32
        In a file of the run's.
    weights, angles_deg : ndarray of float32, shape (n, k)
        From the last round of attention.
    rows : ndarray of int64, shape (n, k)
        Neighbours.
    probability : ndarray of float32, shape (n, k), or None
        Of one view; None if nobody knows.
    gains : ndarray of float32, shape (n,)
        What brings each image to the data's grey scale.
    informed : bool
        Whether the search, if there was one, found anything that tells views apart.
    presence : ndarray of float32, shape (n,)
        Whether an image shows a particle at all, 0 to 1.
    agreement : ndarray of float32, shape (n, rings), or None
        Of each particle's two estimates; see `polarice.denoising.agreement`.
    """

    images: NDArray[np.float32]
    weights: NDArray[np.float32]
    angles_deg: NDArray[np.float32]
    rows: NDArray[np.int64]
    probability: NDArray[np.float32] | None
    gains: NDArray[np.float32]
    informed: bool
    presence: NDArray[np.float32]
    agreement: NDArray[np.float32] | None = None


class _Company(NamedTuple):
    """Who helps whom, as far as it is known before they do."""

    rows: NDArray[np.int64]
    probability: NDArray[np.float32] | None
    gains: NDArray[np.float32]
    informed: bool

    def save(self, work: Work) -> None:
        arrays = {name: np.asarray(value) for name, value in self._asdict().items() if value is not None}
        save_arrays(work.folder / _COMPANY, arrays)

    @classmethod
    def load(cls, work: Work) -> _Company:
        with np.load(work.folder / _COMPANY, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        probability = arrays.get("probability")
        return cls(arrays["rows"], probability, arrays["gains"], bool(arrays["informed"]))


@dataclass(frozen=True)
class StackRun:
    """One pass of a network over a stack.

    Attributes
    ----------
    prepared : PreparedStack
    scaled : bool
        Whether the network's images are brought to the data's grey scale, where the CTF is known.
    """

    prepared: PreparedStack
    scaled: bool = True

    def gain(self, denoise: Callable[[Tensor, Tensor], Tensor], rows: NDArray[np.int64]) -> float:
        """Grey scale of the denoised images, measured on some rows; 1 where that is too uncertain."""
        statistics = self.prepared.found.statistics[torch.from_numpy(rows)]
        mask = self.prepared.preprocessor.mask(statistics).to(self.prepared.device)
        with timed(self.prepared.seconds, "measure the grey scale"):
            seen, ctf = self.prepared.seen(rows)
            assert ctf is not None
            gain, error = measure_gain(lambda images: denoise(images, ctf), seen, ctf, mask)
        return gain if gain > 0 and error < _LARGEST_ERROR * gain else 1.0

    def write(self, writer: ParticleWriter, made: SingleRun | JointRun) -> None:
        """Put denoised images back into the stack's grey scale and write them."""
        device, preprocessor = self.prepared.device, self.prepared.preprocessor
        for rows in self._slices(_BATCH):
            with timed(self.prepared.seconds, "write"):
                statistics = self.prepared.found.statistics[rows].to(device)
                scale = torch.from_numpy(made.gains[rows])[:, None, None].to(device)
                masked = torch.from_numpy(made.images[rows]).to(device) * scale
                masked = masked * preprocessor.mask(statistics)
                writer.append(preprocessor.inverse(masked, statistics).cpu().numpy())
                give_back(made.images)

    @torch.inference_mode()
    def singly(self, network: nn.Module, work: Work) -> SingleRun:
        """Denoise every image alone."""
        halves = self.prepared.halves
        gains = np.ones(len(halves), np.float32)
        if self.scaled and self.prepared.preprocessor.ctf_known:
            for half in np.unique(halves):
                members = np.flatnonzero(halves == half)
                sample = members[:: max(1, len(members) // _SAMPLE)][:_SAMPLE]
                gains[members] = self.gain(
                    lambda images, ctf: torch.cat(
                        [network(*part) for part in zip(images.split(_BATCH), ctf.split(_BATCH), strict=True)]
                    ),
                    sample,
                )
        total, box = len(halves), self.prepared.preprocessor.model_box
        images = work.array("images", np.float32, (total, box, box))
        for part in work.parts("denoise", self._slices(_PART), images):
            for rows in self._slices(_BATCH, part):
                with timed(self.prepared.seconds, "read and normalise"):
                    seen, ctf = self.prepared.seen(rows)
                with timed(self.prepared.seconds, "denoise"):
                    images[rows] = network(seen, ctf).cpu().numpy()
                    give_back(images)
                self.prepared.report("denoise", rows.stop, total)
        return SingleRun(images, gains)

    def _slices(self, size: int, within: slice | None = None) -> list[slice]:
        """Rows, so many at a time."""
        within = within or slice(0, len(self.prepared))
        starts = range(within.start, within.stop, size)
        return [slice(start, min(start + size, within.stop)) for start in starts]

    def jointly(
        self,
        network: PolarTransformer,
        settings: DenoiseSettings,
        work: Work,
        given: GivenNeighbours | None = None,
    ) -> JointRun:
        """Denoise every image with its neighbours, which are searched for if nobody gives them."""
        prepared = self.prepared
        total, seconds, rounds = len(prepared), prepared.seconds, len(network.rounds)
        company = self._company(network, settings, work, given)
        with timed(seconds, "attend and decode"):
            result = attend_graph(
                network,
                company.rows,
                prepared.halves,
                work,
                prepared.device,
                lambda index, done: prepared.report(f"attend ({index + 1} of {rounds})", done, total),
                again=settings.agreement,
            )
        agreement = None
        if settings.agreement:
            with timed(seconds, "compare two estimates"):
                agreement = self._agreement(network, work, company, result)
        # Copies: the files go with the run.
        weights, angles_deg = np.array(result.weights), np.array(result.angles_deg)
        return JointRun(
            result.images,
            weights,
            angles_deg,
            **company._asdict(),
            presence=presence(self._energy(result.images), prepared.halves),
            agreement=agreement,
        )

    def _energy(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squares of the denoised images, summed within their discs, shape (n,)."""
        energy = np.empty(len(images))
        for rows in self._slices(_PART):
            mask = self.prepared.preprocessor.mask(self.prepared.found.statistics[rows])
            masked = torch.from_numpy(np.array(images[rows])) * mask
            energy[rows] = masked.double().square().sum((1, 2)).numpy()
            give_back(images)
        return energy

    def _agreement(
        self, network: PolarTransformer, work: Work, company: _Company, together: GraphResult
    ) -> NDArray[np.float32]:
        """Denoise each particle again with half of the others, and compare it with the other half."""
        prepared = self.prepared
        total, rounds = len(prepared), len(network.rounds)
        parts = parts_of(prepared.halves)
        apart = attend_graph(
            network,
            np.where(parts[company.rows] == parts[:, None], company.rows, NOBODY),
            prepared.halves,
            work,
            prepared.device,
            lambda index, done: prepared.report(f"attend again ({index + 1} of {rounds})", done, total),
            name="again-",
        )
        return measure_agreement(
            together,
            apart,
            company.rows,
            parts,
            lambda rows: prepared.preprocessor.mask(prepared.found.statistics[torch.from_numpy(rows)]),
            work,
            lambda done: prepared.report("compare two estimates", done, total),
        )

    def _company(
        self,
        network: PolarTransformer,
        settings: DenoiseSettings,
        work: Work,
        given: GivenNeighbours | None,
    ) -> _Company:
        """Encode the stack, and find out who helps whom."""
        if work.has("neighbours"):
            return _Company.load(work)
        prepared = self.prepared
        total, seconds = len(prepared), prepared.seconds
        before = seconds.get("read and normalise", 0.0)

        def look(rows: slice) -> tuple[Tensor, Tensor | None]:
            with timed(seconds, "read and normalise"):
                return prepared.seen(rows)

        with timed(seconds, "encode"):
            views = encode_stack(
                network, look, total, work, lambda done: prepared.report("encode", done, total)
            )
        seconds["encode"] -= seconds.get("read and normalise", 0.0) - before
        if work.team.leads:
            informed = True
            if given is None:
                groups = self._groups(settings.sets_from)
                table = search_stack(prepared, views, settings.neighbours, groups)
                informed = table.informed
                given = GivenNeighbours(table.rows, table.probability, 0)
            gains = self._joint_gains(network, given.rows)
            _Company(given.rows, given.probability, gains, informed).save(work)
        work.finish("neighbours")
        work.drop(*ViewRecorder.files)
        return _Company.load(work)

    def _groups(self, sets_from: str | None) -> NDArray[np.int64]:
        """Group of each particle: those of a half set that a column, if there is one, puts together."""
        halves = self.prepared.halves
        if sets_from is None:
            return halves
        sets = np.array(self.prepared.stack.column(sets_from.removeprefix("_")))
        return groups_of(len(halves), halves, sets)

    def _joint_gains(self, network: PolarTransformer, neighbours: NDArray[np.int64]) -> NDArray[np.float32]:
        """Gain of each particle, measured for each half set on some particles and their neighbours."""
        halves = self.prepared.halves
        gains = np.ones(len(halves), np.float32)
        if not (self.scaled and self.prepared.preprocessor.ctf_known):
            return gains
        partners = neighbours[:, :_LARGEST_SET]
        size = partners.shape[1] + 1

        def denoise(images: Tensor, ctf: Tensor) -> Tensor:
            sets = zip(images.split(size), ctf.split(size), strict=True)
            return torch.cat([network(one[None], None, told[None]).images[0] for one, told in sets])

        for half in np.unique(halves):
            whole = np.flatnonzero((halves == half) & (partners != NOBODY).all(1))
            wanted = max(1, _SAMPLE // (2 * size))
            chosen = whole[:: max(1, len(whole) // wanted)][:wanted]
            if len(chosen):
                rows = np.concatenate([chosen[:, None], partners[chosen]], 1).ravel()
                gains[halves == half] = self.gain(denoise, rows)
        return gains
