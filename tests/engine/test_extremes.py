"""The two ends of what the engine carries: two optimizers in one step, and a model with nothing to train."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.engine.history import History
from loopwright.engine.loss import Loss
from loopwright.engine.state import TrainState
from loopwright.engine.steps import steps
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.record.index import Index
from loopwright.streams import Streams
from support.tasks import Adversaries, Averaged, Ema, Gan, recipe


def state_of(task: Any, lr: float = 0.1) -> TrainState:
    with Streams(1).fork("weights"):
        model = task.build_model()
    return TrainState(model, task.groups(model), lambda params: torch.optim.SGD(params, lr=lr))


def advance(task: Any, state: TrainState, **options: Any) -> Iterator[Any]:
    return steps(task, state, task.loader("train"), Streams(1), lr=lambda _: 0.1, **options)


def params(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def moved(module: nn.Module, before: list[torch.Tensor]) -> bool:
    now = params(module)
    assert len(now) == len(before)
    return any(not torch.equal(a, b) for a, b in zip(now, before, strict=True))


def test_each_loss_of_a_gan_updates_its_own_group_and_no_other() -> None:
    seen: list[str] = []

    class Watched(Gan):
        def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
            assert isinstance(model, Adversaries)
            critic, generator = params(model.critic), params(model.generator)
            inner = super().losses(model, batch, at)
            yield next(inner)
            assert moved(model.critic, critic) and not moved(model.generator, generator)
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.critic.parameters())
            # The critic's loss reaches the generator through `fake`, yet no gradient may arrive there.
            assert all(p.grad is None for p in model.generator.parameters()) or seen
            held = [None if p.grad is None else p.grad.clone() for p in model.generator.parameters()]
            if seen:
                assert all(g is not None for g in held)
                assert all(torch.equal(g, old) for g, old in zip(held, self.last, strict=True))  # type: ignore[arg-type]
            critic, of_critic = params(model.critic), [p.grad.clone() for p in model.critic.parameters()]  # type: ignore[union-attr]
            yield next(inner)
            assert moved(model.generator, generator) and not moved(model.critic, critic)
            assert all(torch.equal(p.grad, old) for p, old in zip(model.critic.parameters(), of_critic, strict=True))  # type: ignore[arg-type]
            self.last = [p.grad.clone() for p in model.generator.parameters()]  # type: ignore[union-attr]
            assert all(g.abs().max() > 0 for g in self.last)
            assert next(inner, None) is None
            seen.append("step")

        last: list[torch.Tensor]

    task = Watched(4, Streams(1))
    state = state_of(task)
    assert sorted(state.optimizers) == ["critic", "generator"]
    assert [info.step for info in advance(task, state)] == [1, 2, 3, 4, 5, 6]
    assert len(seen) == 6


def test_a_step_of_a_gan_is_what_a_loop_by_hand_makes_of_it() -> None:
    task = Gan(4, Streams(1))
    state, by_hand = state_of(task), task.build_model()
    assert isinstance(by_hand, Adversaries)
    by_hand.load_state_dict(state.model.state_dict())
    optimizers = {name: torch.optim.SGD(group, lr=0.1) for name, group in task.groups(by_hand).items()}
    infos = list(advance(task, state))
    for number, batch in enumerate(task.loader("train").epoch(0), start=1):
        at = At(Streams(1), number, 1, torch.device("cpu"))
        total, values = 0.0, {}
        for loss in task.losses(by_hand, batch, at):
            by_hand.zero_grad()
            loss.mean.backward(inputs=list(task.groups(by_hand)[loss.group]))
            optimizers[loss.group].step()
            values[loss.group] = loss.mean.item()
            total += values[loss.group]
        info = infos[number - 1]
        assert info.loss == total
        assert {update.group: update.loss for update in info.updates} == values
        assert {update.count for update in info.updates} == {len(batch[0])}
    for name, weight in by_hand.state_dict().items():
        assert torch.equal(weight, state.model.state_dict()[name])


def test_forty_steps_asked_are_forty_steps_done_with_two_optimizers(tmp_path: Path) -> None:
    for task in ("Gan", "Plain"):
        outcome = run(recipe(task, train={"epochs": 100}, stop={"budget": "40 steps"}), out=tmp_path / task)
        assert (outcome.steps, outcome.status) == (40, "budget_reached")
        assert outcome.run is not None
        with (Path(outcome.run) / "steps.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["step"] for row in rows] == [str(step) for step in range(1, 41)]
        if task == "Gan":
            last = rows[-1]
            assert float(last["loss"]) == pytest.approx(float(last["critic"]) + float(last["generator"]))
            assert outcome.last is not None and {"train_critic", "train_generator"} <= set(outcome.last)
            index = Index.read(Path(outcome.run) / "checkpoints")
            assert index.last is not None
            saved = index.load(index.last)["optimizer_state_dict"]
            assert sorted(saved) == ["critic", "generator"]
            assert all(state["state"][0]["step"].item() == 40 for state in saved.values())


def test_clipping_and_the_norm_are_per_group_and_reported_together() -> None:
    task = Gan(4, Streams(1))
    state = state_of(task)
    info = next(advance(task, state, measure_norm=True))
    grads = [p.grad for p in state.model.parameters()]
    # Of the two updates the generator's gradients are as they were used, and the critic's too: nothing cleared them.
    assert float(info.grad_norm) == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in grads)))
    clipped = state_of(task)
    next(advance(task, clipped, clip_norm=1e-3))
    for group in task.groups(clipped.model).values():
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in group))  # type: ignore[union-attr]
        assert norm == pytest.approx(1e-3, rel=1e-2)


def test_a_model_without_parameters(tmp_path: Path) -> None:
    outcome = run(recipe("Parameterless", train={"clip_norm": 1.0}, record={"grad_norm": True}), out=tmp_path)
    assert (outcome.status, outcome.steps, outcome.epochs) == ("completed", 18, 3)
    assert outcome.run is not None
    index = Index.read(Path(outcome.run) / "checkpoints")
    assert index.last is not None
    saved = index.load(index.last)
    assert saved["optimizer_state_dict"] == {}
    history = History.from_state_dict(saved["history"])
    assert history.column("train_loss") == [0.25, 0.25, 0.25]
    assert len(set(history.column("val_loss"))) == 1
    assert outcome.best is not None and outcome.best["epoch"] == 1  # nothing was strictly better
    assert outcome.test is not None and outcome.test["best"] == outcome.test["last"]


def test_what_follows_the_last_yield_runs_after_the_update() -> None:
    task = Ema(4, Streams(1))
    state = state_of(task)
    model = state.model
    assert isinstance(model, Averaged)
    average, before = model.weight.clone(), model.net.weight.detach().clone()  # type: ignore[operator]
    for _ in advance(task, state):
        after = model.net.weight.detach()
        assert not torch.equal(after, before)
        assert torch.equal(model.weight, average.lerp(after, 0.25))  # type: ignore[arg-type]
        average, before = model.weight.clone(), after.clone()  # type: ignore[operator]


def test_the_average_is_what_is_measured_and_saved(tmp_path: Path) -> None:
    outcome = run(recipe("Ema", train={"epochs": 1}), out=tmp_path)
    assert outcome.run is not None and outcome.last is not None
    weights = torch.load(Path(outcome.run) / "model.pt", weights_only=True)
    x, y = Ema(4, Streams(1)).loaders["val"].tensors
    error = nn.functional.linear(x, weights["weight"], weights["bias"]) - y
    assert outcome.last["val_loss"] == pytest.approx(float(error.square().mean()))
    assert not torch.equal(weights["weight"], weights["net.weight"])
