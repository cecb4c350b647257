"""What guards demand, and what they say of what was found."""

from __future__ import annotations

from typing import Any

from .result import Verdict

__all__ = ["agreement", "duplicates", "foreign", "noise", "phases", "unjudged"]

# Energy of denoised noise, relative to that of denoised particles.
_NOISE = 0.01
# Ice has about twice as much power at low frequencies as at high ones.
_STEEP = 3.0
# Correlation with the untouched particles beyond the shell: what is taken for none between half maps
# (P. B. Rosenthal and R. Henderson, J. Mol. Biol. 333 (2003) 721).
_PHASES = 0.143
# A planted particle against the same in a stack of its own.
_KEPT = 0.9
# Share of planted particles that are more like their truth than like the stack's average.
_THEMSELVES = 0.95

# Mean ring correlation of two estimates of noise, which have nothing to agree on.
_AGREEMENT = 0.25

Judged = tuple[dict[str, Any], Verdict]


def unjudged(guard: str, why: str) -> Verdict:
    """A guard that could not be run."""
    return Verdict(guard, "", "", None, why)


def noise(energy: float, steepness: float, *, given: bool) -> Judged:
    """Judge by the energy of denoised noise over that of the denoised particles.

    Parameters
    ----------
    energy : float
    steepness : float
        Power of the noise at low frequencies over that at high ones.
    given : bool
        Whether the spectrum is that of images without particles.
    """
    whose = "that of images without particles" if given else "the stack's own"
    why = f"energy of denoised noise over that of the denoised particles; the noise’s spectrum is {whose}"
    if steepness > _STEEP:
        why += f", which has {steepness:.1f} times as much power at low frequencies as at high ones"
        if not given:
            why += ": carbon does, and neighbours in crowded boxes; tell them apart with --noise-from"
    verdict = Verdict(
        "noise",
        f"{energy:.2%}",
        f"at most {_NOISE:.0%}",
        energy <= _NOISE,
        why,
    )
    return {"energy": energy, "steepness": steepness}, verdict


def phases(found: dict[str, Any]) -> Judged:
    """Judge by what `polarice.evaluation.guards.checks.beyond_shell` returned."""
    correlation, true = found["correlation"], found["true_share"]
    told = "" if true is None else f"; {true[0]:.0%} of what was drawn there is in the particles"
    verdict = Verdict(
        "phases",
        f"{correlation:.3f}",
        f"at most {_PHASES:g}",
        correlation <= _PHASES,
        f"correlation with the untouched particles beyond {found['shell_A']:.1f} Å, where all phases were "
        "made random: what remains was concluded from coarser detail" + told,
    )
    return found, verdict


def foreign(found: dict[str, Any]) -> Judged:
    """Judge planted particles by their own truth."""
    truth, own, themselves = (
        found[name] for name in ("correlation_with_truth", "in_a_stack_of_their_own", "as_themselves")
    )
    beside = "" if own is None else f" ({own:.3f} in a stack of their own)"
    verdict = Verdict(
        "foreign",
        f"{truth:.3f}",
        f"at least {_KEPT:.0%} of that in a stack of their own",
        themselves >= _THEMSELVES and (own is None or truth >= _KEPT * own),
        "correlation of another protein’s denoised particles with their truth, among those of the stack"
        f"{beside}; {themselves:.0%} of them, where {_THEMSELVES:.0%} are demanded, are more like it than "
        "like the stack’s average",
    )
    return found, verdict


def duplicates(planted: int, right: int, mistaken: int, meet: int, own: int) -> Judged:
    """Judge by which planted copies the scan has found, and whether they meet their originals."""
    verdict = Verdict(
        "duplicates",
        f"{right} of {planted}",
        "all",
        right == planted and mistaken == meet == 0,
        f"planted copies that the scan has found; the stack has {own:,} of its own",
    )
    found = {"planted": planted, "found": right, "mistaken": mistaken, "neighbours_of_their_originals": meet}
    return {**found, "of_the_stack": own}, verdict


def agreement(particles: dict[str, float], noise: float) -> Judged:
    """Judge two estimates of each particle by those of noise.

    Parameters
    ----------
    particles : dict
        ``mean`` over particles and rings, ``resolution_A``, the median.
    noise : float
        The mean of denoised noise.
    """
    verdict = Verdict(
        "agreement",
        f"{particles['mean']:.3f}",
        f"noise at most {_AGREEMENT:g}",
        noise <= _AGREEMENT,
        "mean ring correlation of two estimates of each particle, by neighbours that know nothing of each "
        f"other, where noise has {noise:.3f}; half of the particles agree down to "
        f"{particles['resolution_A']:.1f} Å",
    )
    return {**particles, "noise": noise}, verdict
