"""Endless fresh training sets, made on the training device from the atoms of a bank.

Set ``i`` of a sampler depends on (seed, i) alone, whatever the batch size and the worker count.
Images are what the network sees: phase-flipped, protein bright, background mean 0, noise standard
deviation 1. With white noise, flipping phases leaves the noise white, so an image is made as
``|CTF| x + noise``. The target is the CTF-free image in place, in the same grey scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..conventions import random_rotations
from ..imaging import CTF, shift_phases, soft_disc
from .bank import StructureBank
from .splat import element_weights, splat_spectra

__all__ = ["SamplerConfig", "SetBatch", "SetSampler"]

_MOST_ATOMS = 4096
_MASK_EDGE_PX = 4.0
_OPPOSITE = 0.25
_NEAR = 0.35
_NEAR_RANGE_DEG = 45.0


@dataclass(frozen=True)
class SamplerConfig:
    """What the training sets look like.

    Attributes
    ----------
    box : int
        Side of the images in pixels.
    set_size : int
        K, images in a set; all show one molecule.
    directional, general, neighbourhood : float
        Relative frequencies of the three kinds of set: one view; several views in equal shares; one
        view with neighbours within an angle and strangers.
    general_views : int
        Most views of a general set (at least two are drawn).
    max_angle_deg : float
        Largest angle between a neighbour and its set's view; drawn anew for each set.
    max_strangers : float
        Largest fraction of a neighbourhood set that shows unrelated views; drawn anew for each set.
    snr : tuple of float
        Range of mean(clean²) / noise variance after the CTF, log-uniform.
    diameter : tuple of float
        Range of the molecule's diameter as a fraction of the box.
    blur_px : tuple of float
        Range of the Gaussian blur's standard deviation, in pixels.
    ctf : float
        Fraction of the sets that have a CTF.
    defocus_A : tuple of float
        Range of the defocus, Å.
    max_shift_px : float
        Largest displacement of a particle from the centre, in pixels.
    centred : float
        Fraction of the sets without displacements.
    poissonicity : float
        Grey value of one electron in units of the noise's standard deviation (paper, appendix G); 0 for
        Gaussian noise.
    empty : float
        Fraction of the sets that show noise alone, so that a network learns to draw nothing there.
    crowded : float
        Fraction of the sets that have other particles at the edge of the box.
    masked : float
        Fraction of the sets whose disc is smaller than the box, as a user's mask may be.
    divided : float
        Fraction of the sets whose images may use only a part of the set: sets of every size, down to
        images that are alone.
    """

    box: int = 64
    set_size: int = 16
    directional: float = 0.25
    general: float = 0.25
    neighbourhood: float = 0.5
    general_views: int = 4
    max_angle_deg: float = 15.0
    max_strangers: float = 0.75
    snr: tuple[float, float] = (0.01, 0.3)
    diameter: tuple[float, float] = (0.4, 0.8)
    blur_px: tuple[float, float] = (0.45, 1.2)
    ctf: float = 0.75
    defocus_A: tuple[float, float] = (8000.0, 30000.0)
    max_shift_px: float = 8.0
    centred: float = 0.0
    poissonicity: float = 0.0
    empty: float = 0.0
    crowded: float = 0.25
    masked: float = 0.3
    divided: float = 0.5


class SetBatch(NamedTuple):
    """Sets of particle images.

    Attributes
    ----------
    noisy, clean : Tensor, shape (s, k, y, x)
        Network input and target.
    rotations : Tensor, shape (s, k, 3, 3)
        True orientations (`polarice.conventions`).
    shifts_px : Tensor, shape (s, k, 2)
        Where the particles lie, (x, y) in pixels.
    snr : Tensor, shape (s,)
    mask : Tensor of bool, shape (s, k, k)
        True where the first image may use the second.
    ctf : Tensor, shape (s, k, y, x // 2 + 1)
        Magnitude of each image's CTF on the half spectrum.
    """

    noisy: Tensor
    clean: Tensor
    rotations: Tensor
    shifts_px: Tensor
    snr: Tensor
    mask: Tensor
    ctf: Tensor


class SetSampler:
    """Draws training sets from a bank.

    Parameters
    ----------
    bank : StructureBank
    config : SamplerConfig
    seed : int
    device : torch.device or str
        Where the images are made.
    """

    def __init__(
        self, bank: StructureBank, config: SamplerConfig, *, seed: int = 0, device: torch.device | str = "cpu"
    ) -> None:
        self.config = config
        self.seed = seed
        self.device = torch.device(device)
        self._offsets = bank.offsets
        self._coordinates = torch.from_numpy(np.ascontiguousarray(bank.coordinates))
        self._weights = element_weights(torch.from_numpy(np.ascontiguousarray(bank.atomic_numbers)))

    def batch(self, first: int, n: int, rotations: Tensor | None = None) -> SetBatch:
        """Sets ``first`` to ``first + n - 1``.

        Parameters
        ----------
        first, n : int
        rotations : Tensor, shape (n, k, 3, 3), optional
            Orientations to show instead of those that would be drawn; nothing else changes.
        """
        seeds = [_mix(self.seed, first + i) for i in range(n)]
        plans = [self._plan(torch.Generator().manual_seed(seed)) for seed in seeds]
        if rotations is not None:
            plans = [{**plan, "rotations": given} for plan, given in zip(plans, rotations, strict=True)]
        return self._render(plans)

    def _plan(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw everything about a set but its noise; small, on the CPU."""
        config, size, half = self.config, self.config.set_size, self.config.box / 2

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(shape, generator=generator)

        structure = int(torch.randint(len(self._offsets) - 1, (), generator=generator))
        start, stop = int(self._offsets[structure]), int(self._offsets[structure + 1])
        atoms = torch.arange(start, stop)
        if stop - start > _MOST_ATOMS:
            atoms = start + torch.randperm(stop - start, generator=generator)[:_MOST_ATOMS]
        position, weight = self._coordinates[atoms].float(), self._weights[atoms]
        position = position - (position * weight[:, None]).sum(0) / weight.sum()
        radius = position.norm(dim=-1).max()
        diameter_px = config.box * uniform(*config.diameter)
        # Coordinates are in 0.01 Å; a pixel is then radius / (diameter / 2) of those.
        unit_px = diameter_px / 2 / radius
        padding = _MOST_ATOMS - len(weight)
        has_ctf = uniform(0, 1) < config.ctf
        low, high = config.snr
        angle = uniform(0, 2 * math.pi, size)
        distance = config.max_shift_px * uniform(0, 1, size).sqrt()
        if uniform(0, 1) < config.centred:
            distance = 0 * distance
        if uniform(0, 1) < config.empty:
            weight = 0 * weight
        # A user may mask tightly: now and then the disc is smaller than the box.
        tightest = torch.minimum(diameter_px / 2 + config.max_shift_px + _MASK_EDGE_PX, torch.tensor(half))
        loosen = torch.where(uniform(0, 1) < config.masked, uniform(0, 1), torch.ones(()))
        neighbour_angle = uniform(0, 2 * math.pi, size)
        neighbour_px = diameter_px * uniform(0.85, 1.3, size)
        if uniform(0, 1) >= config.crowded:
            neighbour_px = neighbour_px + 1e4
        return {
            "position": torch.nn.functional.pad(position * unit_px, (0, 0, 0, padding)),
            "weight": torch.nn.functional.pad(weight, (0, padding)),
            "rotations": _view_set(config, generator),
            "shifts": torch.stack([distance * angle.cos(), distance * angle.sin()], -1),
            "neighbour": torch.stack(
                [neighbour_px * neighbour_angle.cos(), neighbour_px * neighbour_angle.sin()], -1
            ),
            "blur": uniform(*config.blur_px).expand(size),
            "pixel_A": (0.01 / unit_px).expand(size),
            "has_ctf": has_ctf.expand(size),
            "defocus": uniform(*config.defocus_A, size),
            "astigmatism": uniform(0, 500, size),
            "astigmatism_deg": uniform(0, 180, size),
            "voltage": (200 + 100 * (uniform(0, 1) < 0.8).float()).expand(size),
            "cs": (2.7 * (uniform(0, 1) < 0.8).float()).expand(size),
            "amplitude_contrast": uniform(0.07, 0.1).expand(size),
            "snr": low * (high / low) ** uniform(0, 1),
            "mask": tightest + (half - tightest) * loosen,
            "part": _parts(config, generator),
            "noise_seed": torch.randint(2**62, (), generator=generator),
        }

    def _render(self, plans: list[dict[str, Tensor]]) -> SetBatch:
        """Turn plans into images on the device, all sets at once."""
        config = self.config
        sets, size, box = len(plans), config.set_size, config.box
        plan = {name: torch.stack([p[name] for p in plans]).to(self.device) for name in plans[0]}
        flat = {name: plan[name].flatten(0, 1) for name in ("shifts", "blur", "pixel_A", "defocus")}
        turned = torch.einsum("skij,saj->skai", plan["rotations"][..., :2, :], plan["position"])
        weight = plan["weight"][:, None].expand(-1, size, -1).flatten(0, 1)
        spectra = splat_spectra(turned.flatten(0, 1), weight, box, flat["blur"])
        spectra = spectra * shift_phases(box, flat["shifts"])
        ctf = self._ctf(plan, flat["pixel_A"]).abs()
        seen = spectra * ctf
        crowded = (plan["neighbour"].norm(dim=-1) < 1e4).flatten()
        images = torch.fft.irfft2(seen, s=(box, box))
        if bool(crowded.any()):
            beside = (turned.roll(1, 1) + plan["neighbour"][:, :, None]).flatten(0, 1)[crowded]
            extra = splat_spectra(beside, weight[crowded], box, flat["blur"][crowded]) * ctf[crowded]
            neighbours = torch.zeros_like(images)
            neighbours[crowded] = torch.fft.irfft2(extra, s=(box, box))
        else:
            neighbours = torch.zeros_like(images)
        shape = (sets, size, box, box)
        images, neighbours = images.view(shape), neighbours.view(shape)
        clean = torch.fft.irfft2(spectra, s=(box, box)).view(shape)
        power = images.square().mean((1, 2, 3), keepdim=True)
        empty = power == 0
        scale = (plan["snr"][:, None, None, None] / power.masked_fill(empty, 1)).sqrt()
        signal = (images + neighbours) * scale
        observed = torch.stack(
            [self._observe(x, p["noise_seed"]) for x, p in zip(signal, plans, strict=True)]
        )
        discs = torch.stack([soft_disc(box, float(p["mask"]), _MASK_EDGE_PX) for p in plans])
        return SetBatch(
            noisy=observed * discs[:, None].to(self.device),
            clean=clean * scale,
            rotations=plan["rotations"],
            shifts_px=plan["shifts"],
            snr=plan["snr"].masked_fill(empty.flatten(), 0),
            mask=plan["part"][:, :, None] == plan["part"][:, None],
            ctf=ctf.view(sets, size, box, -1),
        )

    def _ctf(self, plan: dict[str, Tensor], pixel_A: Tensor) -> Tensor:
        """Half-spectrum CTFs, one where a set has none."""
        column = {name: plan[name].flatten() for name in plan if plan[name].ndim == 2}
        zero = torch.zeros_like(column["defocus"])
        ctf = CTF(
            defocus_u_A=column["defocus"] + column["astigmatism"] / 2,
            defocus_v_A=column["defocus"] - column["astigmatism"] / 2,
            defocus_angle_deg=column["astigmatism_deg"],
            voltage_kV=column["voltage"],
            cs_mm=column["cs"],
            amplitude_contrast=column["amplitude_contrast"],
            phase_shift_deg=zero,
            b_factor_A2=zero,
        ).evaluate(self.config.box, pixel_A)
        return torch.where(column["has_ctf"][:, None, None] > 0, ctf, torch.ones_like(ctf))

    def _observe(self, signal: Tensor, seed: Tensor) -> Tensor:
        """Signals (k, y, x) with noise of standard deviation 1."""
        generator = torch.Generator(self.device).manual_seed(int(seed))
        if self.config.poissonicity == 0:
            return signal + torch.randn(signal.shape, generator=generator, device=self.device)
        # An electron is worth the poissonicity, so the background's variance is one.
        electron = self.config.poissonicity
        rate = (electron**-2 - signal / electron).clamp_min(0)
        return electron * (electron**-2 - torch.poisson(rate, generator=generator))


def _mix(seed: int, index: int) -> int:
    """One well-mixed 63-bit seed from two numbers."""
    state = np.random.SeedSequence([seed, index]).generate_state(2, np.uint32)
    return int(state[0]) << 31 | int(state[1]) >> 1


def _parts(config: SamplerConfig, generator: torch.Generator) -> Tensor:
    """Number of the part that each image of a set belongs to, shape (set_size,)."""
    size = config.set_size
    part_size = size
    if float(torch.rand((), generator=generator)) < config.divided:
        halvings = int(torch.randint(1, max(size.bit_length(), 2), (), generator=generator))
        part_size = max(size >> halvings, 1)
    return torch.randperm(size, generator=generator) // part_size


def _view_set(config: SamplerConfig, generator: torch.Generator) -> Tensor:
    """Orientations of one set, shape (set_size, 3, 3), of a kind drawn by its frequency."""
    size = config.set_size
    frequencies = [config.directional, config.general, config.neighbourhood]
    kinds = torch.tensor(frequencies, dtype=torch.float32)
    kind = int(torch.multinomial(kinds, 1, generator=generator))
    views = torch.zeros(size, dtype=torch.long)
    wobble_deg = torch.zeros(size)
    is_opposite = torch.zeros(size, dtype=torch.bool)
    if kind == 1:
        n_views = int(torch.randint(2, max(config.general_views, 2) + 1, (), generator=generator))
        views = torch.arange(size) % n_views
    elif kind == 2:
        strangers = torch.rand((), generator=generator) * config.max_strangers
        is_stranger = torch.arange(size) >= size - int(strangers * size)
        # What a search returns by mistake is rarely just any view: it may be a mirror image, which is
        # the view from the other side, or a view not far away.
        lot = torch.rand(size, generator=generator)
        is_opposite = is_stranger & (lot < _OPPOSITE)
        is_near = is_stranger & ~is_opposite & (lot < _OPPOSITE + _NEAR)
        views = torch.where(is_stranger & ~is_opposite & ~is_near, torch.arange(size), views)
        limit = config.max_angle_deg * torch.rand((), generator=generator)
        # Uniform over the cap of that radius, which at these angles is flat.
        wobble_deg = limit * torch.rand(size, generator=generator).sqrt()
        near_deg = config.max_angle_deg + _NEAR_RANGE_DEG * torch.rand(size, generator=generator)
        wobble_deg = torch.where(is_near, near_deg, wobble_deg)
    base = random_rotations(size, generator)[views]
    azimuth = 2 * math.pi * torch.rand(size, generator=generator)
    in_plane = 2 * math.pi * torch.rand(size, generator=generator)
    tilt = torch.deg2rad(wobble_deg + 180.0 * is_opposite)
    # Turn about the z axis, tilt about y, turn back and on by a random in-plane angle.
    return _about_z(in_plane) @ _about_y(tilt) @ _about_z(azimuth) @ base


def _about_z(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [angle.cos(), angle.sin(), zero, -angle.sin(), angle.cos(), zero, zero, zero, one]
    matrix: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return matrix


def _about_y(angle: Tensor) -> Tensor:
    zero, one = torch.zeros_like(angle), torch.ones_like(angle)
    rows = [angle.cos(), zero, -angle.sin(), zero, one, zero, angle.sin(), zero, angle.cos()]
    matrix: Tensor = torch.stack(rows, -1).unflatten(-1, (3, 3))
    return matrix
