"""Hooks: their order, their frequency, what happens when one fails, and that none can touch the training."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import loopwright
from loopwright import clock
from loopwright.engine.hooks import EVENTS, Hook, Hooks, Info, every
from loopwright.engine.loss import Loss
from loopwright.engine.outcome import Outcome
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.streams import Streams
from support.compare import assert_same
from support.tasks import Plain, recipe


class Diary(Hook):
    """Writes every event down."""

    def __init__(self, *, optional: bool = False, fails: str | None = None) -> None:
        self.seen: list[tuple[str, int, int]] = []
        self.infos: list[tuple[str, Info]] = []
        self.optional, self.fails = optional, fails

    @property
    def events(self) -> list[str]:
        return [event for event, *_ in self.seen]

    def note(self, event: str, info: Info) -> None:
        self.seen.append((event, info.step, info.epoch))
        self.infos.append((event, info))
        if event == self.fails:
            raise OSError("the disk of the hook is full")

    def on_start(self, info: Info) -> None:
        self.note("on_start", info)

    def on_epoch_start(self, info: Info) -> None:
        self.note("on_epoch_start", info)

    def on_step_end(self, info: Info) -> None:
        self.note("on_step_end", info)

    def on_validation_end(self, info: Info) -> None:
        self.note("on_validation_end", info)

    def on_epoch_end(self, info: Info) -> None:
        self.note("on_epoch_end", info)

    def on_train_end(self, info: Info) -> None:
        self.note("on_train_end", info)

    def on_test_end(self, info: Info) -> None:
        self.note("on_test_end", info)

    def on_exception(self, info: Info) -> None:
        self.note("on_exception", info)


def train(*hooks: Hook, **tree: Any) -> Outcome:
    tree = {"record": {"save": False}, "train": {"epochs": 2, "batch_size": 11}, **tree}
    return run(recipe("Plain", **tree), hooks=hooks)


EPOCH = ["on_epoch_start", "on_step_end", "on_step_end", "on_validation_end", "on_epoch_end"]


def test_the_order_is_fixed() -> None:
    diary = Diary()
    train(diary)
    assert diary.events == ["on_start", *EPOCH, *EPOCH, "on_train_end", "on_test_end"]
    assert set(diary.events) | {"on_exception"} == set(EVENTS)
    assert diary.seen == [
        ("on_start", 0, 0),
        ("on_epoch_start", 0, 1),
        ("on_step_end", 1, 1),
        ("on_step_end", 2, 1),
        ("on_validation_end", 2, 1),
        ("on_epoch_end", 2, 1),
        ("on_epoch_start", 2, 2),
        ("on_step_end", 3, 2),
        ("on_step_end", 4, 2),
        ("on_validation_end", 4, 2),
        ("on_epoch_end", 4, 2),
        ("on_train_end", 4, 2),
        ("on_test_end", 4, 2),
    ]


def test_events_jsonl_has_the_same_order_without_the_steps(tmp_path: Path) -> None:
    diary = Diary()
    outcome = run(recipe("Plain", train={"epochs": 2, "batch_size": 11}), out=tmp_path, hooks=[diary])
    assert outcome.run is not None
    written = [json.loads(line) for line in (Path(outcome.run) / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in written] == [event for event in diary.events if event != "on_step_end"]
    ends = [line for line in written if line["event"] == "on_epoch_end"]
    assert [line["row"]["epoch"] for line in ends] == [1, 2]
    history = next(line for line in written if line["event"] == "on_train_end")["history"]
    assert history["val_loss"] == [line["row"]["val_loss"] for line in ends]


def test_several_hooks_are_told_in_the_order_given() -> None:
    told: list[str] = []

    class Named(Hook):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_epoch_end(self, info: Info) -> None:
            told.append(self.name)

    train(Named("a"), every(1, Named("b")), Named("c"))
    assert told == ["a", "b", "c"] * 2


def test_what_a_hook_is_shown() -> None:
    diary = Diary()
    outcome = train(diary)
    shown = {event: info for event, info in diary.infos}
    step, epoch, test = shown["on_step_end"], shown["on_epoch_end"], shown["on_test_end"]
    assert (step.epochs, step.steps_per_epoch, step.total_steps, step.samples) == (2, 2, 4, 22)
    assert step.loss == outcome.curves["train_loss"][-1]
    assert epoch.row == outcome.last and epoch.monitor == "val_loss"
    assert test.outcome == outcome.test and isinstance(test.model, nn.Linear)
    assert epoch.recipe is not None and epoch.recipe["train"]["epochs"] == 2
    with pytest.raises(AttributeError):
        step.step = 7  # type: ignore[misc]


@pytest.mark.parametrize("event", [event for event in EVENTS if event != "on_exception"])
def test_an_optional_hook_that_fails_is_dropped_with_one_warning(event: str, caplog: pytest.LogCaptureFixture) -> None:
    failing, other = Diary(optional=True, fails=event), Diary()
    outcome = train(failing, other)
    assert outcome.weights_sha256 == train().weights_sha256 and outcome.status == "completed"
    assert failing.events.count(event) == 1 and failing.events[-1] == event
    assert other.events == ["on_start", *EPOCH, *EPOCH, "on_train_end", "on_test_end"]
    assert [r.message for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"Diary failed in {event} and is switched off: the disk of the hook is full"
    ]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_hook_that_must_not_fail_ends_the_training(wrapped: bool, tmp_path: Path) -> None:
    failing, other = Diary(fails="on_epoch_end"), Diary()
    with pytest.raises(OSError, match="the disk of the hook is full"):
        run(recipe(), out=tmp_path, hooks=[every(2, failing) if wrapped else failing, other])
    assert failing.events[-2:] == ["on_epoch_end", "on_exception"] and other.events[-1] == "on_exception"
    assert "on_epoch_end" not in other.events
    assert isinstance(other.infos[-1][1].error, OSError)
    (path,) = tmp_path.glob("*/2*")
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "on_exception"
    assert events[-1]["error"] == "OSError: the disk of the hook is full"
    result = json.loads((path / "result.json").read_text())
    assert (result["status"], result["reason"]) == ("failed", "OSError: the disk of the hook is full")
    assert (result["epochs"], result["steps"]) == (1, 6)


def test_an_optional_hook_stays_optional_inside_every(caplog: pytest.LogCaptureFixture) -> None:
    assert train(every(2, Diary(optional=True, fails="on_step_end"))).status == "completed"
    assert sum("switched off" in r.message for r in caplog.records) == 1


def test_a_failing_task_is_shown_to_the_hooks_and_raised() -> None:
    class Broken(Plain):
        def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
            if at.step == 3:
                raise ZeroDivisionError("in the user's code")
            return super().losses(model, batch, at)

    diary = Diary()
    with pytest.raises(ZeroDivisionError, match="in the user's code"):
        run(recipe("Plain", record={"save": False}), task=Broken(4, Streams(1)), hooks=[diary])
    assert diary.events[-2:] == ["on_step_end", "on_exception"]
    assert isinstance(diary.infos[-1][1].error, ZeroDivisionError)
    assert diary.seen[-1] == ("on_exception", 2, 1)


def test_every_n_steps() -> None:
    diary = Diary()
    train(every(3, diary), train={"epochs": 2})
    assert [step for event, step, _ in diary.seen if event == "on_step_end"] == [3, 6, 9, 12]
    assert [event for event in diary.events if event != "on_step_end"] == [
        "on_start",
        *["on_epoch_start", "on_validation_end", "on_epoch_end"] * 2,
        "on_train_end",
        "on_test_end",
    ]


def test_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    class Ticks(Hook):
        def on_step_end(self, info: Info) -> None:
            now[0] += 0.04

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    diary = Diary()
    train(Ticks(), every("0.1 s", diary), train={"epochs": 2})
    # The first step is due at once; after it 0.12 s are the first 0.04 s steps to pass 0.1 s.
    assert [step for event, step, _ in diary.seen if event == "on_step_end"] == [1, 4, 7, 10]


@pytest.mark.parametrize("often", ["2 epochs", "sometimes", 0, "0 s"])
def test_a_frequency_that_is_none(often: int | str) -> None:
    with pytest.raises(ValueError):
        every(often, Hook())


def test_a_hook_without_methods_costs_nothing_and_hears_nothing() -> None:
    class Silent(Hook):
        def __getattribute__(self, name: str) -> Any:
            assert name not in EVENTS, name
            return super().__getattribute__(name)

    assert train(Silent()).status == "completed"


class Gambler(Hook):
    """Draws from every global generator, reseeds them, and even computes gradients."""

    def on_step_end(self, info: Info) -> None:
        torch.manual_seed(0)
        torch.rand(7)
        np.random.seed(1)
        np.random.rand(3)
        random.seed(2)
        nn.Linear(3, 1)(torch.ones(1, 3)).sum().backward()

    on_start = on_epoch_start = on_validation_end = on_epoch_end = on_train_end = on_test_end = on_step_end


def test_a_hook_that_draws_random_numbers_changes_nothing(tmp_path: Path) -> None:
    wanted = recipe(record={"checkpoint_every": "2 steps"})
    plain = run(wanted, out=tmp_path / "plain")
    assert_same(plain.run, run(wanted, out=tmp_path / "drawn", hooks=[Gambler(), every(2, Gambler())]).run)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))


class Meddler(Hook):
    """Does everything that a training would notice, and that an observer may do for a look at the model."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def meddle(self, event: str, info: Info) -> None:
        self.events.append(event)
        info.model(torch.ones(4, 3, dtype=torch.float32))  # moves BatchNorm's statistics, draws for dropout
        info.model.eval()
        info.model.requires_grad_(False)
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.benchmark = True


for each in EVENTS:
    setattr(Meddler, each, lambda self, info, event=each: self.meddle(event, info))


def standing(model: nn.Module) -> list[Any]:
    """Everything of a training's surroundings that a hook must leave as it is."""
    return [
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [(id(b), b.tolist()) for b in model.buffers()],
        [p.tolist() for p in model.parameters()],
        (torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()),
        (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        (torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark),
    ]


def told(model: nn.Module) -> Info:
    return Info(1, 1, 1, 1, 1, 0.0, "loss", model, None, None)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_after_every_event_everything_stands_as_before(event: str, wrapped: bool) -> None:
    model, meddler = small(), Meddler()
    model[1].eval()  # as the task wants it, and its parent in training mode
    model[0].bias.requires_grad_(False)
    hooks = Hooks([every(1, meddler) if wrapped else meddler])
    before = standing(model)
    for _ in range(2):
        if event == "on_step_end":
            hooks.emit_step(1, lambda: told(model))
        else:
            hooks.emit(event, lambda: told(model))
        assert standing(model) == before
    assert meddler.events == [event] * 2


def test_a_buffer_that_a_hook_replaces_by_a_forward_is_back() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.tensor(0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen = self.seen + len(x)
            return x

    class Looks(Hook):
        def on_step_end(self, info: Info) -> None:
            info.model(torch.ones(5))
            assert info.model.seen == 5

    model = Counts()
    seen = model.seen
    for _ in range(2):
        Hooks([Looks()]).emit_step(1, lambda: told(model))
        assert model.seen is seen and model.seen == 0


def test_a_hook_that_fails_leaves_everything_as_it_was() -> None:
    class Breaks(Meddler):
        def on_step_end(self, info: Info) -> None:
            self.meddle("on_step_end", info)
            raise OSError("broken")

    model = small()
    before = standing(model)
    with pytest.raises(OSError, match="broken"):
        Hooks([Breaks()]).emit_step(1, lambda: told(model))
    assert standing(model) == before


def test_a_meddling_hook_leaves_the_training_unchanged() -> None:
    x = torch.linspace(-1, 1, 60).reshape(20, 3)
    given = {"train": (x, x.sum(1, keepdim=True)), "val": (x, x.sum(1, keepdim=True)), "epochs": 2, "batch_size": 8}

    def fit(*hooks: Hook) -> Outcome:
        return loopwright.fit(small, nn.MSELoss(), **given, hooks=hooks, record={"save": False})  # type: ignore[arg-type]

    plain, meddler = fit(), Meddler()
    meddled = fit(meddler, every(2, Meddler()))
    assert {*meddler.events} == {*EVENTS} - {"on_exception", "on_test_end"}
    assert meddled.weights_sha256 == plain.weights_sha256
    assert meddled.best is not None and plain.best is not None
    assert meddled.best["val_loss"] == plain.best["val_loss"]
