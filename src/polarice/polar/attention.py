"""Angular attention (paper, eq. 6 and 7): every key at every rotation, in three forms that agree.

``"direct"`` writes the sum over rotations out and is there to be read and to test the others;
``"fft"`` turns it into one complex matrix product for each angular frequency; ``"streamed"`` does the
same over blocks of queries and keys with a running softmax, so that memory does not grow with the
square of the set's size.

The paper's softmax over keys and rotations is the product of two: over the rotations of each key, and
over keys by their *evidence*, the logarithm of the mean over rotations of the exponential scores. It is
computed so, which allows the two to be weighed apart (`KeyTrust`).

Differences from the paper, all optional: that trust, a mask of allowed pairs, a *null* key that holds
nothing (its weight says that no image of the set helps), mirrored keys, and a free scale.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

__all__ = [
    "AngularSpectra",
    "AttentionResult",
    "KeyTrust",
    "Method",
    "angular_attention",
    "angular_spectra",
    "attend_to_spectra",
]

Method = Literal["auto", "direct", "fft", "streamed"]

# Coefficients (512 MB of them) above which the streamed form is chosen where no gradient is wanted.
_MOST_COEFFICIENTS = 2**27


class AttentionResult(NamedTuple):
    """What angular attention returns.

    Attributes
    ----------
    output : Tensor, shape (s, q, d, n, m)
        Weighted sum of the rotated values.
    weights : Tensor or None, shape (s, q, k, m) or (s, q, 2 k, m)
        Coefficients α of each key at each rotation (with mirrored keys, those come last); None from
        the streamed form.
    null_weight : Tensor, shape (s, q)
        What is missing to a sum of one: the weight of the null key, zero without one.
    key_weights : Tensor, shape (s, q, k) or (s, q, 2 k)
        Coefficients summed over the rotations.
    scores : Tensor or None, shape of the weights
        What the rotations of each key were weighed by; None from the streamed form.
    """

    output: Tensor
    weights: Tensor | None
    null_weight: Tensor
    key_weights: Tensor
    scores: Tensor | None


class KeyTrust(NamedTuple):
    """How a query weighs keys: what a score must do to tell angles apart must not pick one key of many.

    Scores sharp enough to settle the angle of a key differ between keys that show the same view by much more
    than one, by chance alone, and their softmax keeps only the luckiest. So evidence above a ``threshold``
    counts by its ``gain``, up to a ``ceiling``: keys that all match beyond doubt are averaged.

    Attributes
    ----------
    threshold, gain, ceiling : Tensor, shape broadcastable to (s, q)
    """

    threshold: Tensor
    gain: Tensor
    ceiling: Tensor

    def logits(self, evidence: Tensor) -> Tensor:
        """Logarithmic weights (s, q, k) of evidence (s, q, k)."""
        threshold, gain, ceiling = (part[..., None] for part in self)
        return ceiling - functional.softplus(ceiling - gain * (evidence - threshold))


class AngularSpectra(NamedTuple):
    """Keys and values by angular frequency f, as they are used: made once where many attend to them.

    Attributes
    ----------
    key : Tensor, shape (s, f, k, c n), complex
    value : Tensor, shape (s, f, k, d n'), complex
    """

    key: Tensor
    value: Tensor


def angular_spectra(key: Tensor, value: Tensor) -> AngularSpectra:
    """Spectra of keys (s, k, c, n, m) and values (s, k, d, n', m)."""
    return AngularSpectra(_spectrum(key), _spectrum(value))


def angular_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    mask: Tensor | None = None,
    null_logit: Tensor | None = None,
    trust: KeyTrust | None = None,
    mirror: bool = False,
    scale: Tensor | float | None = None,
    method: Method = "auto",
    block: int = 64,
) -> AttentionResult:
    """Attend to every key of the set at every rotation.

    ``α[k, k', ℓ] = softmax over (k', ℓ) of scale · Σ query_k[c, n, m] key_k'[c, n, m − ℓ]`` and
    ``output_k[m] = Σ α[k, k', ℓ] value_k'[m − ℓ]``.

    Parameters
    ----------
    query : Tensor, shape (s, q, c, n, m)
        Sets, queries, channels, radii, angles.
    key : Tensor, shape (s, k, c, n, m)
    value : Tensor, shape (s, k, d, n', m)
    mask : Tensor of bool, shape broadcastable to (s, q, k), optional
        True where the query may attend to the key. A query with no allowed key gets zeros.
    null_logit : Tensor, scalar, optional
        Score of a key with the value zero, for each of its m rotations.
    trust : KeyTrust, optional
        How keys are weighed by their evidence; by itself, as in the paper, by default.
    mirror : bool
        Offer each key and value mirrored (angle to minus angle) too.
    scale : Tensor or float, optional
        The paper's 1 / √(c n m) by default.
    method : {"auto", "direct", "fft", "streamed"}
        ``auto`` is ``fft``, or ``streamed`` where that would hold more than 512 MB of coefficients and no
        gradient is wanted.
    block : int
        Queries and keys in a block of the streamed form.

    Returns
    -------
    AttentionResult
    """
    if scale is None:
        scale = 1 / math.sqrt(math.prod(query.shape[2:]))
    if mask is not None:
        mask = mask.expand(query.shape[0], query.shape[1], key.shape[1])
    if mirror:
        key, value = (torch.cat([z, mirrored(z)], 1) for z in (key, value))
        mask = None if mask is None else torch.cat([mask, mask], -1)
    if method == "direct":
        return _direct(query, key, value, mask, null_logit, trust, scale)
    found = attend_to_spectra(
        query,
        angular_spectra(key, value),
        mask=mask,
        null_logit=null_logit,
        trust=trust,
        scale=scale,
        method=method,
        block=block,
    )
    return found._replace(output=found.output.unflatten(2, value.shape[2:4]))


def attend_to_spectra(
    query: Tensor,
    spectra: AngularSpectra,
    *,
    mask: Tensor | None = None,
    null_logit: Tensor | None = None,
    trust: KeyTrust | None = None,
    scale: Tensor | float = 1.0,
    method: Literal["auto", "fft", "streamed"] = "auto",
    block: int = 64,
) -> AttentionResult:
    """`angular_attention` to keys and values whose spectra are known.

    Parameters
    ----------
    query : Tensor, shape (s, q, c, n, m)
    spectra : AngularSpectra
    mask, null_logit, trust, scale, method, block
        As there.

    Returns
    -------
    AttentionResult
        Its output has the shape (s, q, d n', m).
    """
    angles = query.shape[-1]
    if method == "auto":
        coefficients = query.shape[0] * query.shape[1] * spectra.key.shape[2] * angles
        method = "streamed" if coefficients > _MOST_COEFFICIENTS and not torch.is_grad_enabled() else "fft"
    if method == "streamed":
        return _streamed(query, spectra, mask, null_logit, trust, scale, block)
    scores = scale * _scores(_spectrum(query), spectra.key, angles)
    weights, key_weights, null_weight = _softmax(scores, mask, null_logit, trust)
    mixed = _rfft(weights).permute(0, 3, 1, 2) @ spectra.value
    output = torch.fft.irfft(mixed.permute(0, 2, 3, 1), n=angles)
    return AttentionResult(output, weights, null_weight, key_weights, scores)


def mirrored(polar: Tensor) -> Tensor:
    """Mirror polar images about the x axis: angle to minus angle."""
    return polar.flip(-1).roll(1, -1)


class _RealFFT(torch.autograd.Function):
    """`torch.fft.rfft` whose backward pass is a real transform too, at a third of the cost."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor) -> Tensor:
        ctx.length = signal.shape[-1]
        spectrum: Tensor = torch.fft.rfft(signal)
        return spectrum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        spectrum = gradients[0] / 2
        spectrum[..., 0] *= 2
        if ctx.length % 2 == 0:
            spectrum[..., -1] *= 2
        gradient: Tensor = torch.fft.irfft(spectrum, n=ctx.length, norm="forward")
        return gradient


def _rfft(signal: Tensor) -> Tensor:
    spectrum: Tensor = _RealFFT.apply(signal)  # type: ignore[no-untyped-call]
    return spectrum


def _spectrum(polar: Tensor) -> Tensor:
    """(s, k, c, n, m) to its angular spectrum (s, f, k, c n)."""
    # In one piece: products of strided complex matrices take half as long again.
    spectrum: Tensor = _rfft(polar).flatten(2, 3).permute(0, 3, 1, 2).contiguous()
    return spectrum


def _scores(query_spectrum: Tensor, key_spectrum: Tensor, angles: int) -> Tensor:
    """Circular cross-correlations of all pairs, shape (s, q, k, m)."""
    products = query_spectrum @ key_spectrum.conj().transpose(-1, -2)
    scores: Tensor = torch.fft.irfft(products.permute(0, 2, 3, 1), n=angles)
    return scores


def _key_logits(scores: Tensor, mask: Tensor | None, trust: KeyTrust | None) -> Tensor:
    """Logarithmic weights (s, q, k) of keys by their scores (s, q, k, m)."""
    evidence = torch.logsumexp(scores, -1) - math.log(scores.shape[-1])
    logits = evidence if trust is None else trust.logits(evidence)
    return logits if mask is None else logits.masked_fill(~mask, -torch.inf)


def _softmax(
    scores: Tensor, mask: Tensor | None, null_logit: Tensor | None, trust: KeyTrust | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of keys at rotations, of keys, and of the null key."""
    logits = _key_logits(scores, mask, trust)
    top = logits.detach().amax(-1, keepdim=True)
    if null_logit is not None:
        top = torch.maximum(top, null_logit.detach())
    # A query with no allowed key has top = -inf: its weights must be zero, not nan.
    top = top.clamp_min(torch.finfo(logits.dtype).min)
    exponentials = torch.exp(logits - top)
    null = torch.zeros_like(top) if null_logit is None else torch.exp(null_logit - top)
    total = exponentials.sum(-1, keepdim=True) + null
    total = total.clamp_min(torch.finfo(logits.dtype).tiny)
    key_weights = exponentials / total
    return scores.softmax(-1) * key_weights[..., None], key_weights, (null / total).squeeze(-1)


def _direct(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    null_logit: Tensor | None,
    trust: KeyTrust | None,
    scale: Tensor | float,
) -> AttentionResult:
    """The sums of eq. 6 and 7 as they are written."""
    rotations = range(query.shape[-1])
    products = [torch.einsum("sqcnm,skcnm->sqk", query, key.roll(turn, -1)) for turn in rotations]
    scores = scale * torch.stack(products, -1)
    weights, key_weights, null_weight = _softmax(scores, mask, null_logit, trust)
    output = torch.stack(
        [torch.einsum("sqk,skdnm->sqdnm", weights[..., turn], value.roll(turn, -1)) for turn in rotations]
    ).sum(0)
    return AttentionResult(output, weights, null_weight, key_weights, scores)


def _streamed(
    query: Tensor,
    spectra: AngularSpectra,
    mask: Tensor | None,
    null_logit: Tensor | None,
    trust: KeyTrust | None,
    scale: Tensor | float,
    block: int,
) -> AttentionResult:
    """Running softmax over blocks of keys, for one block of queries after another."""
    angles = query.shape[-1]
    count = spectra.key.shape[2]
    output = query.new_empty(*query.shape[:2], spectra.value.shape[3], angles)
    null_weight = query.new_zeros(query.shape[:2])
    key_weights = query.new_empty(*query.shape[:2], count)
    if trust is not None:
        trust = KeyTrust(*(part.expand(query.shape[:2]) for part in trust))
    for first in range(0, query.shape[1], block):
        queries = slice(first, first + block)
        spectrum = _spectrum(query[:, queries])
        part_trust = None if trust is None else KeyTrust(*(part[:, queries] for part in trust))
        top = query.new_full(spectrum.shape[0:3:2], -torch.inf)
        total = torch.zeros_like(top)
        if null_logit is not None:
            top, total = torch.zeros_like(total) + null_logit, total + 1
        null_top = top
        mixed: Tensor | None = None
        for start in range(0, count, block):
            keys = slice(start, start + block)
            scores = scale * _scores(spectrum, spectra.key[:, :, keys], angles)
            logits = _key_logits(scores, None if mask is None else mask[:, queries, keys], part_trust)
            key_weights[:, queries, keys] = logits
            new_top = torch.maximum(top, logits.amax(-1)).clamp_min(torch.finfo(scores.dtype).min)
            exponentials = torch.exp(logits - new_top[..., None])
            fade = torch.exp(top - new_top)
            total = fade * total + exponentials.sum(-1)
            weights = torch.fft.rfft(scores.softmax(-1) * exponentials[..., None]).permute(0, 3, 1, 2)
            if mixed is None:
                mixed = weights @ spectra.value[:, :, keys]
            else:
                mixed = mixed * fade[:, None, :, None] + weights @ spectra.value[:, :, keys]
            top = new_top
        assert mixed is not None
        safe = total.clamp_min(torch.finfo(query.dtype).tiny)
        mixed = mixed / safe[:, None, :, None]
        output[:, queries] = torch.fft.irfft(mixed.permute(0, 2, 3, 1), n=angles)
        log_total = (top + safe.log())[..., None]
        key_weights[:, queries] = torch.exp(key_weights[:, queries] - log_total)
        if null_logit is not None:
            null_weight[:, queries] = torch.exp(null_top - top) / safe
    return AttentionResult(output, None, null_weight, key_weights, None)
