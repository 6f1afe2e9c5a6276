"""The denoiser: what it depends on, latents as its data, and that it learns to find noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from loopwright.models.autoencoder.diffusion import Denoiser, TimestepEmbedding
from loopwright.models.autoencoder.parts import TokenShape
from loopwright.models.autoencoder.schedule import NoiseSchedule
from loopwright.streams import Streams

SHAPE = TokenShape(num_tokens=5, num_features=4, num_types=4, num_globals=0)
WIDTH = 6


def batch(samples: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = Streams(0).generator("batch")
    types = torch.randint(1, 4, (samples, 5), generator=generator)
    types[0, 3:] = 0
    noisy, z = torch.randn(samples, 5, 4, generator=generator), torch.randn(samples, 5, WIDTH, generator=generator)
    return noisy, torch.randint(1000, (samples,), generator=generator), types, z


def test_depends_on_the_timestep_the_types_and_the_condition_of_its_own_sample() -> None:
    module, (noisy, timestep, types, z) = Denoiser(SHAPE, WIDTH), batch()
    y = module(noisy, timestep, types, z)
    assert y.shape == noisy.shape

    def changed(*given: Tensor) -> list[bool]:
        return ((module(*given) - y).abs().amax((1, 2)) > 1e-4).tolist()

    only_2 = [index == 2 for index in range(6)]
    assert changed(noisy, timestep + 300 * torch.tensor(only_2), types, z) == only_2
    assert changed(noisy, timestep, types, z + torch.tensor(only_2)[:, None, None]) == only_2
    other_types = types.clone()
    other_types[2] = types[2] % 3 + 1
    assert changed(noisy, timestep, other_types, z) == only_2


def test_latents_are_data_like_any_other_and_a_width_of_0_is_no_condition() -> None:
    _, timestep, types, z = batch()
    module = Denoiser(SHAPE._replace(num_features=WIDTH), 0)
    y = module(z, timestep, types)
    assert y.shape == z.shape
    assert torch.equal(module(z, timestep, types, torch.randn_like(z)), y)


def test_timesteps_have_embeddings_of_their_own_at_any_width() -> None:
    for hidden in (1, 5, 32):
        module = TimestepEmbedding(hidden)
        assert module(torch.arange(4)).shape == (4, hidden)
        assert "rates" not in module.state_dict()
    embedding = TimestepEmbedding(32)
    distance = torch.cdist(embedding(torch.arange(1000)), embedding(torch.arange(1000)))
    assert distance.fill_diagonal_(1.0).min() > 1e-4


def test_learns_to_find_the_noise_and_its_samples_look_like_the_data() -> None:
    """Tokens whose mean is their type: after 200 steps DDIM puts each type where it belongs."""
    schedule, module = NoiseSchedule(100, "cosine"), Denoiser(SHAPE, 0, hidden=24, rounds=1)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    generator = Streams(1).generator("training")
    losses = []
    for _ in range(200):
        types = torch.randint(1, 4, (32, 5), generator=generator)
        x = (types - 2.0).unsqueeze(-1) + 0.1 * torch.randn(32, 5, 4, generator=generator)
        noise = torch.randn(32, 5, 4, generator=generator)
        timestep = torch.randint(100, (32,), generator=generator)
        loss = (module(schedule.add_noise(x, noise, timestep), timestep, types) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.4 * losses[0]
    types = torch.randint(1, 4, (40, 5), generator=generator)
    with torch.inference_mode():
        made = schedule.ddim(
            lambda x, timestep: module(x, timestep, types), torch.randn(40, 5, 4, generator=generator), 20
        )
    for kind in (1, 2, 3):
        assert made[types == kind].mean().item() == pytest.approx(kind - 2, abs=0.25)
        assert made[types == kind].std().item() < 0.5
