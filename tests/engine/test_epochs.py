"""Every epoch ends: with the pass that it reads, or after `train.epoch_steps`; and a run with `train.max_steps`."""

from __future__ import annotations

import itertools
import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import loopwright
from loopwright import ConfigError, DataError, Hook, Outcome, clock
from loopwright.data import loaders
from loopwright.data.loaders import make_loader
from loopwright.engine.extent import Extent, extent
from loopwright.engine.hooks import Info
from loopwright.engine.settings import TrainSettings
from loopwright.engine.state import TrainState
from loopwright.engine.task import num_batches
from loopwright.record.index import Index
from loopwright.streams import Streams
from support.compare import assert_same
from support.interruptions import Signal, failed_at, interrupted_at, starter
from support.streams import Buckets, Endless, Filtered, Forever, Growing, Indexed, Once, item, loader
from support.tasks import data

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

CPU = torch.device("cpu")
XV, YV = data("val")
QUIET: dict[str, Any] = {"plots": "none", "device": "cpu", "optimizer": "sgd", "lr": 0.05, "batch_size": 4}
IN_MEMORY: dict[str, Any] = {"record": {"save": False}}


def model() -> nn.Module:
    made = nn.Linear(3, 1)
    with torch.no_grad():
        made.weight.fill_(0.1)
        made.bias.fill_(0.0)
    return made


def fit(train: Any, module: Any = model, **given: Any) -> Outcome:
    record = {"code": False, **given.pop("record", {})}
    return loopwright.fit(module, nn.MSELoss(), train=train, record=record, **{"epochs": 3, **QUIET, **given})


def by_hand(batches: Iterable[Any]) -> nn.Module:
    """The training as one would write it."""
    trained = model()
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.mse_loss(trained(x), y).backward()
        optimizer.step()
    return trained


def batches_of(numbers: Iterable[int], size: int = 4) -> list[Any]:
    rows, batches = iter(numbers), []
    while chunk := list(itertools.islice(rows, size)):
        batches.append(tuple(torch.stack(column) for column in zip(*map(item, chunk), strict=True)))
    return batches


def passes_of(kind: str, count: int) -> list[list[Any]]:
    """What the loader yields in its first passes, an endless one cut."""
    made = make_loader(loader(kind), 4, Streams(0), "train", CPU)
    assert made is not None
    return [list(itertools.islice(made.epoch(index), 40)) for index in range(count)]


class Seen(Hook):
    """What a hook is shown at each step and at the end of each epoch."""

    def __init__(self) -> None:
        self.steps: list[Info] = []
        self.ends: list[tuple[int, int]] = []

    def on_step_end(self, info: Info) -> None:
        self.steps.append(info)

    def on_epoch_end(self, info: Info) -> None:
        self.ends.append((info.epoch, info.step))


def test_an_epoch_takes_what_its_pass_yields() -> None:
    seen, trained = Seen(), model()
    outcome = fit(DataLoader(Growing(), batch_size=4), trained, hooks=[seen], **IN_MEMORY)
    # 10, 14 and 18 items in batches of 4
    assert (outcome.status, outcome.epochs, outcome.steps) == ("completed", 3, 12)
    assert seen.ends == [(1, 3), (2, 7), (3, 12)]
    wanted = by_hand(batch for epoch in range(3) for batch in batches_of(Growing.numbers(epoch)))
    assert torch.equal(trained.weight, wanted.weight) and torch.equal(trained.bias, wanted.bias)  # type: ignore[arg-type]
    assert {info.steps_per_epoch for info in seen.steps} == {info.total_steps for info in seen.steps} == {None}
    assert {info.epochs for info in seen.steps} == {3}
    assert [info.samples for info in seen.steps[:8]] == [4, 8, 10, 4, 8, 12, 14, 4]
    assert [info.batch for info in seen.steps[:4]] == [1, 2, 3, 1]


@pytest.mark.parametrize("kind", ["growing", "filtered", "buckets", "map"])
def test_the_weights_are_those_of_a_loop_over_the_same_batches(kind: str) -> None:
    passes = passes_of(kind, 3)
    if kind != "map":
        assert len({len(batches) for batches in passes}) > 1
    whole = model()
    outcome = fit(loader(kind), whole, seed=0, **IN_MEMORY)
    assert outcome.steps == sum(map(len, passes))
    assert torch.equal(whole.weight, by_hand(batch for batches in passes for batch in batches).weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["growing", "filtered", "endless", "buckets", "forever", "map"])
def test_with_epoch_steps_the_next_pass_begins_where_one_ends(kind: str) -> None:
    passes, seen, trained = passes_of(kind, 6), Seen(), model()
    outcome = fit(loader(kind), trained, seed=0, epoch_steps=5, hooks=[seen], **IN_MEMORY)
    assert (outcome.status, outcome.epochs, outcome.steps) == ("completed", 3, 15)
    assert seen.ends == [(1, 5), (2, 10), (3, 15)]
    batches = list(itertools.islice((batch for batches in passes for batch in batches), 15))
    assert torch.equal(trained.weight, by_hand(batches).weight)  # type: ignore[arg-type]
    assert {(info.steps_per_epoch, info.total_steps) for info in seen.steps} == {(5, 15)}


def test_a_pass_as_long_as_an_epoch_is_one() -> None:
    whole, cut = model(), model()
    fit(loader("map"), whole, seed=0, **IN_MEMORY)
    fit(loader("map"), cut, seed=0, epoch_steps=8, **IN_MEMORY)  # 30 samples in batches of 4
    assert torch.equal(whole.weight, cut.weight)  # type: ignore[arg-type]


def test_nothing_is_read_to_count_it() -> None:
    stream = Growing()
    fit(DataLoader(stream, batch_size=4), epochs=2, **IN_MEMORY)
    assert stream.read == 10 + 14
    endless = Growing()
    endless.numbers = lambda epoch: itertools.count()  # type: ignore[method-assign,assignment]
    fit(DataLoader(endless, batch_size=4), max_steps=3, **IN_MEMORY)
    assert endless.read == 4 * 4  # one batch ahead
    sampler = Forever()
    fit(DataLoader(Indexed(), batch_size=4, sampler=sampler), max_steps=3, **IN_MEMORY)
    assert sampler.read <= 4 * loaders._READ_AHEAD


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("growing", {}),
        ("filtered", {}),
        ("filtered", {"epoch_steps": 4}),
        ("growing", {"epoch_steps": 4}),
        ("endless", {"epoch_steps": 4}),
        ("endless", {"max_steps": 12, "train": None}),
        ("buckets", {}),
        ("buckets", {"epoch_steps": 4}),
        ("forever", {"epoch_steps": 4}),
        ("map", {"epoch_steps": 5}),
        ("map", {"max_steps": 13}),
    ],
    ids=str,
)
def test_exact_resume_in_the_middle(kind: str, more: dict[str, Any], workers: int, tmp_path: Path) -> None:
    more = {key: value for key, value in more.items() if value is not None}

    def start(name: str) -> Any:
        def run(*, resume: bool, hooks: Any) -> Outcome:
            return fit(
                loader(kind, workers), val=(XV, YV), out=tmp_path / name, resume=resume, hooks=hooks, **more,
                record={"checkpoint_every": "2 steps"},
            )  # fmt: skip

        return starter(run)

    whole = start("whole")()
    assert whole.status == "completed"
    assert_same(whole.run, interrupted_at(start("signals"), *((1, 6, 9) if workers == 0 else (7,))).run)
    if workers == 0:
        assert_same(whole.run, failed_at(start("failures"), ("on_step_end", 3), ("on_step_end", 5)).run)


def test_another_pass_in_between_does_not_move_this_one(tmp_path: Path) -> None:
    """Validation reads the same stream object, which holds its generator, while a pass of training is under way."""

    class Ten(Endless):
        def __iter__(self) -> Any:
            return itertools.islice(super().__iter__(), 10)

    def train(out: str, *hooks: Any) -> Outcome:
        stream = Ten()
        return fit(
            DataLoader(stream, batch_size=4), val=DataLoader(stream, batch_size=4), out=tmp_path / out, resume=True,
            hooks=hooks, epoch_steps=2, epochs=6, optimizer="adam",
        )  # fmt: skip

    whole = train("whole")
    assert train("cut", Signal(5)).status == "interrupted"
    assert_same(whole.run, train("cut").run)


def test_a_checkpoint_holds_the_place_in_the_data_where_epochs_are_no_passes() -> None:
    def state() -> TrainState:
        made = model()
        return TrainState(made, {"main": made.parameters()}, lambda params: torch.optim.SGD(params, lr=0.1))

    plain = state()
    plain.epoch, plain.batch = plain.pass_index, plain.pass_batch = 2, 3
    saved = plain.state_dict()
    assert "pass" not in saved
    other = state()
    other.load_state_dict(saved)
    assert (other.pass_index, other.pass_batch) == (2, 3)
    plain.pass_index, plain.pass_batch = 5, 1
    other.load_state_dict(plain.state_dict())
    assert (other.epoch, other.batch, other.pass_index, other.pass_batch) == (2, 3, 5, 1)


def test_max_steps_ends_a_run_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    seen = Seen()
    outcome = fit(loader("map"), val=(XV, YV), test=(XV, YV), max_steps=13, epochs=1, hooks=[seen], out=tmp_path)
    assert (outcome.status, outcome.epochs, outcome.steps) == ("completed", 1, 13)  # epochs=1 did not end it
    assert outcome.reason == "all 13 steps of train.max_steps done"
    assert outcome.last is not None and outcome.last["step"] == 13 and outcome.last["epoch"] == 2
    assert outcome.last["val_loss"] is not None and outcome.test is not None
    assert seen.ends == [(1, 8)] and {(info.epochs, info.total_steps) for info in seen.steps} == {(2, 13)}
    run = Path(outcome.run or "")
    index = Index.read(run / "checkpoints")
    assert index.last is not None and index.last.step == 13
    assert [row.split(",")[:2] for row in (run / "metrics.csv").read_text().splitlines()[1:]] == [
        ["1", "8"],
        ["2", "13"],
    ]
    assert json.loads((run / "result.json").read_text())["status"] == "completed"
    again = fit(loader("map"), val=(XV, YV), test=(XV, YV), max_steps=13, epochs=1, out=tmp_path, resume=True)
    assert again.run == outcome.run and again.steps == 13


def test_max_steps_at_the_end_of_an_epoch_closes_it_once(tmp_path: Path) -> None:
    seen = Seen()
    outcome = fit(loader("map"), max_steps=16, hooks=[seen], **IN_MEMORY)
    assert (outcome.status, outcome.epochs, outcome.steps) == ("completed", 2, 16) and seen.ends == [(1, 8), (2, 16)]
    assert fit(loader("map"), max_steps=16, epochs=0, **IN_MEMORY).steps == 0


def test_a_child_goes_on_beyond_max_steps(tmp_path: Path) -> None:
    whole = fit(loader("growing"), max_steps=20, out=tmp_path / "whole")
    first = fit(loader("growing"), max_steps=9, out=tmp_path / "first")
    child = fit(loader("growing"), max_steps=20, out=tmp_path / "first", resume=first.run)
    assert child.run != first.run and child.steps == 20
    assert child.weights_sha256 == whole.weights_sha256


def test_a_child_may_make_passes_epochs_again(tmp_path: Path) -> None:
    """Its epochs go on from the place in the data, not from the number of the epoch."""
    first = fit(loader("growing"), epoch_steps=2, epochs=2, out=tmp_path)  # 3, 4, 5 steps a pass: one into the second
    seen = Seen()
    child = fit(loader("growing"), epochs=4, out=tmp_path, resume=first.run, hooks=[seen])
    assert child.status == "completed" and seen.ends == [(3, 7), (4, 12)]


def test_budgets_stay_an_early_end() -> None:
    seen = Seen()
    for budget, steps in (("7 steps", 7), ("2 epochs", 7)):
        outcome = fit(loader("growing"), stop={"budget": budget}, hooks=[seen], **IN_MEMORY)
        assert (outcome.status, outcome.steps) == ("budget_reached", steps)
    endless = fit(loader("endless"), stop={"budget": "9 steps"}, **IN_MEMORY)
    assert (endless.status, endless.steps, endless.epochs) == ("budget_reached", 9, 0)
    assert fit(loader("endless"), stop={"budget": "9 steps"}, max_steps=8, **IN_MEMORY).status == "completed"


REFUSED = "`schedule` is {}, which depends on the total, and the training data have no length; give train.epoch_steps "


@pytest.mark.parametrize(
    "schedule", ["cosine", "warmup_linear", {"name": "OneCycleLR", "args": {"max_lr": 0.1, "cycle_momentum": False}}]
)
def test_a_schedule_that_depends_on_the_total_needs_one(schedule: Any, tmp_path: Path) -> None:
    name = schedule if isinstance(schedule, str) else schedule["name"]
    with pytest.raises(ConfigError) as refused:
        fit(loader("endless"), schedule=schedule, out=tmp_path)
    said = str(refused.value)
    assert said.startswith(REFUSED.format(name)) and "train.max_steps" in said and "\n" not in said
    assert not list(tmp_path.iterdir())
    assert fit(loader("endless"), schedule=schedule, epoch_steps=2, **IN_MEMORY).steps == 6
    assert fit(loader("endless"), schedule=schedule, max_steps=5, **IN_MEMORY).steps == 5


def test_the_total_of_a_schedule_is_max_steps_or_all_epochs() -> None:
    def rates(**given: Any) -> list[float | None]:
        outcome = fit(loader("growing"), validate_every="1 steps", **given, **IN_MEMORY)
        return [outcome.last["lr"]] if outcome.last else []

    # The last of n steps of cosine: at position n - 1 of n.
    assert rates(schedule="cosine", max_steps=10) == [0.05 * 0.5 * (1 + math.cos(math.pi * 9 / 10))]
    assert rates(schedule="cosine", epoch_steps=4) == [0.05 * 0.5 * (1 + math.cos(math.pi * 11 / 12))]
    per_epoch = {"name": "cosine", "every": "epoch"}
    assert rates(schedule=per_epoch) == [0.05 * 0.5 * (1 + math.cos(math.pi * 2 / 3))]
    assert rates(schedule=per_epoch, max_steps=10, epoch_steps=4) == [0.05 * 0.5 * (1 + math.cos(math.pi * 2 / 3))]
    with pytest.raises(
        ConfigError, match=r"depends on the total of epochs.*give train.epoch_steps beside it, or sched"
    ):
        rates(schedule=per_epoch, max_steps=10)
    # Schedules without a total need none.
    for schedule in ({"name": "step", "size": 1}, {"name": "ExponentialLR", "args": {"gamma": 0.5}}):
        assert (rates(schedule=schedule)[0] or 1.0) < 0.05
    one_cycle = {"name": "OneCycleLR", "args": {"max_lr": 0.1, "total_steps": 5, "cycle_momentum": False}}
    assert rates(schedule=one_cycle) == rates(schedule=one_cycle, epochs=4)  # its last rate is kept


def test_an_empty_pass_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        fit(Once(), out=tmp_path)
    assert str(refused.value) == (
        "the train data yield no batch in pass 2; `__iter__` of Once must return a new iterator every time it is called"
    )
    with pytest.raises(DataError, match=r"^the val data yield no batch in pass 2; `__iter__` of Once must return"):
        fit(Growing(), val=Once(), **IN_MEMORY)
    with pytest.raises(DataError, match=r"^the train data yield no batch in pass 1; "):
        fit(Once(0), **IN_MEMORY)
    given = DataLoader(Indexed(), batch_size=4, sampler=iter(range(9)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^the sampler of the train data yields no batch in pass 2; `__iter__` must"):
        fit(given, **IN_MEMORY)
    with pytest.raises(DataError, match="in pass 2"):
        fit(Once(40), epoch_steps=4, **IN_MEMORY)


def test_data_that_have_become_shorter_are_an_error(tmp_path: Path) -> None:
    class Shrinking(Growing):
        def __iter__(self) -> Any:
            return itertools.islice(super().__iter__(), self.most)

        most = 100

    stopped = fit(Shrinking(), epochs=9, out=tmp_path, hooks=[Signal(7 + 4)])
    assert stopped.status == "interrupted"
    shorter = Shrinking()
    shorter.most = 16
    with pytest.raises(DataError, match=r"^pass 3 over the training data ends before batch 5, with which the training"):
        fit(shorter, epochs=9, out=tmp_path, resume=stopped.run)


def test_an_evaluation_without_end_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loaders, "_LONG_BATCHES", 3)
    fit(Growing(), val=DataLoader(Filtered(), batch_size=4), epochs=1, **IN_MEMORY)
    (line,) = [message for message in caplog.messages if "goes on" in message]
    assert line.startswith(
        "val: 3 batches were read and the stream goes on; if it has no end, end it (itertools.islice)"
    )


class Sized(Growing):
    """Says how many items it has, wrongly."""

    def __len__(self) -> int:
        return 8


def test_a_length_is_an_estimate(recwarn: pytest.WarningsRecorder) -> None:
    made = make_loader(DataLoader(Sized(), batch_size=4), 4, Streams(0), "train", CPU)
    assert made is not None and (num_batches(made), made.num_samples) == (2, 8)
    seen = Seen()
    assert fit(DataLoader(Sized(), batch_size=4), schedule="cosine", hooks=[seen], **IN_MEMORY).steps == 12
    assert {(info.steps_per_epoch, info.total_steps) for info in seen.steps} == {(2, 6)}
    assert not [warning for warning in recwarn if "IterableDataset" in str(warning.message)]


def test_what_is_known_of_the_length() -> None:
    stream = make_loader(loader("endless"), 4, Streams(0), "train", CPU)
    buckets = make_loader(loader("buckets"), 4, Streams(0), "train", CPU)

    def of(given: Any, **train: Any) -> Extent:
        return extent(TrainSettings(epochs=3, **train), given)

    assert of(stream) == (None, 3, None) and of(buckets) == (7, 3, 21)
    assert of(stream, epoch_steps=5) == of(buckets, epoch_steps=5) == (5, 3, 15)
    assert of(stream, max_steps=12) == (None, None, 12) and of(buckets, max_steps=12) == (7, 2, 12)
    assert of(stream, max_steps=12, epoch_steps=5) == (5, 3, 12)
    assert extent(TrainSettings(epochs=0, max_steps=12), buckets) == (7, 0, 0)


def test_samples_per_second_counts_what_was_dealt(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Second(Hook):
        def on_step_end(self, info: Info) -> None:
            now[0] += 1.0

    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    outcome = fit(loader("growing"), epochs=1, hooks=[Second()], **IN_MEMORY)
    assert outcome.last is not None and outcome.last["samples_per_second"] == 10 / 3

    class Batches(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(batches_of(range(12)))

    outcome = fit(DataLoader(Batches(), batch_size=None), epochs=1, hooks=[Second()], **IN_MEMORY)
    assert outcome.last is not None and outcome.last["samples_per_second"] is None


def test_overfit_and_captures_take_the_first_samples_of_a_stream(tmp_path: Path) -> None:
    for kind, steps in (("endless", 6), ("growing", 6)):
        outcome = fit(loader(kind), val=(XV, YV), overfit=8, **IN_MEMORY)  # an epoch is a pass over two batches
        assert outcome.steps == steps and outcome.last is not None
    made = make_loader(loader("filtered"), 4, Streams(0), "train", CPU)
    assert made is not None
    head = made.head(8)
    first, second = list(head.epoch(0)), list(head.epoch(1))
    assert len(first) == 2 and all(torch.equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


def test_patience_counts_evaluations_whatever_an_epoch_is() -> None:
    stop = {"patience": 2, "min_delta": 1e9}
    outcome = fit(loader("endless"), val=(XV, YV), epoch_steps=3, epochs=50, stop=stop, **IN_MEMORY)
    assert (outcome.status, outcome.steps) == ("early_stopped", 9)


def test_a_sampler_without_a_length_is_read_lazily_and_again_from_any_batch() -> None:
    made = make_loader(DataLoader(Indexed(), batch_size=4, sampler=Forever()), 4, Streams(0), "train", CPU)
    assert made is not None and num_batches(made) is None
    far = 2 * loaders._READ_AHEAD + 5
    first = [x for x, _ in itertools.islice(made.epoch(1), far)]
    later = [x for x, _ in itertools.islice(made.epoch(1, far - 3), 3)]
    assert all(torch.equal(a, b) for a, b in zip(first[-3:], later, strict=True))
    one, two = made.epoch(1), made.epoch(1)  # two passes at one time
    assert all(torch.equal(a[0], b[0]) for _, a, b in zip(range(far), one, two, strict=False))


@pytest.mark.parametrize("kind", ["buckets", "map", "growing", "endless"])
def test_two_passes_at_one_time_with_workers(kind: str) -> None:
    made = make_loader(loader(kind, 2), 4, Streams(0), "train", CPU)
    assert made is not None
    alone = [x for x, _ in itertools.islice(made.epoch(0), 3)]
    pair = [(a[0], b[0]) for a, b in itertools.islice(zip(made.epoch(0), made.epoch(0), strict=False), 3)]
    assert all(torch.equal(x, a) and torch.equal(x, b) for x, (a, b) in zip(alone, pair, strict=True))


def test_the_estimate_is_not_believed() -> None:
    assert len({len(list(Buckets())) for _ in range(20)} | {len(Buckets())}) > 1


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "workers"), [("growing", 2), ("buckets", 0)])
def test_a_kill_in_the_middle_of_a_pass(kind: str, workers: int, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, torch, loopwright\n"
        "from support.streams import loader\n"
        "class Kill(loopwright.Hook):\n"
        "    def on_step_end(self, info):\n"
        "        if info.step == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)\n"
        f"train = loader({kind!r}, {workers})\n"
        "loopwright.fit(lambda: torch.nn.Linear(3, 1), torch.nn.MSELoss(), train=train, epochs=4, epoch_steps=4,\n"
        "    batch_size=4, device='cpu', plots='none', out=sys.argv[1], resume=True, hooks=[Kill()],\n"
        "    record={'code': False, 'checkpoint_every': '1 steps'})\n"
    )

    def train(out: str, kill_at: int) -> int:
        command = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / out), str(kill_at)]
        return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, check=False).returncode

    assert train("whole", 99) == 0
    assert train("cut", 6) == -signal.SIGKILL and train("cut", 11) == -signal.SIGKILL and train("cut", 99) == 0
    (whole,), (cut,) = ((tmp_path / out / "fit").glob("2*") for out in ("whole", "cut"))
    assert_same(str(whole), str(cut))
