"""What a task and the engine owe each other: yields, groups, accumulation, sums, modes."""

from __future__ import annotations

import csv
import json
import pickle
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence

from loopwright.engine.evaluate import evaluate
from loopwright.engine.loss import Loss
from loopwright.engine.outcome import Outcome
from loopwright.engine.state import TrainState
from loopwright.engine.steps import Diverged, split_batch, steps
from loopwright.engine.task import At, Sums, Task
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.record.index import Index
from loopwright.streams import Streams, global_state
from loopwright.tasks.overfit import Overfit
from support.tasks import Ema, Gan, InMemory, Noisy, Parameterless, Plain, recipe

CPU = torch.device("cpu")


def train(task: Task, hooks: Any = (), **tree: Any) -> Outcome:
    return run(recipe("Plain", record={"save": False}, **tree), task=task, hooks=hooks)


def plain_loss(model: nn.Module, batch: Any, group: str = "main") -> Loss:
    x, y = batch
    return Loss(F.mse_loss(model(x), y), len(y), group=group)


def task_of(losses: Any, base: type[InMemory] = Plain) -> InMemory:
    """The plain task with other losses, a function of (model, batch, at)."""
    return type("Task", (base,), {"losses": lambda self, *given: losses(*given)})(4, Streams(1))


def under_no_grad(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    loss = plain_loss(model, batch)
    with torch.no_grad():
        yield loss


def under_inference_mode(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    loss = plain_loss(model, batch)
    with torch.inference_mode():
        yield loss


def under_autocast(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield plain_loss(model, batch)


def reseeding(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    torch.manual_seed(0)
    yield plain_loss(model, batch)


def nothing(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    yield from ()


def an_unknown_group(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    yield plain_loss(model, batch, group="critic")


def twice(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
    yield plain_loss(model, batch)
    yield plain_loss(model, batch)


@pytest.mark.parametrize(
    ("losses", "train_settings", "message"),
    [
        (under_no_grad, {}, "inside no_grad or inference_mode; close the block before the yield"),
        (under_inference_mode, {}, "inside no_grad or inference_mode; close the block before the yield"),
        (under_autocast, {}, "inside autocast; close the block before the yield"),
        (under_autocast, {"accumulate": 2}, "inside autocast; close the block before the yield"),
        (reseeding, {}, "reseeded torch's global generator; draw from at.generator"),
        (reseeding, {"accumulate": 2}, "reseeded torch's global generator; draw from at.generator"),
        (nothing, {}, "yielded no loss for a batch"),
        (nothing, {"accumulate": 2}, "yielded no loss for a batch"),
        (twice, {"accumulate": 2}, "train.accumulate > 1 with a task that yields several losses"),
        (an_unknown_group, {}, r"the group 'critic'; the task's groups are \['main'\]"),
    ],
)
def test_a_broken_agreement_is_refused(losses: Any, train_settings: dict[str, Any], message: str) -> None:
    with pytest.raises((RuntimeError, ValueError), match=message):
        train(task_of(losses), train=train_settings)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not torch.is_autocast_enabled("cpu")


def test_two_losses_of_one_group_are_two_updates_and_one_step() -> None:
    task = task_of(twice)
    model = task.build_model()
    by_hand = task.build_model()
    by_hand.load_state_dict(model.state_dict())
    state = TrainState(model, task.groups(model), lambda params: torch.optim.SGD(params, lr=0.1))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1)
    infos = list(steps(task, state, task.loader("train"), Streams(1), lr=lambda _: 0.1))
    assert [info.step for info in infos] == [1, 2, 3, 4, 5, 6]
    for batch in task.loader("train").epoch(0):
        for _ in range(2):
            optimizer.zero_grad()
            plain_loss(by_hand, batch).mean.backward()
            optimizer.step()
    assert all(torch.equal(weight, by_hand.state_dict()[name]) for name, weight in model.state_dict().items())


def test_the_generator_of_losses_is_closed_when_an_update_fails() -> None:
    closed: list[bool] = []

    def watched(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        try:
            yield plain_loss(model, batch, group="unknown")
        finally:
            closed.append(True)

    with pytest.raises(ValueError):
        train(task_of(watched))
    assert closed == [True]


@pytest.mark.parametrize("num_parts", [2, 3, 5, 22])
def test_accumulating_parts_equals_the_whole_batch(num_parts: int) -> None:
    def after(accumulate: int, clip_norm: float | None) -> tuple[dict[str, torch.Tensor], list[Any]]:
        task = Plain(22, Streams(1))
        with Streams(1).fork("weights"):
            model = task.build_model()
        state = TrainState(model, task.groups(model), lambda params: torch.optim.SGD(params, lr=0.1))
        infos = []
        for _ in range(3):
            infos += steps(
                task,
                state,
                task.loader("train"),
                Streams(1),
                lr=lambda _: 0.1,
                accumulate=accumulate,
                clip_norm=clip_norm,
            )
            state.epoch, state.batch = state.epoch + 1, 0
        return state.model_state(), infos

    for clip_norm in (None, 0.3):
        whole, whole_infos = after(1, clip_norm)
        parts, part_infos = after(num_parts, clip_norm)
        # 22 samples in 3 parts are 8 + 8 + 6: a mean of means would be wrong by more than 1e-3.
        for name, weight in whole.items():
            torch.testing.assert_close(parts[name], weight, rtol=1e-6, atol=1e-6)
        assert [info.updates[0].count for info in part_infos] == [22, 22, 22]
        assert [info.loss for info in part_infos] == pytest.approx([info.loss for info in whole_infos], rel=1e-6)
        if clip_norm:
            assert [float(i.grad_norm) for i in part_infos] == pytest.approx([float(i.grad_norm) for i in whole_infos])


def test_accumulation_adds_up_parts_and_runs_what_follows_the_yield_once() -> None:
    after: list[int] = []

    def losses(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        _, y = batch
        yield plain_loss(model, batch)._replace(parts={"ones": (torch.ones(len(y)).sum(), len(y))})
        after.append(at.micro)

    outcome = train(task_of(losses), train={"accumulate": 3, "epochs": 1})
    assert outcome.last is not None and outcome.last["train_ones"] == 1.0
    assert after == [1] * 6  # batches of 4 in at most 3 equal parts are two; the last of them is number 1


def test_every_part_of_a_batch_draws_its_own_noise_and_so_does_every_step() -> None:
    drawn: list[tuple[int, int, int, float]] = []

    def losses(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        drawn.append((at.epoch, at.step, at.micro, float(torch.rand((), generator=at.generator("noise")))))
        yield plain_loss(model, batch)

    train(task_of(losses), train={"accumulate": 2})
    assert len(drawn) == 36 and len({noise for *_, noise in drawn}) == 36
    assert [(epoch, step, micro) for epoch, step, micro, _ in drawn[:3]] == [(1, 1, 0), (1, 1, 1), (1, 2, 0)]
    assert {(epoch, step) for epoch, step, *_ in drawn} == {((s - 1) // 6 + 1, s) for s in range(1, 19)}
    first, second = (
        at_.generator("a").initial_seed() for at_ in (At(Streams(1), 1, 1, CPU), At(Streams(1), 1, 1, CPU, 1))
    )
    assert first != second != At(Streams(1), 1, 1, CPU).generator("b").initial_seed()
    assert first == At(Streams(1), 1, 9, CPU).generator("a").initial_seed()


def test_what_a_step_draws_from_the_global_generators_does_not_depend_on_earlier_draws() -> None:
    def drawn(extra: int) -> tuple[list[float], list[list[float]]]:
        torchs, others = [], []

        def losses(model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
            torchs.append(float(torch.rand(())))
            others.append([float(np.random.rand()), random.random()])
            if at.step == 2:
                for _ in range(extra):
                    torch.rand(3), np.random.rand(3), random.random()
            yield plain_loss(model, batch)

        train(task_of(losses))
        return torchs, others

    (few, few_others), (many, many_others) = drawn(0), drawn(5)
    assert few == many and len(set(few)) == 18  # torch's generators are pinned at every step
    assert few_others[6:] == many_others[6:]  # NumPy's and Python's at every epoch, of 6 steps
    assert few_others[2] != many_others[2] and len({str(pair) for pair in few_others}) == 18


def test_batches_are_split_whatever_they_are_nested_in() -> None:
    x, y = torch.arange(10).reshape(5, 2), torch.arange(5)
    pieces = split_batch({"x": [x], "y": (y,)}, 2)
    assert [size for _, size in pieces] == [3, 2]
    assert [piece["y"][0].tolist() for piece, _ in pieces] == [[0, 1, 2], [3, 4]]
    assert [piece["x"][0].tolist() for piece, _ in pieces] == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [8, 9]]]


TIME_FIRST = torch.zeros(7, 4, 3)
SENTENCES = pack_sequence([torch.zeros(n, 2) for n in (4, 3, 1)])
UNCUT: dict[str, tuple[Any, int | None, str]] = {
    "a name": ((torch.zeros(5, 2), "a name"), 5, r"its 5 samples first, and this one holds \(5, 2\), str"),
    "time first": ((TIME_FIRST, torch.zeros(4)), 4, r"its 4 samples first, and this one holds \(7, 4, 3\), \(4,\)"),
    "time first, alone": (TIME_FIRST, 4, r"holds \(7, 4, 3\)"),
    "a graph": ({"x": torch.zeros(9, 2), "of": torch.zeros(9), "y": torch.zeros(4)}, 4, r"\(9, 2\), \(9,\), \(4,\)"),
    "packed": ((SENTENCES, torch.zeros(3)), 3, r"\(8, 2\)"),
    "a number": ((torch.zeros(5, 2), torch.tensor(1.0)), None, r"needs samples first, .* \(5, 2\), \(\)"),
    "nothing": ((), None, "holds nothing"),
}


@pytest.mark.parametrize("name", UNCUT)
def test_what_cannot_be_cut_by_samples_is_refused(name: str) -> None:
    batch, num_samples, message = UNCUT[name]
    with pytest.raises(ConfigError, match=message):
        split_batch(batch, 2, num_samples)


class Uneven(Plain):
    """Measures one of its metrics on a part of the samples only."""

    metrics = {"loss": "min", "positive": "max", "never": "max"}

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        assert not torch.is_grad_enabled() and not model.training
        x, y = batch
        mask = y > 0
        return {
            "loss": ((model(x) - y).square().sum(), len(y)),
            "positive": (y[mask].sum(), int(mask.sum())),
            "never": (0.0, 0),
        }


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10])
def test_metrics_are_by_sample_whatever_the_batch(batch_size: int) -> None:
    task = Uneven(batch_size, Streams(1))
    with Streams(1).fork("weights"):
        model = task.build_model()
    measured = evaluate(task, model, "val", Streams(1), step=1, epoch=1, device=CPU)
    x, y = task.loaders["val"].tensors
    assert measured is not None
    assert measured["loss"] == pytest.approx(float((model(x) - y).square().mean().detach()))
    assert measured["positive"] == pytest.approx(float(y[y > 0].mean()))
    assert measured["never"] is None


def test_the_training_loss_is_by_sample_too() -> None:
    outcome = train(Plain(4, Streams(3)), train={"epochs": 1})
    losses = outcome.curves["train_loss"]
    counts = [4, 4, 4, 4, 4, 2]
    assert outcome.last is not None
    expected = sum(loss * count for loss, count in zip(losses, counts, strict=True) if loss is not None) / 22
    assert outcome.last["train_loss"] == pytest.approx(expected, rel=1e-12)


class FrozenNorm(Noisy):
    """A batch normalisation that is kept in evaluation mode, as in fine-tuning."""

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        model.norm.eval()
        model.norm.requires_grad_(False)
        return model


def test_modes_survive_evaluation_and_training() -> None:
    task = FrozenNorm(4, Streams(1))
    modes: list[dict[str, bool]] = []

    class Watch(FrozenNorm):
        def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
            modes.append({name: module.training for name, module in model.named_modules()})
            return super().losses(model, batch, at)

    fresh: Any = task.build_model()
    outcome = train(Watch(4, Streams(1)), train={"validate_every": "2 steps"})
    wanted = {"": True, "into": True, "out": True, "norm": False, "own": True, "torchs": True}
    assert modes == [wanted] * 18
    assert fresh.norm.num_batches_tracked == 0 and outcome.status == "completed"


def test_a_model_given_in_evaluation_mode_is_put_into_training_mode() -> None:
    class Evaluated(Noisy):
        def build_model(self) -> nn.Module:
            return super().build_model().eval()

    assert train(Evaluated(4, Streams(1))).weights_sha256 == train(Noisy(4, Streams(1))).weights_sha256


def test_an_evaluation_leaves_no_trace() -> None:
    task = Noisy(4, Streams(1))
    model: Any = task.build_model().train()
    model.norm.eval()
    before, weights = global_state(), {name: value.clone() for name, value in model.state_dict().items()}

    class Draws(Noisy):
        def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
            noise = float(torch.rand(()) + np.random.rand() + random.random())
            return {"loss": (noise, 1), "within": (0.0, 1)}

    first = evaluate(Draws(4, Streams(1)), model, "val", Streams(1), step=5, epoch=1, device=CPU)
    torch.rand(3)
    assert first == evaluate(Draws(4, Streams(1)), model, "val", Streams(1), step=5, epoch=1, device=CPU)
    assert first != evaluate(Draws(4, Streams(1)), model, "val", Streams(1), step=6, epoch=1, device=CPU)
    assert first != evaluate(Draws(4, Streams(1)), model, "test", Streams(1), step=5, epoch=1, device=CPU)
    torch.default_generator.set_state(before["torch_rng_state"])
    after = global_state()
    assert all(repr(before[name]) == repr(after[name]) for name in before)
    assert model.training and not model.norm.training and model.own.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert evaluate(Overfit(task, 4), model, "test", Streams(1), step=5, epoch=1, device=CPU) is None


@pytest.mark.parametrize("cls", [Noisy, Plain, Gan, Parameterless, Ema])
def test_a_task_holds_no_changing_state(cls: type[InMemory]) -> None:
    task = cls(4, Streams(1))
    before = pickle.dumps(task)
    outcome = train(task, stop={"budget": "10 steps"})
    assert outcome.steps == 10 and outcome.test is not None
    assert pickle.dumps(task) == before


class Bad(Plain):
    """Turns non-finite at a moment and a place of your choosing."""

    def __init__(self, where: str, step: int) -> None:
        super().__init__(4, Streams(3))
        self.where, self.at_step = where, step

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        loss = plain_loss(model, batch)
        bad = at.step == self.at_step
        yield loss._replace(mean=loss.mean * (torch.nan if bad and self.where == "loss" else 1.0))
        if bad and self.where == "weight":
            with torch.no_grad():
                model.bias[0] = torch.inf  # type: ignore[index]

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x, y = batch
        bad = at.step >= self.at_step and self.where == "val"
        return {"loss": ((model(x) - y).square().sum() * (torch.nan if bad else 1.0), len(y))}

    def evaluate(self, model: nn.Module, split: Any, at: At) -> dict[str, float | None] | None:
        measured = super().evaluate(model, split, at)
        # An infinite weight shows in every metric; here only in the weights.
        return {"loss": 1.0} if measured is not None and self.where == "weight" else measured


@pytest.mark.parametrize(
    ("where", "message", "steps_done", "rows"),
    [
        ("loss", r"the loss \(main\) is nan in step 9 of epoch 2 at lr 0.05; try a smaller optim.lr", 8, 1),
        ("val", r"the loss \(val_loss\) is nan in step 12 of epoch 2 at lr 0.05; try a smaller optim.lr", 12, 2),
        ("weight", r"the weight bias is inf in step 12 of epoch 2 at lr 0.05; try a smaller optim.lr", 12, 2),
    ],
)
def test_what_is_not_finite_ends_the_training_as_diverged(
    where: str, message: str, steps_done: int, rows: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A weight that turns infinite in the last step of an epoch is found before the row's checkpoint.
    task = Bad(where, 12 if where == "weight" else 9)
    outcome = run(recipe("Plain"), out=tmp_path, task=task)
    assert (outcome.status, outcome.exit_code, outcome.steps) == ("diverged", 4, steps_done)
    assert outcome.value == float("inf") and outcome.test is None
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert re.search(message, outcome.reason) and re.search(message, caplog.text)
    path = Path(outcome.run or "")
    with (path / "steps.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, steps_done + 1))
    with (path / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == rows
    result = json.loads((path / "result.json").read_text())
    assert (result["status"], result["value"], result["steps"]) == ("diverged", "inf", steps_done)
    index = Index.read(path / "checkpoints")
    # The best epoch before it is there, in a checkpoint and as model.pt, and nothing that came after.
    assert [entry.step for entry in index.entries] == [6] and set(index.tags) == {"best"}
    weights = index.load(index.entries[0])["model_state_dict"]
    kept = torch.load(path / "model.pt", weights_only=True)
    assert all(bool(torch.isfinite(w).all()) and torch.equal(w, kept[name]) for name, w in weights.items())


def test_an_update_with_a_non_finite_loss_is_never_made() -> None:
    task = Bad("loss", 3)
    with Streams(3).fork("weights"):
        model = task.build_model()
    state = TrainState(model, task.groups(model), lambda params: torch.optim.SGD(params, lr=0.1))
    advancing = steps(task, state, task.loader("train"), Streams(3), lr=lambda _: 0.1)
    next(advancing)
    next(advancing)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(Diverged, match=r"is nan in step 3 of epoch 1"):
        next(advancing)
    assert state.step == 2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
