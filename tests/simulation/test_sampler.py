import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from polarice.conventions import view_angle_deg
from polarice.imaging import radius_grid
from polarice.simulation.bank import StructureBank
from polarice.simulation.sampler import SamplerConfig, SetSampler
from polarice.simulation.structure import Structure

# Nothing but projections: what a test wants is switched on by it.
PLAIN = SamplerConfig(
    box=32,
    set_size=6,
    directional=1.0,
    general=0.0,
    neighbourhood=0.0,
    diameter=(0.4, 0.6),
    blur_px=(1.0, 1.5),
    ctf=0.0,
    max_shift_px=0.0,
    crowded=0.0,
)


@pytest.fixture(scope="module")
def bank() -> StructureBank:
    rng = np.random.default_rng(0)
    sizes = (40, 90, 300, 5000)  # the last has more atoms than are drawn
    return StructureBank.from_structures(
        Structure(
            str(n), rng.normal(0, 15, (n, 3)).astype(np.float32), rng.choice([6, 7, 8], n).astype(np.uint8)
        )
        for n in sizes
    )


@pytest.fixture(scope="module")
def dumbbell() -> StructureBank:
    """Two atoms 100 Å apart: where they are seen is known in closed form."""
    ends = np.array([[50, 0, 0], [-50, 0, 0]], np.float32)
    return StructureBank.from_structures([Structure("dumbbell", ends, np.array([8, 8], np.uint8))])


def test_shapes(bank: StructureBank) -> None:
    batch = SetSampler(bank, PLAIN).batch(0, 3)
    assert batch.noisy.shape == batch.clean.shape == (3, 6, 32, 32)
    assert batch.noisy.dtype == batch.clean.dtype == torch.float32
    assert batch.rotations.shape == (3, 6, 3, 3)
    assert batch.shifts_px.shape == (3, 6, 2)
    assert batch.snr.shape == (3,)
    assert batch.mask.shape == (3, 6, 6)
    identity = batch.rotations @ batch.rotations.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.det(batch.rotations), torch.ones(3, 6))


def test_a_set_depends_on_seed_and_index_alone(bank: StructureBank) -> None:
    config = SamplerConfig(box=32, set_size=6)
    sampler = SetSampler(bank, config, seed=5)
    together = sampler.batch(3, 6)
    for i in range(6):
        for mine, alone in zip(together, SetSampler(bank, config, seed=5).batch(3 + i, 1), strict=True):
            assert torch.equal(mine[i : i + 1], alone)
    torch.rand(3)  # the global generator has no say
    assert torch.equal(sampler.batch(3, 6).noisy, together.noisy)
    assert not torch.equal(SetSampler(bank, config, seed=6).batch(3, 1).noisy, together.noisy[:1])
    assert not torch.equal(together.noisy[0], together.noisy[1])


@pytest.mark.parametrize("ctf", [0.0, 1.0])
def test_snr_is_as_asked(ctf: float, bank: StructureBank) -> None:
    """Two samplers draw the same noise: their difference is signal, after the CTF, and nothing else."""
    low, high = (
        SetSampler(bank, replace(PLAIN, ctf=ctf, snr=(snr, snr))).batch(0, 8) for snr in (0.04, 0.16)
    )
    # Twice the amplitude minus once the amplitude.
    signal = (high.noisy - low.noisy).square().mean((1, 2, 3))
    torch.testing.assert_close(signal, torch.full((8,), 0.04), rtol=0.1 if ctf else 0.02, atol=0)
    torch.testing.assert_close(high.clean, 2 * low.clean)
    if not ctf:
        torch.testing.assert_close(low.clean.square().mean((1, 2, 3)), low.snr, rtol=1e-4, atol=0)


def test_snr_is_log_uniform_over_its_range(bank: StructureBank) -> None:
    config = replace(PLAIN, box=8, set_size=2, snr=(0.01, 1.0))
    snr = SetSampler(bank, config).batch(0, 200).snr
    assert float(snr.min()) >= 0.01
    assert float(snr.max()) <= 1.0
    assert float(snr.log10().mean()) == pytest.approx(-1, abs=0.15)
    assert float(snr.log10().std()) == pytest.approx(2 / math.sqrt(12), abs=0.08)


def test_noise_is_white_with_variance_one_inside_the_disc(bank: StructureBank) -> None:
    noisy = SetSampler(bank, replace(PLAIN, snr=(1e-9, 1e-9))).batch(0, 40).noisy
    # The smallest disc that can be drawn is 1 up to the particle's radius.
    inside = radius_grid(32) <= 0.4 * 32 / 2
    assert float(noisy[..., inside].var()) == pytest.approx(1, abs=0.03)
    assert float(noisy[..., inside].mean()) == pytest.approx(0, abs=0.02)
    neighbours = (noisy[..., 16, 14:18] * noisy[..., 16, 15:19]).mean()
    assert abs(float(neighbours)) < 0.1
    assert not noisy[..., radius_grid(32) > 16].any()
    # Most discs are as large as the box, some are tighter.
    edge = (noisy[:, :, radius_grid(32).round() == 11].std((1, 2)) > 0.9).float().mean()
    assert 0.5 < float(edge) < 1.0


def test_directional_sets_show_one_view(bank: StructureBank) -> None:
    batch = SetSampler(bank, PLAIN).batch(0, 4)
    views = batch.rotations[:, :, 2]
    torch.testing.assert_close(views, views[:, :1].expand_as(views), rtol=0, atol=1e-6)
    # In-plane angles differ, and differ between sets too.
    x = batch.rotations[:, :, 0]
    assert float((x[:, 1:] - x[:, :1]).norm(dim=-1).min()) > 1e-3
    # In-plane rotation keeps the power.
    power = batch.clean.square().sum((2, 3))
    torch.testing.assert_close(power, power[:, :1].expand_as(power), rtol=0.02, atol=0)


def test_given_orientations_change_nothing_else(bank: StructureBank) -> None:
    sampler = SetSampler(bank, PLAIN)
    drawn = sampler.batch(0, 2)
    again = sampler.batch(0, 2, drawn.rotations)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    # The other way round: the second set's molecule under the first set's views.
    swapped = sampler.batch(0, 2, drawn.rotations.flip(0))
    assert torch.equal(swapped.rotations, drawn.rotations.flip(0))
    shared = (swapped.noisy - swapped.clean) - (drawn.noisy - drawn.clean)
    inside = radius_grid(32) < 10
    assert float((shared * inside).abs().max()) < 1e-5
    assert not torch.allclose(swapped.clean, drawn.clean)


def test_fraction_of_tight_masks(bank: StructureBank) -> None:
    def covered(masked: float) -> Tensor:
        config = replace(PLAIN, diameter=(0.4, 0.4), set_size=1, masked=masked)
        return (SetSampler(bank, config).batch(0, 40).noisy != 0).float().mean((1, 2, 3))

    assert covered(0.0).unique().numel() == 1
    tight = covered(1.0)
    assert tight.unique().numel() > 5
    assert bool((tight <= covered(0.0)).all())


def test_general_sets_show_several_views_in_equal_shares(bank: StructureBank) -> None:
    config = replace(PLAIN, box=8, set_size=12, directional=0.0, general=1.0, general_views=4)
    seen = set()
    for rotations in SetSampler(bank, config).batch(0, 40).rotations:
        same = view_angle_deg(rotations[:, None], rotations[None]) < 0.5
        shares = same.sum(-1)
        views = 12 // int(shares[0])
        assert shares.tolist() == [12 // views] * 12
        seen.add(views)
    assert seen == {2, 3, 4}


def test_neighbourhood_limits(bank: StructureBank) -> None:
    config = replace(
        PLAIN, box=8, set_size=16, directional=0.0, neighbourhood=1.0, max_angle_deg=12.0, max_strangers=0.5
    )
    largest, strangers = [], []
    for rotations in SetSampler(bank, config).batch(0, 60).rotations:
        # Neighbours come first and lie within a cap: no two further apart than its diameter.
        angle = view_angle_deg(rotations[:8, None], rotations[None, :8])
        largest.append(float(angle.max()))
        centre = rotations[:8, 2].mean(0)
        off = torch.rad2deg((rotations[:, 2] @ (centre / centre.norm())).clamp(-1, 1).arccos())
        strangers.append(float((off > 25).float().mean()))
    assert max(largest) <= 24.0
    assert max(largest) > 12.0
    assert min(largest) < 6.0
    assert max(strangers) <= 0.5
    assert max(strangers) > 0.3
    assert min(strangers) < 0.1


def test_masks_divide_sets_into_parts_of_every_size(bank: StructureBank) -> None:
    whole = SetSampler(bank, replace(PLAIN, box=8, divided=0.0)).batch(0, 3).mask
    assert whole.dtype == torch.bool
    assert bool(whole.all())
    masks = SetSampler(bank, replace(PLAIN, box=8, set_size=8, divided=1.0)).batch(0, 60).mask
    assert torch.equal(masks, masks.transpose(1, 2))
    assert bool(masks.diagonal(dim1=1, dim2=2).all())
    # Belonging together is transitive: squaring the relation adds nothing.
    assert torch.equal((masks.float() @ masks.float()) > 0, masks)
    sizes = masks.sum(-1)
    assert bool((sizes == sizes[:, :1]).all())
    assert set(sizes[:, 0].tolist()) == {1, 2, 4}
    some = SetSampler(bank, replace(PLAIN, box=8, divided=0.5)).batch(0, 80).mask.all((1, 2))
    assert float(some.float().mean()) == pytest.approx(0.5, abs=0.2)


def test_kinds_come_at_their_frequencies(bank: StructureBank) -> None:
    config = replace(PLAIN, box=8, set_size=8, directional=1.0, general=3.0)
    rotations = SetSampler(bank, config).batch(0, 120).rotations
    one_view = (view_angle_deg(rotations, rotations[:, :1]) < 0.5).all(1)
    assert float(one_view.float().mean()) == pytest.approx(0.25, abs=0.12)


def test_views_are_uniform(bank: StructureBank) -> None:
    config = replace(PLAIN, box=8, set_size=2)
    views = SetSampler(bank, config).batch(0, 300).rotations[:, 0, 2]
    assert float(views.mean(0).norm()) < 0.12
    torch.testing.assert_close(views.T @ views / 300, torch.eye(3) / 3, rtol=0, atol=0.08)


def centre_of_mass(images: Tensor) -> Tensor:
    axis = torch.arange(images.shape[-1]) - images.shape[-1] // 2
    moments = torch.stack([(images * axis).sum((-2, -1)), (images * axis[:, None]).sum((-2, -1))], -1)
    return moments / images.sum((-2, -1))[..., None]


@pytest.mark.parametrize("ctf", [0.0, 1.0])
def test_clean_lies_where_the_shift_says(ctf: float, bank: StructureBank) -> None:
    config = replace(PLAIN, max_shift_px=3.0, ctf=ctf, blur_px=(1.2, 1.2))
    batch = SetSampler(bank, config).batch(0, 8)
    torch.testing.assert_close(centre_of_mass(batch.clean), batch.shifts_px, rtol=0, atol=0.05)
    distance = batch.shifts_px.norm(dim=-1)
    assert float(distance.max()) <= 3.0
    assert float(distance.max()) > 2.0
    # Uniform over the disc: the mean distance is two thirds of its radius.
    assert float(distance.mean()) == pytest.approx(2.0, abs=0.3)


def test_clean_has_no_ctf_and_no_neighbours(bank: StructureBank) -> None:
    plain = SetSampler(bank, PLAIN).batch(0, 6)
    for changed in ({"ctf": 1.0}, {"crowded": 1.0}):
        other = SetSampler(bank, replace(PLAIN, **changed)).batch(0, 6)
        for now, before in zip(other.clean.flatten(1), plain.clean.flatten(1), strict=True):
            assert float(torch.cosine_similarity(now, before, dim=0)) == pytest.approx(1, abs=1e-5)
        assert not torch.equal(other.noisy, plain.noisy)


def test_neighbours_lie_beside_the_particle(bank: StructureBank) -> None:
    """What crowding adds is bright, and nearer to the edge than to the centre."""
    config = replace(PLAIN, snr=(1.0, 1.0), diameter=(0.5, 0.5))
    alone = SetSampler(bank, config).batch(0, 8)
    crowded = SetSampler(bank, replace(config, crowded=1.0)).batch(0, 8)
    added = crowded.noisy - alone.noisy
    assert float(added.mean()) > 0
    power = added.square().mean((0, 1))
    near, far = radius_grid(32) < 4, (radius_grid(32) > 8) & (radius_grid(32) < 11)
    assert float(power[far].mean()) > 5 * float(power[near].mean())


def test_diameter_and_blur_are_in_range(dumbbell: StructureBank) -> None:
    """Second moment of two atoms: (d / 2)² |projected axis|² + 2 σ²; several views tell d and σ apart."""
    config = replace(
        PLAIN, box=64, set_size=8, directional=0.0, general=1.0, general_views=8, diameter=(0.3, 0.7)
    )
    batch = SetSampler(dumbbell, config).batch(0, 60)
    squared = radius_grid(64) ** 2
    moment = (batch.clean * squared).sum((2, 3)) / batch.clean.sum((2, 3))
    projected = batch.rotations[:, :, :2, 0].square().sum(-1)
    diameters, blurs = [], []
    for y, x in zip(moment, projected, strict=True):
        if float(x.std()) < 0.25:  # views too much alike to tell the two apart
            continue
        solution = torch.linalg.lstsq(torch.stack([x, torch.ones(8)], -1), y[:, None]).solution
        diameters.append(2 * math.sqrt(float(solution[0])) / 64)
        blurs.append(math.sqrt(float(solution[1]) / 2))
    assert 0.29 < min(diameters) < 0.35
    assert 0.65 < max(diameters) < 0.71
    assert 0.9 < min(blurs) < 1.1
    assert 1.4 < max(blurs) < 1.55


def test_projection_follows_the_convention(dumbbell: StructureBank) -> None:
    """An atom at r is seen at (A r)[:2]: the peaks lie on the line that the rotation says."""
    batch = SetSampler(dumbbell, replace(PLAIN, diameter=(0.6, 0.6))).batch(0, 10)
    axis = torch.arange(32) - 16.0
    total = batch.clean.sum((2, 3))
    xx = (batch.clean * axis**2).sum((2, 3)) / total
    yy = (batch.clean * axis[:, None] ** 2).sum((2, 3)) / total
    xy = (batch.clean * axis * axis[:, None]).sum((2, 3)) / total
    seen = 9.6 * batch.rotations[:, :, :2, 0]
    torch.testing.assert_close(xy, seen[..., 0] * seen[..., 1], rtol=0, atol=0.5)
    torch.testing.assert_close(xx - yy, seen[..., 0] ** 2 - seen[..., 1] ** 2, rtol=0, atol=0.5)


@pytest.mark.data
def test_real_structures(shared_data: Path) -> None:
    bank = StructureBank.load(shared_data / "structures_test.npz")
    batch = SetSampler(bank, SamplerConfig(), seed=1).batch(0, 4)
    assert bool(batch.noisy.isfinite().all())
    assert bool(batch.clean.isfinite().all())
    # Protein is bright, and lies inside the box.
    ring = radius_grid(64) > 31
    assert float(batch.clean.mean()) > 0
    assert float(batch.clean[..., ring].abs().mean()) < 0.02 * float(batch.clean.amax())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_makes_the_same_clean_images(bank: StructureBank) -> None:
    here = SetSampler(bank, PLAIN).batch(0, 2)
    there = SetSampler(bank, PLAIN, device="cuda").batch(0, 2)
    torch.testing.assert_close(there.clean.cpu(), here.clean, rtol=0, atol=1e-3)
    assert torch.equal(there.rotations.cpu(), here.rotations)
