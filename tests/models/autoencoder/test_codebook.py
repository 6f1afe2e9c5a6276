"""The codebook: equal to a reference layer, blind to padding, unchanged by `forward`, well used."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from loopwright.models.autoencoder.latents import LinearLatent, NoLatent
from loopwright.models.autoencoder.parts import Coded
from loopwright.models.autoencoder.vq import Codebook, VQLatent
from loopwright.streams import Streams

K, L, B, T = 24, 6, 16, 9


def encodings(step: int, samples: int = B) -> tuple[Tensor, Tensor]:
    """Clustered encodings (B, T, L) and types (B, T), the last 0 to 4 tokens of a sample padding."""
    generator = Streams(5).generator("encodings", step)
    centres = torch.randn(40, L, generator=Streams(5).generator("centres"))
    chosen = torch.randint(40, (samples, T), generator=generator)
    z = centres[chosen] + 0.1 * torch.randn(samples, T, L, generator=generator)
    types = torch.randint(1, 5, (samples, T), generator=generator)
    types[torch.arange(T) >= T - torch.randint(5, (samples, 1), generator=generator)] = 0
    return z, types


def pair(restart: float = 0.0) -> tuple[Codebook, VectorQuantize]:
    """Ours and the reference's, from one first codebook."""
    ours = VQLatent(codes=K, restart=restart).build(L)
    theirs = VectorQuantize(
        dim=L,
        codebook_size=K,
        decay=0.99,
        commitment_weight=0.25,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        rotation_trick=False,
        route_gradients_to_input=True,
    )
    assert theirs._codebook.eps == 1e-5
    theirs.codebook = ours.codes_KL.clone()
    theirs._codebook.embed_avg.copy_(ours.codes_KL)
    return ours, theirs


@pytest.mark.parametrize("padded", [False, True])
def test_thirty_steps_equal_the_reference_layer(padded: bool) -> None:
    ours, theirs = pair()
    for step in range(30):
        z, types = encodings(step)
        if not padded:
            types = torch.ones_like(types)
        real = types != 0
        mine, reference = z.clone().requires_grad_(), z.clone().requires_grad_()
        coded = ours(mine, types)
        quantized, index, loss = theirs(reference, mask=real) if padded else theirs(reference)
        assert coded.codes_BT is not None and torch.equal(coded.codes_BT, index)
        torch.testing.assert_close(coded.z_BTL[real], quantized[real], rtol=0, atol=1e-6)
        torch.testing.assert_close(coded.penalty, loss.squeeze(), rtol=1e-5, atol=1e-8)
        weight = torch.randn(B, T, L)
        ((coded.z_BTL * weight)[real].sum() + coded.penalty).backward()
        ((quantized * weight)[real].sum() + loss.sum()).backward()
        assert mine.grad is not None and reference.grad is not None
        torch.testing.assert_close(mine.grad[real], reference.grad[real], rtol=1e-5, atol=1e-6)
        ours.update(mine, coded)
        torch.testing.assert_close(ours.codes_KL, theirs.codebook, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.counts_K, theirs._codebook.cluster_size[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.sums_KL, theirs._codebook.embed_avg[0], rtol=1e-5, atol=1e-5)
    ours.eval(), theirs.eval()
    z, types = encodings(99)
    torch.testing.assert_close(ours(z, types).z_BTL, theirs(z)[0], rtol=1e-5, atol=1e-5)


def test_the_formulas_by_hand() -> None:
    """Two codes in a plane, three tokens and one of padding; decay 0.5."""
    space = Codebook(2, 2, commitment=0.25, decay=0.5, restart=0.0)
    space.codes_KL.copy_(torch.tensor([[0.0, 0.0], [4.0, 0.0]]))
    space.sums_KL.copy_(space.codes_KL)
    z = torch.tensor([[[1.0, 0.0], [3.0, 1.0]], [[0.0, -1.0], [4.0, 4.0]]], requires_grad=True)
    coded = space(z, torch.tensor([[1, 2], [1, 0]]))
    assert coded.codes_BT is not None and coded.codes_BT.tolist() == [[0, 1], [0, -1]]
    mean = (1 + 2 + 1) / 6  # squared distances 1, 2 and 1 over two dimensions each
    assert coded.penalty.item() == pytest.approx(0.25 * mean)
    assert {name: (total.item() / count, count) for name, (total, count) in coded.parts.items()} == {
        "commitment": (pytest.approx(mean), 2),
        "codebook": (pytest.approx(mean), 2),
    }
    assert not any(total.requires_grad for total, _ in coded.parts.values())
    coded.penalty.backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad[1, 0], torch.tensor([0.0, -1.0]) * 2 * 0.25 / 6)
    assert z.grad[1, 1].tolist() == [0, 0], "padding commits to nothing"
    space.update(z, coded)
    assert space.counts_K.tolist() == [1.5, 1.0]
    assert space.sums_KL.tolist() == [[0.5, -0.5], [3.5, 0.5]]
    smoothed = [(n + 1e-5) / (2.5 + 2e-5) * 2.5 for n in (1.5, 1.0)]
    torch.testing.assert_close(space.codes_KL, space.sums_KL / torch.tensor(smoothed)[:, None])


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_forward_changes_nothing_and_padding_neither_votes_nor_counts(restart: float) -> None:
    space, (z, types) = VQLatent(codes=K, restart=restart).build(L).train(), encodings(0)
    before = {name: held.clone() for name, held in space.state_dict().items()}
    assert set(before) == {"codes_KL", "counts_K", "sums_KL"}, "everything that the averages need is state"
    coded = space(z, types)
    assert all(torch.equal(held, before[name]) for name, held in space.state_dict().items())
    other = torch.where((types == 0).unsqueeze(-1), 50.0, z)
    other_coded = space(other, types)
    assert torch.equal(other_coded.penalty, coded.penalty)
    space.update(z, coded)
    after = {name: held.clone() for name, held in space.state_dict().items()}
    space.load_state_dict(before)
    space.update(other, other_coded)
    assert all(torch.equal(held, after[name]) for name, held in space.state_dict().items())
    # Neither does a batch padded further.
    space.load_state_dict(before)
    wide, wide_types = torch.nn.functional.pad(z, (0, 0, 0, 4)), torch.nn.functional.pad(types, (0, 4))
    space.update(wide, space(wide, wide_types))
    torch.testing.assert_close(dict(space.state_dict()), after)


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_goes_on_from_its_state_to_the_same_bits(restart: float) -> None:
    space = VQLatent(codes=K, restart=restart).build(L)
    for step in range(3):
        z, types = encodings(step)
        space.update(z, space(z, types))
    resumed = VQLatent(codes=K, restart=restart).build(L)
    resumed.load_state_dict(space.state_dict())
    for step in range(3, 6):
        z, types = encodings(step)
        one, two = space(z, types), resumed(z, types)
        assert torch.equal(one.z_BTL, two.z_BTL) and torch.equal(one.penalty, two.penalty)
        space.update(z, one)
        resumed.update(z, two)
    assert all(torch.equal(held, resumed.state_dict()[name]) for name, held in space.state_dict().items())


def test_of_equally_near_codes_the_lowest_number_wins() -> None:
    space = VQLatent(codes=300).build(L)
    space.codes_KL.copy_(torch.randn(3, L).repeat(100, 1))
    z, types = encodings(0, samples=200)
    codes = space(z, types).codes_BT
    assert codes is not None and set(codes.unique().tolist()) == {-1, 0, 1, 2}


def test_an_unused_code_is_lost_without_restarts_and_found_again_with_them() -> None:
    def used_after(restart: float) -> int:
        torch.manual_seed(0)
        space = VQLatent(codes=K, restart=restart).build(L)
        for step in range(40):
            z, types = encodings(step)
            space.update(z, space(z, types))
        codes = space(*encodings(99, samples=100)).codes_BT
        assert codes is not None and torch.isfinite(space.codes_KL).all()
        return len(codes[codes >= 0].unique())

    assert used_after(0.0) < 20
    assert used_after(0.3) == K


def test_the_first_update_places_every_code_that_nobody_chose_on_an_encoding_of_its_own() -> None:
    space = VQLatent(codes=100).build(L)
    z, types = encodings(0, samples=64)
    coded = space(z, types)
    assert coded.codes_BT is not None
    chosen = coded.codes_BT[coded.codes_BT >= 0].unique()
    space.update(z, coded)
    unchosen = [k for k in range(100) if k not in chosen]
    distance = torch.cdist(space.codes_KL[unchosen], z[types != 0])
    assert len(unchosen) > 50 and distance.amin(1).max() < 5e-3  # the smoothing moves them by as much
    assert len(distance.argmin(1).unique()) == len(unchosen), "no two codes on one encoding"
    # From all over the batch, and from every place of a sample.
    position = torch.arange(64 * T).view(64, T)[types != 0][distance.argmin(1)]
    assert (position % T).unique().numel() == T and (position // T).unique().numel() > 32


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_batches_of_padding_alone_and_of_one_token_stay_finite(restart: float) -> None:
    space = VQLatent(codes=K, restart=restart).build(L)
    z, types = encodings(0, samples=1)
    for real in (0, 1, 0, T):
        only = torch.where(torch.arange(T) < real, 1, torch.zeros_like(types))
        coded = space(z.requires_grad_(), only)
        assert coded.penalty.item() >= 0
        space.update(z, coded)
        assert all(torch.isfinite(held).all() for held in space.state_dict().values())


def test_distances_are_judged_in_float32_under_autocast() -> None:
    space, (z, types) = VQLatent(codes=K).build(L), encodings(0)
    z, first = z.bfloat16(), {name: held.clone() for name, held in space.state_dict().items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coded = space(z.requires_grad_(), types)
        space.update(z, coded)
    plain = VQLatent(codes=K).build(L)
    plain.load_state_dict(first)
    assert coded.penalty.dtype == coded.z_BTL.dtype == torch.float32
    assert torch.equal(coded.penalty, plain(z.detach().float(), types).penalty)
    plain.update(z.float(), coded)
    assert torch.equal(space.codes_KL, plain.codes_KL)


def test_settle_is_the_nearest_code_and_reports_are_declared() -> None:
    latent = VQLatent(codes=K)
    space, (z, _) = latent.build(L), encodings(0)
    settled = space.settle(z)
    nearest = torch.cdist(z.reshape(-1, L), space.codes_KL).argmin(1)
    assert torch.equal(settled.reshape(-1, L), space.codes_KL[nearest])
    assert torch.equal(space.settle(settled), settled)
    assert space.num_codes == K
    assert set(latent.metrics()) == {*space(z, torch.ones(B, T).long()).parts, "perplexity", "dead_codes"}


def test_defaults_are_the_pages_and_impossible_values_are_refused() -> None:
    space = VQLatent().build(32)
    assert (space.num_codes, tuple(space.codes_KL.shape), space.commitment, space.decay) == (512, (512, 32), 0.25, 0.99)
    assert space.codes_KL.std().item() == pytest.approx(1 / math.sqrt(3 * 32), rel=0.05)
    for wrong in ({"codes": 1}, {"decay": 1.0}, {"commitment": -0.1}, {"restart": 1.0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            VQLatent(**wrong)


def test_continuous_spaces_have_no_penalty_no_codes_and_take_any_latent() -> None:
    z, types = encodings(0)
    for latent in (NoLatent(), LinearLatent()):
        space = latent.build(L)
        coded = space(z.requires_grad_(), types)
        assert coded.z_BTL.shape == z.shape and coded.penalty.item() == 0 and not coded.parts
        assert coded.codes_BT is None and space.num_codes == 0 and latent.metrics() == {}
        assert torch.equal(space.settle(z), z)
        before = {name: held.clone() for name, held in space.state_dict().items()}
        space.update(z, coded)
        assert all(torch.equal(held, before[name]) for name, held in space.state_dict().items())
    assert NoLatent().build(L)(z, types).z_BTL is z
    linear = LinearLatent().build(L)
    coded = linear(z, types)
    coded.z_BTL.sum().backward()
    assert {name: tuple(p.shape) for name, p in linear.named_parameters()} == {"map.weight": (L, L), "map.bias": (L,)}
    assert all(p.grad is not None and p.grad.any() for p in linear.parameters())


def test_nothing_of_an_update_reaches_the_graph() -> None:
    space, (z, types) = VQLatent(codes=K).build(L), encodings(0)
    z.requires_grad_()
    coded = space(z, types)
    space.update(z, coded)
    assert isinstance(coded, Coded) and not any(held.requires_grad for held in space.buffers())
    coded.penalty.backward()  # what was saved for the backward pass is as it was
    assert not list(space.parameters())
