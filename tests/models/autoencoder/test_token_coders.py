"""What every encoder and decoder promises: shapes, padding that nobody sees, tokens without an order, addressed noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from loopwright.config.registry import lookup, names
from loopwright.models.autoencoder.diffusion import DiffusionEncoder
from loopwright.models.autoencoder.globals_head import GlobalsHead
from loopwright.models.autoencoder.mlp import MLPDecoder, MLPEncoder
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.models.autoencoder.pooling import mean_of_real
from loopwright.models.base import Noise
from loopwright.streams import Streams

SHAPE = TokenShape(num_tokens=7, num_features=4, num_types=5, num_globals=2)
WIDTH = 6
Part = Callable[[Tensor, Tensor, Noise], Tensor]


def noise_at(step: int) -> Noise:
    streams = Streams(3)
    return lambda purpose: streams.generator(purpose, step)


def batch(width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors (5, 7, width) and types (5, 7) with 0 to 4 of padding at the end."""
    generator = Streams(seed).generator("batch")
    types = torch.randint(1, SHAPE.num_types, (5, SHAPE.num_tokens), generator=generator)
    types[torch.arange(SHAPE.num_tokens) >= 7 - torch.arange(5)[:, None]] = 0
    return torch.randn(5, SHAPE.num_tokens, width, generator=generator), types


def encoder(name: str) -> nn.Module:
    return lookup("task/encoder", name)().build(SHAPE, WIDTH)  # type: ignore[attr-defined]


def decoder(name: str) -> nn.Module:
    """The decoder, or the denoiser at one timestep as something that makes tokens of latents."""
    config = lookup("task/decoder", name)()
    module = config.build(SHAPE, WIDTH)  # type: ignore[attr-defined]
    return AtOneTimestep(module) if config.denoises else module  # type: ignore[attr-defined]


class AtOneTimestep(nn.Module):
    def __init__(self, denoiser: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, z: Tensor, types: Tensor, noise: Noise = None) -> Tensor:
        noisy = z[..., : SHAPE.num_features].contiguous()
        return self.denoiser(noisy, torch.full((len(z),), 3), types, z)  # type: ignore[no-any-return]


CODERS = [
    pytest.param(make, name, width_in, width_out, id=f"{kind}-{name}")
    for kind, make, width_in, width_out in (
        ("encoder", encoder, SHAPE.num_features, WIDTH),
        ("decoder", decoder, WIDTH, SHAPE.num_features),
    )
    for name in ("mlp", "gnn", "gan", "diffusion")
]
each_coder = pytest.mark.parametrize(("make", "name", "width_in", "width_out"), CODERS)
Make = Callable[[str], nn.Module]


def test_these_are_all_the_parts_of_the_package() -> None:
    assert {"diffusion", "gan", "gnn", "mlp"} <= set(names("task/encoder"))
    assert {"diffusion", "gan", "gnn", "mlp"} <= set(names("task/decoder"))
    assert {"linear", "none", "vq"} <= set(names("task/latent"))
    assert [name for name in ("diffusion", "gan", "gnn", "mlp") if lookup("task/decoder", name).denoises] == [  # type: ignore[attr-defined]
        "diffusion"
    ]


@each_coder
def test_shapes_gradients_and_weights_from_the_global_generator(
    make: Make, name: str, width_in: int, width_out: int
) -> None:
    torch.manual_seed(1)
    module = make(name)
    torch.manual_seed(1)
    again = make(name)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    x, types = batch(width_in)
    y = module(x, types, noise_at(1))
    assert y.shape == (5, SHAPE.num_tokens, width_out) and torch.isfinite(y).all()
    y[types != 0].square().sum().backward()
    untouched = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


@each_coder
def test_padding_has_no_part_in_what_real_tokens_become(make: Make, name: str, width_in: int, width_out: int) -> None:
    module, (x, types) = make(name).eval(), batch(width_in)
    y = module(x, types, None)
    elsewhere = torch.where((types == 0).unsqueeze(-1), 100 * torch.randn_like(x), x)
    real = types != 0
    torch.testing.assert_close(module(elsewhere, types, None)[real], y[real], rtol=0, atol=0)
    # A batch that is padded further, or not as far as another sample needs it.
    more_x, more_types = nn.functional.pad(x, (0, 0, 0, 3)), nn.functional.pad(types, (0, 3))
    torch.testing.assert_close(module(more_x, more_types, None)[:, :7][real], y[real], rtol=1e-4, atol=1e-5)
    short = module(x[4:, :3], types[4:, :3], None)
    torch.testing.assert_close(short, y[4:, :3], rtol=1e-4, atol=1e-5)


@each_coder
def test_permuting_the_tokens_permutes_what_comes_out(make: Make, name: str, width_in: int, width_out: int) -> None:
    module, (x, types) = make(name).eval(), batch(width_in)
    order = torch.tensor([6, 2, 0, 5, 1, 4, 3])
    moved = module(x[:, order], types[:, order], None)
    torch.testing.assert_close(moved, module(x, types, None)[:, order], rtol=1e-4, atol=1e-5)


@each_coder
def test_who_sees_a_neighbour(make: Make, name: str, width_in: int, width_out: int) -> None:
    module, (x, types) = make(name).eval(), batch(width_in)
    changed = x.clone()
    changed[0, 1] += 1
    change = (module(changed, types, None) - module(x, types, None)).abs().amax(-1)
    assert change[0, 1] > 1e-3
    assert not change[1:].any(), "another sample is none of its business"
    sees = name in ("gnn", "diffusion")
    assert (change[0, [0, 2, 3, 4, 5, 6]] > 1e-5).all() if sees else not change[0, [0, 2, 3, 4, 5, 6]].any()


@each_coder
def test_a_sample_of_nothing_but_padding_is_finite_with_its_gradient(
    make: Make, name: str, width_in: int, width_out: int
) -> None:
    module, (x, types) = make(name), batch(width_in)
    types[0] = 0
    y = module(x.requires_grad_(), types, None)
    assert torch.isfinite(y).all()
    y[types != 0].sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and not x.grad[types == 0].any()


@pytest.mark.parametrize(("make", "name", "purpose"), [(encoder, "diffusion", "encoder"), (decoder, "gan", "decoder")])
def test_noise_is_its_address_and_absent_outside_training(make: Make, name: str, purpose: str) -> None:
    module, (x, types) = make(name), batch(SHAPE.num_features if make is encoder else WIDTH)
    module.eval()  # the norms of `gan` are as they are
    asked: list[str] = []

    def noise(step: int) -> Noise:
        at = noise_at(step)
        assert at is not None
        return lambda address: (asked.append(address), at(address))[1]

    before = torch.get_rng_state()
    one, again, other, none = (module(x, types, given) for given in (noise(1), noise(1), noise(2), None))
    assert torch.equal(one, again) and torch.equal(none, module(x, types, None))
    assert not torch.equal(one, other) and not torch.equal(one, none)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn from the global generator"
    assert set(asked) == {purpose}


def test_the_diffusion_encoder_reads_the_noised_input_at_its_timestep() -> None:
    """Without noise it is the mean sqrt(a_t) x: as good as x itself at the first timestep, nothing at the last."""
    x, types = batch(SHAPE.num_features)
    for timestep, reads in ((0, True), (999, False)):
        module = DiffusionEncoder(timestep=timestep).build(SHAPE, WIDTH).eval()
        change = (module(x, types) - module(torch.zeros_like(x), types))[types != 0].abs().max()
        assert (change > 0.1) if reads else (change < 1e-3)


def test_an_impossible_timestep_is_refused_with_what_to_use() -> None:
    with pytest.raises(
        ValidationError, match="timestep is 1000, but timesteps=1000 are numbered from 0; use at most 999"
    ):
        DiffusionEncoder(timestep=1000)


def test_mlp_sizes_are_the_pages() -> None:
    """Type embedding 8 joined with the features, 128-128, latent 32."""
    sizes = {name: tuple(p.shape) for name, p in MLPEncoder().build(SHAPE, 32).named_parameters() if "bias" not in name}
    assert list(sizes.values()) == [(5, 8), (128, 12), (128, 128), (32, 128)]
    sizes = {name: tuple(p.shape) for name, p in MLPDecoder().build(SHAPE, 32).named_parameters() if "bias" not in name}
    assert list(sizes.values()) == [(5, 8), (128, 40), (128, 128), (4, 128)]
    linear = MLPEncoder(hidden=(), type_width=2).build(SHAPE, 3)
    assert [tuple(p.shape) for p in linear.parameters()] == [(5, 2), (3, 6), (3,)]


def test_the_globals_head_sees_the_mean_of_real_tokens() -> None:
    head, (z, types) = GlobalsHead(WIDTH, SHAPE.num_globals), batch(WIDTH)
    y = head(z, types)
    assert y.shape == (5, 2) and head.up.out_features == 32
    z_other = torch.where((types == 0).unsqueeze(-1), torch.inf, z)
    assert torch.equal(head(z_other, types), y)
    means = torch.stack([z[i, types[i] != 0].mean(0) for i in range(5)])
    torch.testing.assert_close(mean_of_real(z, types), means)
    assert torch.equal(mean_of_real(z, torch.zeros_like(types)), torch.zeros(5, WIDTH))
    y.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in head.parameters())
