"""The noise schedule against the schedulers of diffusers: betas, noising, ancestral and DDIM steps."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from loopwright.models.autoencoder.schedule import NoiseSchedule
from loopwright.streams import Streams

KINDS = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
each_kind = pytest.mark.parametrize("kind", list(KINDS))


def theirs(scheduler: type, timesteps: int, kind: str, **more: object):
    scale = 1000 / timesteps
    return scheduler(
        num_train_timesteps=timesteps,
        beta_schedule=KINDS[kind],
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        **{"clip_sample": False, **more},
    )


def denoise(x: Tensor, timestep_B: Tensor) -> Tensor:
    """A plain stand-in for a network: a smooth function of both arguments."""
    return 0.9 * x + 0.1 * torch.sin(3 * x + timestep_B.float().view(-1, 1, 1) / 100)


@each_kind
@pytest.mark.parametrize("timesteps", [1000, 250, 40])
def test_betas_and_what_is_left_of_the_signal(kind: str, timesteps: int) -> None:
    ours, reference = NoiseSchedule(timesteps, kind), theirs(DDPMScheduler, timesteps, kind)
    torch.testing.assert_close(ours.betas(), reference.betas, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.signal(), reference.alphas_cumprod, rtol=2e-4, atol=1e-9)
    assert ours.betas().dtype == torch.float32
    assert ours.signal()[-1] < 1e-3, "the last step is noise, whatever their number"


@pytest.mark.parametrize("timesteps", [2, 5, 20])
@each_kind
def test_few_timesteps_still_make_a_schedule(kind: str, timesteps: int) -> None:
    betas = NoiseSchedule(timesteps, kind).betas()
    assert (betas > 0).all() and (betas <= 0.999).all() and (betas.diff() >= 0).all()


@each_kind
def test_noising_equals_the_reference_and_keeps_the_variance(kind: str) -> None:
    ours, reference = NoiseSchedule(1000, kind), theirs(DDPMScheduler, 1000, kind)
    x, noise = torch.randn(6, 5, 3), torch.randn(6, 5, 3)
    timestep = torch.tensor([0, 1, 10, 500, 998, 999])
    noisy = ours.add_noise(x, noise, timestep)
    torch.testing.assert_close(noisy, reference.add_noise(x, noise, timestep), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.add_noise(x[:, 0, 0], noise[:, 0, 0], timestep), noisy[:, 0, 0])
    a = ours.signal()[timestep]
    torch.testing.assert_close(a.sqrt().square() + (1 - a).sqrt().square(), torch.ones(6))


@each_kind
@pytest.mark.parametrize("clip", [None, 1.5])
@pytest.mark.parametrize(("timesteps", "steps"), [(1000, 50), (1000, 7), (200, 200), (10, 1)])
def test_ddim_equals_the_reference(kind: str, clip: float | None, timesteps: int, steps: int) -> None:
    reference = theirs(DDIMScheduler, timesteps, kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    reference.set_timesteps(steps)
    start = torch.randn(3, 4, 2)
    x = start
    for t in reference.timesteps:
        x = reference.step(denoise(x, t.expand(3)), int(t), x, use_clipped_model_output=clip is not None).prev_sample
    ours = NoiseSchedule(timesteps, kind).ddim(denoise, start, steps, clip)
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4 * float(x.abs().max()))


@each_kind
@pytest.mark.parametrize("clip", [None, 1.5])
def test_ancestral_sampling_equals_the_reference_step_by_step(kind: str, clip: float | None) -> None:
    reference = theirs(DDPMScheduler, 100, kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0)
    start, generator = torch.randn(3, 4, 2), Streams(1).generator("reference")
    x, seen = start, []
    for t in range(99, -1, -1):
        seen.append(x)
        x = reference.step(denoise(x, torch.full((3,), t)), t, x, generator=generator).prev_sample
    asked: list[tuple[Tensor, Tensor]] = []

    def noted(x: Tensor, timestep_B: Tensor) -> Tensor:
        asked.append((x, timestep_B))
        return denoise(x, timestep_B)

    before = torch.get_rng_state()
    ours = NoiseSchedule(100, kind).ancestral(noted, start, Streams(1).generator("reference"), clip)
    assert torch.equal(torch.get_rng_state(), before)
    assert [timestep.tolist() for _, timestep in asked] == [[t] * 3 for t in range(99, -1, -1)]
    assert asked[0][1].dtype == torch.int64
    for (mine, _), held in zip(asked, seen, strict=True):
        torch.testing.assert_close(mine, held, rtol=1e-3, atol=1e-4 * float(held.abs().max()))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4 * float(x.abs().max()))


@each_kind
def test_with_the_true_noise_both_ways_lead_back_to_a_normal_distribution(kind: str) -> None:
    """For x_0 ~ N(2, 0.25) the expected noise in x_t is known: sampling with it has to give that distribution."""
    schedule = NoiseSchedule(200, kind)
    a = schedule.signal()

    def best(x: Tensor, timestep_B: Tensor) -> Tensor:
        share = a[timestep_B].view(-1, 1)
        return (1 - share).sqrt() * (x - 2 * share.sqrt()) / (0.25 * share + 1 - share)

    start = torch.randn(4000, 1, generator=Streams(2).generator("start"))
    for made in (
        schedule.ddim(best, start, 100),
        schedule.ancestral(best, start, Streams(2).generator("noise")),
    ):
        assert made.mean().item() == pytest.approx(2, abs=0.06)
        assert made.std().item() == pytest.approx(0.5, rel=0.06)


def test_ddim_is_deterministic_and_ancestral_by_address() -> None:
    schedule, start = NoiseSchedule(20, "cosine"), torch.randn(2, 3, 2)
    assert torch.equal(schedule.ddim(denoise, start, 5), schedule.ddim(denoise, start, 5))
    one, again, other = (schedule.ancestral(denoise, start, Streams(1).generator(name)) for name in ("a", "a", "b"))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("steps", [0, 21])
def test_more_steps_than_timesteps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}; use 1 to 20"):
        NoiseSchedule(20, "linear").ddim(denoise, torch.zeros(1, 1, 1), steps)


def test_a_schedule_is_a_plain_value_whose_tables_serve_training_after_evaluation() -> None:
    schedule = NoiseSchedule(37, "linear")
    with torch.inference_mode():
        schedule.ddim(denoise, torch.zeros(1, 1, 1), 2)
    x = torch.randn(2, 3, requires_grad=True)
    schedule.add_noise(x, torch.zeros(2, 3), torch.tensor([0, 36])).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0].item() == pytest.approx(math.sqrt(1 - 1e-4 * 1000 / 37), rel=1e-5)
    assert pickle.loads(pickle.dumps(schedule)) == schedule == NoiseSchedule(37, "linear")
