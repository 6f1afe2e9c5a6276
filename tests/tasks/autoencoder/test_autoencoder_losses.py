"""What each loop minimises, whom its gradients reach, and what is averaged on the side."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopwright.building import Built, build
from loopwright.engine.evaluate import evaluating
from loopwright.engine.loss import Loss
from loopwright.engine.task import At
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.adversarial import discriminator_loss, num_right
from loopwright.tasks.autoencoder.baseline import mean_error, mean_tokens
from loopwright.tasks.autoencoder.codes import code_counts, usage
from loopwright.tasks.autoencoder.loop import Batch, mean_squared_error
from loopwright.tasks.autoencoder.module import Autoencoder
from loopwright.tasks.autoencoder.normalizer import Extent, Normalizer
from support.tokens import SHAPE, events_recipe, samples

CPU = torch.device("cpu")
SMALL = {"name": "diffusion", "hidden": 8, "messages": 4, "rounds": 1}


def at(step: int = 1) -> At:
    return At(Streams(5), step, 1, CPU)


def built(task: dict[str, Any], **tree: Any) -> Built:
    return build(events_recipe(task, **tree), CPU)


def first_batch(made: Built) -> Batch:
    loader = made.task.loader("train")
    assert loader is not None
    batch: Batch = next(iter(loader.epoch(0)))
    return batch


def yielded(made: Built, update: bool = True) -> list[tuple[Loss, dict[str, Tensor | None]]]:
    """The losses of one step and, after each, the gradients that the engine's update left."""
    found = []
    for loss in made.task.losses(made.state.model, first_batch(made), at()):
        made.state.model.zero_grad(set_to_none=True)
        if update:
            made.state.apply(loss)
        found.append((loss, {name: p.grad for name, p in made.state.model.named_parameters()}))
    return found


def test_only_real_tokens_count() -> None:
    target, types, _ = samples(6)
    predicted = target + 1.0
    predicted[types == 0] = math.nan
    assert mean_squared_error(predicted, target, types).item() == pytest.approx(1.0)
    assert mean_squared_error(predicted, target, torch.zeros_like(types)).item() == 0.0
    predicted = (target + 1.0).requires_grad_()
    mean_squared_error(predicted, target, types).backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None and bool((predicted.grad[types == 0] == 0).all())
    assert bool((predicted.grad[types != 0] != 0).all())


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_sum_of_its_parts(weight: float) -> None:
    made = built({"latent": {"name": "vq", "codes": 8, "commitment": 0.25}, "globals_weight": weight})
    ((loss, _),) = yielded(made, update=False)
    means = {name: float(total) / count for name, (total, count) in loss.parts.items()}
    assert means.keys() == {"tokens", "commitment", "codebook", "globals"} and loss.count == 16
    whole = means["tokens"] + 0.25 * means["commitment"] + weight * means["globals"]
    assert float(loss.mean.detach()) == pytest.approx(whole, rel=1e-6)
    # In validation the same sum, over all batches; tokens are averaged by token, whatever batch they came in.
    metrics = made.task.evaluate(made.state.model.eval(), "val", at())
    assert metrics is not None
    whole = metrics["tokens"] + 0.25 * metrics["commitment"] + weight * metrics["globals"]  # type: ignore[operator]
    assert metrics["loss"] == pytest.approx(whole, rel=1e-6)
    tokens, types, _ = samples(20, "val")
    with torch.no_grad():
        found = made.state.model(tokens, types)
    assert metrics["tokens"] == pytest.approx(float((found - tokens)[types != 0].square().mean()), rel=1e-5)


@pytest.mark.parametrize(("loop", "more"), [("gan", ()), ("diffusion", ("denoising",))])
def test_what_best_follows_leaves_the_adversary_out(loop: str, more: tuple[str, ...]) -> None:
    made = built({"loop": loop, "globals_weight": 2.0})
    metrics = made.task.evaluate(made.state.model.eval(), "val", at())
    assert metrics is not None
    held = {name: value or 0.0 for name, value in metrics.items()}
    whole = held["tokens"] + 2 * held["globals"] + sum(held[name] for name in more)
    assert held["loss"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    "parts",
    [{"loop": "ae"}, {"loop": "gan"}, {"loop": "diffusion"}, {"loop": "diffusion", "decoder": "diffusion"}],
)
def test_codes_follow_their_encodings_after_the_last_update(parts: dict[str, Any]) -> None:
    made = built({"latent": {"name": "vq", "codes": 8}, **parts})
    codes = made.state.model.get_buffer("space.codes_KL")
    before, changed = codes.clone(), []
    for loss in made.task.losses(made.state.model, first_batch(made), at()):
        changed.append(not torch.equal(codes, before))
        made.state.apply(loss)
    assert not any(changed) and not torch.equal(codes, before)


def test_a_split_is_measured_the_same_in_batches_of_any_size() -> None:
    made = built({"latent": {"name": "vq", "codes": 8}, "loop": "gan"})
    batch, model = samples(20, "val"), made.state.model
    with evaluating(model), torch.inference_mode():
        whole = made.task.finish(_read(made.task.measure(model, batch, at())))
        split = made.task.evaluate(model, "val", at())
    assert split is not None
    for name in split.keys() - {"loss", "commitment", "codebook"}:  # the penalty is averaged by sample
        assert split[name] == pytest.approx(whole[name], rel=1e-5), name


def _read(sums: Any) -> dict[str, tuple[Any, int]]:
    return {k: (v.tolist() if isinstance(v, Tensor) else v, n) for k, (v, n) in sums.items()}


def test_a_gan_updates_two_groups_that_share_nothing() -> None:
    made = built({"loop": {"name": "gan", "adversarial_weight": 0.5}})
    critic = {name for name, _ in made.state.model.named_parameters() if name.startswith("discriminator.")}
    others = {name for name, _ in made.state.model.named_parameters()} - critic
    (first, against), (second, towards) = yielded(made)
    assert (first.group, second.group) == ("discriminator", "main")
    assert {name for name, grad in against.items() if grad is not None} == critic
    assert {name for name, grad in towards.items() if grad is not None} == others
    for grads, names in ((against, critic), (towards, others)):
        assert all(bool(grads[name].any()) for name in names)  # type: ignore[union-attr]
    parts = {name: float(total) / count for name, (total, count) in second.parts.items()}
    whole = parts["tokens"] + parts["globals"] + 0.5 * parts["adversarial"]
    assert float(second.mean.detach()) == pytest.approx(whole, rel=1e-6)
    assert parts["loss_ratio"] == pytest.approx(float(first.mean.detach()) / parts["adversarial"], rel=1e-5)


def test_the_autoencoder_faces_the_updated_discriminator() -> None:
    """Without the discriminator's update the second loss is another one."""
    updated, left = (yielded(built({"loop": "gan"}), update=update)[1][0] for update in (True, False))
    assert float(updated.mean.detach()) != float(left.mean.detach())
    assert float(updated.parts["tokens"][0]) == float(left.parts["tokens"][0])


def test_without_weight_the_adversary_teaches_nothing() -> None:
    alone, judged = built({"loop": "ae"}), built({"loop": {"name": "gan", "adversarial_weight": 0}})
    yielded(alone)
    yielded(judged)
    theirs = judged.state.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in alone.state.model.state_dict().items())


def test_the_balance_of_what_cannot_be_told_apart() -> None:
    logits = torch.zeros(4)
    assert discriminator_loss(logits, logits).item() == pytest.approx(math.log(2))
    assert num_right(logits, logits).item() == 4.0  # of 8
    assert num_right(torch.tensor([1.0, 2.0, -1.0]), torch.tensor([-3.0, 0.5, -0.1])).item() == 4.0


def test_a_denoiser_of_latents_leaves_the_autoencoder_alone() -> None:
    alone, beside = built({"latent": "linear"}), built({"latent": "linear", "loop": {"name": "diffusion"}})
    yielded(alone)
    (first, main), (second, denoiser) = yielded(beside)
    assert (first.group, second.group) == ("main", "denoiser")
    assert not any(name.startswith("denoiser.") for name, grad in main.items() if grad is not None)
    trained = [name for name, grad in denoiser.items() if grad is not None]
    assert trained and all(name.startswith("denoiser.") for name in trained)
    theirs = beside.state.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in alone.state.model.state_dict().items())


@pytest.mark.parametrize(
    "task",
    [
        {"loop": {"name": "diffusion", "timesteps": 50}},
        {"loop": {"name": "diffusion", "timesteps": 50, "space": "tokens"}},
        {"loop": {"name": "diffusion", "timesteps": 50}, "decoder": SMALL},
    ],
)
def test_noise_is_predicted_and_samples_are_made_of_it(task: dict[str, Any]) -> None:
    """A network that finds no noise at all errs by the noise's variance, 1; a trained one by less."""
    made = built({**task, "globals_weight": 0.0})
    yielded(made)
    model, batch = made.state.model, samples(600, "val")
    assert isinstance(model, Autoencoder)
    average = model.get_submodule("average")
    for p in average.parameters():
        p.zero_()
    with evaluating(model), torch.inference_mode():
        error = made.task.finish(_read(made.task.measure(model, batch, at())))["denoising"]
        few = tuple(part[:5] for part in batch)
        same, other = (made.task.views(model, few, "val", at(step))["samples"] for step in (1, 2))
        again = made.task.views(model, few, "val", at(1))["samples"]
    assert error == pytest.approx(1.0, abs=0.08)
    assert torch.equal(same, again) and not torch.equal(same, other)
    assert bool(torch.isfinite(same).all())


def test_the_average_follows_the_weights_after_their_update() -> None:
    made = built({"loop": {"name": "diffusion", "decay": 0.5}})
    model = made.state.model
    before = {name: value.clone() for name, value in model.get_submodule("average.module").state_dict().items()}
    yielded(made)
    denoiser = model.get_submodule("denoiser").state_dict()
    keep = 1 / 10  # (1 + n) / (10 + n) at n = 0, below the decay asked for
    for name, value in model.get_submodule("average.module").state_dict().items():
        assert torch.allclose(value, keep * before[name] + (1 - keep) * denoiser[name], atol=1e-6), name


def test_a_latent_is_left_out_in_a_tenth_of_the_samples() -> None:
    made = built({"decoder": SMALL, "loop": "diffusion"}, train={"batch_size": 44})
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen.append(inputs[3].detach())

    assert isinstance(made.state.model, Autoencoder)
    made.state.model.decoder.register_forward_pre_hook(keep)
    for step in range(40):
        next(iter(made.task.losses(made.state.model, first_batch(made), at(step))))
    share = torch.cat([(z.flatten(1) == 0).all(1) for z in seen])
    assert share.float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_latents_are_brought_to_scale_one() -> None:
    normalizer = Normalizer(3)
    generator = Streams(0).generator("latents")
    scale, shift = torch.tensor([5.0, 0.1, 1.0]), torch.tensor([3.0, -1.0, 0.0])
    for _ in range(60):
        z = torch.randn(32, 4, 3, generator=generator) * scale + shift
        types = torch.randint(0, 3, (32, 4), generator=generator)
        z[types == 0] = 1e6  # padding does not count
        normalizer.update(z, types)
    z = torch.randn(4000, 1, 3, generator=generator) * scale + shift
    assert torch.allclose(normalizer(z).std((0, 1)), torch.ones(3), atol=0.06)
    assert torch.allclose(normalizer(z).mean((0, 1)), torch.zeros(3), atol=0.06)
    assert torch.allclose(normalizer.undo(normalizer(z)), z, atol=1e-4)
    held = {name: value.clone() for name, value in normalizer.state_dict().items()}
    normalizer.update(z, torch.zeros(4000, 1, dtype=torch.int64))
    assert all(torch.equal(value, held[name]) for name, value in normalizer.state_dict().items())


def test_a_constant_latent_stays_finite() -> None:
    normalizer = Normalizer(2)
    normalizer.update(torch.ones(8, 1, 2), torch.ones(8, 1, dtype=torch.int64))
    assert bool(torch.isfinite(normalizer(torch.ones(8, 1, 2))).all())


def test_the_extent_grows_with_real_tokens_only() -> None:
    extent, types = Extent(), torch.tensor([[1, 0]])
    extent.update(torch.tensor([[[-3.0], [99.0]]]), types)
    assert extent.largest.item() == 3.0
    extent.update(torch.tensor([[[1.0], [0.0]]]), types)
    assert extent.largest.item() == 3.0


def test_use_of_codes() -> None:
    counts = code_counts(torch.tensor([[0, 2, -1], [2, 0, -1]]), 4)
    assert counts.tolist() == [2, 0, 2, 0]
    assert usage(counts.tolist()) == {"perplexity": pytest.approx(2.0), "dead_codes": 2.0}
    assert usage([3.0] * 7) == {"perplexity": pytest.approx(7.0), "dead_codes": 0.0}
    assert usage([0.0, 0.0]) == {"perplexity": 0.0, "dead_codes": 2.0}


def test_the_baseline_is_the_mean_of_each_type() -> None:
    made = built({})
    train, val = made.task.loader("train"), made.task.loader("val")
    assert train is not None and val is not None
    means = mean_tokens(train, SHAPE)
    tokens, types, _ = samples(44, "train")
    for kind in range(1, SHAPE.num_types):
        assert torch.allclose(means[kind], tokens[types == kind].double().mean(0))
    tokens, types, _ = samples(20, "val")
    error = (tokens.double() - means[types])[types != 0].square().mean()
    assert mean_error(val, means) == pytest.approx(float(error))
