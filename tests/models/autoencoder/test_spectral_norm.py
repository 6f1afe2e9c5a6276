"""The parts of `gan`: weights of spectral norm 1, a power iteration that is state, a discriminator blind to padding."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from loopwright.models.autoencoder.gan import Discriminator, GANDecoder, GANEncoder, ResidualBlock
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.streams import Streams

SHAPE = TokenShape(num_tokens=6, num_features=4, num_types=5, num_globals=0)


def batch() -> tuple[Tensor, Tensor]:
    generator = Streams(0).generator("batch")
    types = torch.randint(1, 5, (7, 6), generator=generator)
    types[torch.arange(6) >= torch.arange(7)[:, None]] = 0  # 0 to 6 real tokens
    return torch.randn(7, 6, 4, generator=generator), types


def norms(module: nn.Module) -> list[float]:
    """Of every normed weight. In evaluation mode: reading such a weight in training refines its norm."""
    module.eval()
    return [
        torch.linalg.matrix_norm(layer.weight.detach(), 2).item()
        for layer in module.modules()
        if isinstance(layer, nn.Linear) and nn.utils.parametrize.is_parametrized(layer)
    ]


def build(part: str) -> nn.Module:
    if part == "discriminator":
        return Discriminator(SHAPE)
    return GANEncoder().build(SHAPE, 8) if part == "encoder" else GANDecoder().build(SHAPE, 4)


each_part = pytest.mark.parametrize("part", ["encoder", "decoder", "discriminator"])


@each_part
def test_every_normed_weight_has_spectral_norm_1(part: str) -> None:
    module, (x, types) = build(part), batch()
    assert len(norms(module)) == (10 if part == "discriminator" else 5)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(10):
        loss = module.train()(x, types).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for _ in range(30):
        module.train()(x, types)
    assert norms(module) == pytest.approx([1.0] * len(norms(module)), rel=0.05)


@each_part
def test_the_power_iteration_is_state_that_training_alone_changes(part: str) -> None:
    module, (x, types) = build(part), batch()
    held = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    vectors = [name for name in held if name.endswith(("._u", "._v"))]
    assert len(vectors) == 2 * len(norms(module))
    module.eval()
    with torch.inference_mode():
        first = module(x, types)
        assert torch.equal(module(x, types), first)
    assert all(torch.equal(tensor, held[name]) for name, tensor in module.state_dict().items())
    module.train()
    module(x, types)
    assert any(not torch.equal(module.state_dict()[name], held[name]) for name in vectors)
    assert all(torch.equal(tensor, held[name]) for name, tensor in module.state_dict().items() if name not in vectors)


@each_part
def test_goes_on_from_its_state_to_the_same_bits(part: str) -> None:
    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        loss = module(*batch()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    module, resumed = build(part), build(part)
    optimizer, other = (torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (module, resumed))
    for _ in range(3):
        step(module, optimizer)
    resumed.load_state_dict(deepcopy(module.state_dict()))
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    assert [step(module, optimizer) for _ in range(3)] == [step(resumed, other) for _ in range(3)]
    assert all(torch.equal(held, resumed.state_dict()[name]) for name, held in module.state_dict().items())


def test_the_first_vectors_come_from_the_global_generator_at_build_time() -> None:
    torch.manual_seed(4)
    one = Discriminator(SHAPE)
    torch.manual_seed(4)
    two = Discriminator(SHAPE)
    assert all(torch.equal(held, two.state_dict()[name]) for name, held in one.state_dict().items())


def test_discriminator_is_blind_to_padding_and_to_the_order_of_tokens() -> None:
    module, (x, types) = Discriminator(SHAPE).eval(), batch()
    logits = module(x, types)
    assert logits.shape == (7,) and torch.isfinite(logits).all()
    elsewhere = torch.where((types == 0).unsqueeze(-1), 100.0, x)
    assert torch.equal(module(elsewhere, types), logits)
    order = torch.tensor([3, 5, 1, 0, 2, 4])
    torch.testing.assert_close(module(x[:, order], types[:, order]), logits)
    more, more_types = nn.functional.pad(x, (0, 0, 0, 2)), nn.functional.pad(types, (0, 2))
    torch.testing.assert_close(module(more, more_types), logits)
    changed = x.clone()
    changed[3, 1] += 1
    assert (module(changed, types) != logits).tolist() == [False] * 3 + [True] + [False] * 3


def test_discriminator_gradients_reach_every_parameter_and_the_tokens() -> None:
    module, (x, types) = Discriminator(SHAPE), batch()
    module(x.requires_grad_(), types).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())
    assert x.grad is not None and x.grad[types != 0].abs().sum(-1).gt(0).all() and not x.grad[types == 0].any()


def test_discriminator_learns_to_tell_blurred_samples_from_originals() -> None:
    generator = Streams(1).generator("blur")
    x, types = torch.randn(64, 6, 4, generator=generator), torch.ones(64, 6).long()
    module = Discriminator(SHAPE)
    optimizer = torch.optim.Adam(module.parameters(), lr=5e-3)
    for _ in range(40):
        loss = nn.functional.softplus(-module(x, types)).mean() + nn.functional.softplus(module(0.5 * x, types)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = torch.cat([module(x, types) > 0, module(0.5 * x, types) < 0]).float().mean().item()
    assert right > 0.75


def test_a_residual_block_without_weights_is_the_identity() -> None:
    block, x = ResidualBlock(5), torch.randn(3, 5)
    with torch.no_grad():
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    block.eval()
    torch.testing.assert_close(block(torch.zeros(3, 5)), torch.zeros(3, 5))
    # Each of its two layers has norm 1, so the block changes lengths by at most GELU's slope squared (1.13^2).
    assert ((block(x) - x).norm(dim=1) <= 1.3 * x.norm(dim=1)).all()


def test_noise_width_0_makes_a_decoder_without_noise() -> None:
    module = GANDecoder(noise_width=0).build(SHAPE, 4).eval()
    x, types = batch()
    assert torch.equal(module(x, types, lambda purpose: torch.Generator()), module(x, types))
