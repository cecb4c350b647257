"""What the benchmark measures: the conditions of the paper, and how much of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from ...models import shipped_models
from ...simulation import SamplerConfig

__all__ = ["PAPER_CONDITIONS", "BenchmarkSettings", "Condition", "default_models"]

Kind = Literal["gaussian", "ctf", "poisson"]

_BASELINES = ("dncnn-64", "unet-64", "polar-cnn-64", "polar-transformer-64")


@dataclass(frozen=True)
class Condition:
    """How images are disturbed: one column of the table.

    Attributes
    ----------
    kind : {"gaussian", "ctf", "poisson"}
        Conditions of a kind differ in their signal-to-noise ratio alone.
    snr : float
        mean(clean²) / noise variance, clean after the CTF, over the whole box.
    ctf : bool
        A CTF with a defocus of 15,000–25,000 Å.
    max_shift_px : float
        Radius of the disc that particles are displaced in, pixels.
    poissonicity : float
        Grey value of an electron in standard deviations of the noise; 0 for Gaussian noise.
    """

    kind: Kind
    snr: float
    ctf: bool = False
    max_shift_px: float = 0.0
    poissonicity: float = 0.0

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.kind}-{self.snr:g}"

    @property
    def label(self) -> str:
        """As a table is headed."""
        what = {"gaussian": "", "ctf": "CTF, shifts, ", "poisson": f"Poisson η = {self.poissonicity:g}, "}
        return f"{what[self.kind]}SNR {self.snr:g}"

    def at(self, snr: float) -> Condition:
        """The same at another SNR; with Poisson noise that is another number of electrons.

        An average of K aligned images is a draw from this at K times the SNR, also with Poisson noise.
        """
        return replace(self, snr=snr, poissonicity=self.poissonicity * math.sqrt(self.snr / snr))

    def sampler(self, box: int, images: int) -> SamplerConfig:
        """Settings that make a molecule's images so."""
        return SamplerConfig(
            box=box,
            set_size=images,
            directional=1.0,
            general=0.0,
            neighbourhood=0.0,
            snr=(self.snr, self.snr),
            diameter=(0.4, 0.8),
            blur_px=(0.45, 1.2),
            ctf=float(self.ctf),
            defocus_A=(15000.0, 25000.0),
            max_shift_px=self.max_shift_px,
            centred=0.0,
            poissonicity=self.poissonicity,
            empty=0.0,
            crowded=0.0,
            masked=0.0,
            divided=0.0,
        )


PAPER_CONDITIONS = (
    *(Condition("gaussian", snr) for snr in (0.01, 0.02, 0.03, 0.05, 0.1, 0.25)),
    Condition("ctf", 0.02, ctf=True, max_shift_px=8.0),
    Condition("poisson", 0.03, poissonicity=0.5),
)


def default_models() -> tuple[str, ...]:
    """The paper's baselines and the polar transformer, then whatever else is shipped."""
    return _BASELINES + tuple(name for name in shipped_models() if name not in _BASELINES)


@dataclass(frozen=True)
class BenchmarkSettings:
    """How the benchmark is run.

    Attributes
    ----------
    models : tuple of str, optional
        Shipped names or weights files; `default_models` by default. What is not there is left out.
    structures : int, optional
        Use so many of the bank's structures, evenly spaced; all by default.
    seed : int
        Images of a structure depend on the seed and its place in the bank alone.
    device : str
        Where networks compute; images are always made on the CPU.
    conditions : tuple of Condition
    set_size : int
        K, images of one view in a set.
    views : int
        Views of a general set, which has views × set_size images.
    cap_deg : float
        Largest angle between a neighbourhood set's views and its direction.
    strangers : int
        Images of a neighbourhood set that show any view; they are not measured.
    curve_snrs : tuple of float
        Where the single-image error is measured that K_eff is read off; the conditions' SNRs are added.
    sweep_sizes, sweep_views : tuple of int
        Set sizes, and numbers of views among a set's images, of the sweep.
    sweep_snr : float
    sweep_structures : int, optional
        Use so many structures in the sweep; all by default.
    resamples : int
        Of the bootstrap over structures.
    shown : int
        Particles in a gallery.
    reference : str
        Model that the table of ratios divides by; else the first single-image network.
    """

    models: tuple[str, ...] | None = None
    structures: int | None = None
    seed: int = 0
    device: str = "auto"
    conditions: tuple[Condition, ...] = PAPER_CONDITIONS
    set_size: int = 8
    views: int = 2
    cap_deg: float = 10.0
    strangers: int = 2
    curve_snrs: tuple[float, ...] = (0.01, 0.014, 0.02, 0.03, 0.04, 0.055, 0.08, 0.11, 0.16, 0.22, 0.33, 0.5)
    sweep_sizes: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    sweep_views: tuple[int, ...] = (1, 2, 4, 16)
    sweep_snr: float = 0.03
    sweep_structures: int | None = 40
    resamples: int = 1000
    shown: int = 8
    reference: str = "dncnn-64"

    def quick(self, structures: int) -> BenchmarkSettings:
        """The same on a tenth of a bank's structures."""
        tenth = max(2, structures // 10)
        return replace(self, structures=tenth, sweep_structures=min(4, tenth))
