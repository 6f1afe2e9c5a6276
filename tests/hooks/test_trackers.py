"""Trackers: every row arrives once, whatever happened to the run; the training goes on, whatever happens to a tracker."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loopwright
from loopwright.engine.hooks import EVENTS, Hooks
from loopwright.engine.outcome import Outcome
from loopwright.experiment import run
from loopwright.hooks import trackers
from loopwright.hooks.following import Rows, follow, shown
from loopwright.hooks.trackers import Tracker, installed, tracking
from loopwright.record.files import dumps
from support.compare import trajectory
from support.interruptions import Fail, Signal, Stopped
from support.records import record, write_config, write_result
from support.tasks import data, recipe
from support.tracked import FAKE_WANDB, Series, in_tensorboard, in_wandb, recorded, told


@pytest.fixture(autouse=True)
def nobody_is_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a W&B that writes down what it is told."""
    folder = tmp_path / "fake"
    (folder / "wandb").mkdir(parents=True)
    (folder / "wandb" / "__init__.py").write_text(FAKE_WANDB)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def wanted(*names: str, **tree: Any) -> Any:
    every = {"checkpoint_every": "5 steps", "keep_last": 99}
    return recipe(trackers=list(names), record=every, train={"validate_every": "2 steps"}, **tree)


def path_of(outcome: Outcome) -> Path:
    assert outcome.run is not None
    return Path(outcome.run)


def tracked(series: Series) -> Series:
    """The columns of a record under the names that trackers get."""
    return {shown(name): points for name, points in series.items()}


def as_float32(series: Series) -> Series:
    return {name: [(step, float(torch.tensor(value))) for step, value in points] for name, points in series.items()}


def kill_those_left_alone() -> None:
    while trackers._left_alone:
        process = trackers._left_alone.pop()
        process.kill()
        process.wait()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_every_row_arrives_once_though_the_run_was_cut_and_went_on(tmp_path: Path) -> None:
    """It fails after step 15 and goes on from step 10: the rows of 12 and 14 had been shown already."""
    both = wanted("tensorboard", "wandb")
    with pytest.raises(Stopped):
        run(both, out=tmp_path, hooks=[Fail("on_step_end", 15)])
    (path,) = tmp_path.glob("*/*")
    for points in (in_tensorboard(path)[0], in_wandb(path)[0]):
        assert [step for step, _ in points["val/loss"]] == [2, 4, 6, 8, 10, 12, 14]
    outcome = run(both, out=tmp_path, resume=True)
    assert path_of(outcome) == path
    rows = tracked(recorded(path))
    assert {"train/loss", "val/loss", "train/lr", "epoch", "machine/epoch_seconds"} <= rows.keys()
    assert [step for step, _ in rows["train/loss"]] == list(range(2, 20, 2))
    points, texts = in_tensorboard(path)
    assert outcome.test is not None and outcome.best is not None
    at = {"best": int(outcome.best["step"] or 0), "last": 18}
    tests = {
        f"test/{weights}/{name}": [(at[weights], value or 0.0)]
        for weights, metrics in outcome.test.items()
        for name, value in metrics.items()
    }
    assert "test/best/loss" in tests and points == as_float32(rows | tests)
    assert "    seed: 3\n" in texts["recipe/text_summary"] and '"completed"' in texts["result/text_summary"]
    points, config, summary = in_wandb(path)
    assert points == rows
    assert (config["seed"], config["train"]["epochs"], config["run_id"][-3:]) == (3, 3, "-s3")
    assert (summary["status"], summary["test/best/loss"]) == ("completed", outcome.test["best"]["loss"])
    assert not list((path / "trackers").rglob("run-*/*.py"))  # no code


def test_the_training_does_not_notice(tmp_path: Path, fake: Path) -> None:
    without = run(wanted(), out=tmp_path / "without")
    withs = run(wanted("wandb"), out=tmp_path / "with")
    assert trajectory(without.run) == trajectory(withs.run)
    assert without.run is not None and not (Path(without.run) / "trackers").exists()
    assert [row["step"] for row in told(fake, "row")] == list(range(2, 20, 2))
    heard = [event for event in EVENTS if Hooks([Tracker("wandb", tmp_path)]).wants(event)]
    assert heard == ["on_start", "on_epoch_end"]  # nothing per step


def test_a_child_shows_what_it_has_from_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "_WAIT_SECONDS_INTERRUPTED", 60.0)  # however busy this machine is
    parent = run(wanted("tensorboard"), out=tmp_path, hooks=[Signal(7)])
    assert parent.status == "interrupted"
    assert [step for step, _ in in_tensorboard(path_of(parent))[0]["train/loss"]] == [2, 4, 6]
    child = loopwright.resume(path_of(parent), "train.epochs=4", allow_import=["support"])
    assert child.run != parent.run
    points, _ = in_tensorboard(path_of(child))
    assert [step for step, _ in points["train/loss"]] == list(range(2, 26, 2))


def test_it_ends_with_the_training_that_was_killed(tmp_path: Path) -> None:
    """Nobody says that it is over: the pipe breaks. What was recorded is shown, and the lock is free."""
    tracker = Tracker("tensorboard", record(tmp_path / "run"))
    write_config(tmp_path / "run", seed=1)
    tracker.on_start(None)  # type: ignore[arg-type]
    process = tracker._process
    assert process is not None and process.stdin is not None and process.stdout is not None
    process.stdin.close()
    assert process.wait(30) == 0
    assert not process.stdout.read()
    process.stdout.close()
    assert [step for step, _ in in_tensorboard(tmp_path / "run")[0]["val/recall"]] == [20, 40, 60, 80, 100, 120]


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("full", "wandb failed and is switched off, the training goes on: OSError: [Errno 28] No space left on device"),
        ("die", "wandb failed and is switched off: its process ended with 3"),
        ("hang", "wandb is still sending RUN and goes on by itself"),
    ],
)
def test_a_failing_tracker_warns_once_and_changes_nothing(
    does: str,
    said: str,
    fake: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("FAKE_WANDB", does)
    monkeypatch.setattr(trackers, "_WAIT_SECONDS", 0.3 if does == "hang" else 60.0)
    outcome = run(wanted("wandb"), out=tmp_path)
    assert warnings(caplog) == [said.replace("RUN", str(outcome.run))]
    assert outcome.status == "completed"
    assert trajectory(outcome.run) == trajectory(run(wanted(), out=tmp_path / "without").run)
    kill_those_left_alone()


def test_ctrl_c_at_the_end_does_not_wait(fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WANDB", "hang")
    path = record(tmp_path / "run")
    write_config(path, seed=1)
    tracker = Tracker("wandb", path)
    tracker.on_start(None)  # type: ignore[arg-type]
    pressed = iter([False, False, True])
    trackers.finish([tracker], lambda: next(pressed))
    assert len(trackers._left_alone) == 1 and next(pressed, None) is None
    kill_those_left_alone()


def test_a_missing_package_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trackers, "installed", lambda name: False)
    outcome = run(wanted("wandb"), out=tmp_path)
    (line,) = warnings(caplog)
    assert line == "wandb is not installed, nothing is sent; pip install 'loopwright[wandb]'"
    assert outcome.status == "completed" and not (path_of(outcome) / "trackers").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_by_wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [installed(name) for name in ("tensorboard", "left_by_wandb", "not_there")] == [True, False, False]


def test_online_for_whoever_is_signed_in_and_only_what_the_server_lacks(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password 0123\n")
    monkeypatch.setenv("FAKE_WANDB", "resumed")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    path = path_of(run(wanted("wandb"), out=tmp_path / "runs"))
    (asked,) = told(fake, "init")
    assert (asked["mode"], asked["resume"], asked["project"], asked["name"]) == (None, "allow", "mine", path.name)
    assert asked["id"].startswith(path.name) and path.name.startswith(asked["id"].rpartition("-")[0])
    assert [row["step"] for row in told(fake, "row")] == [14, 16, 18]
    assert told(fake, "settings") == [{"console": "off"}]  # those that this version knows
    assert told(fake, "finish") == [{"exit_code": 0}]


def test_a_server_out_of_reach_leaves_the_run_offline(
    fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_WANDB", "unreachable")
    monkeypatch.setenv("WANDB_MODE", "online")
    path = path_of(run(wanted("wandb"), out=tmp_path / "runs"))
    folder = path / "trackers" / "wandb"
    assert warnings(caplog) == [f"W&B cannot be used online, {folder} keeps the run for `wandb sync`: no route"]
    assert [asked["mode"] for asked in told(fake, "init")] == [None, "offline"]
    assert len(told(fake, "row")) == 9 and not (folder / "run-1").exists()


def test_a_folder_outside_the_run_is_not_touched(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mine" / "tensorboard").mkdir(parents=True)
    (tmp_path / "mine" / "tensorboard" / "notes").write_text("dear")
    path = record(tmp_path / "run")
    write_config(path, seed=1)
    (path / "trackers").symlink_to(tmp_path / "mine")
    tracker = Tracker("tensorboard", path)
    tracker.on_start(None)  # type: ignore[arg-type]
    trackers.finish([tracker], lambda: False)
    (line,) = warnings(caplog)
    assert f"RunError: {path / 'trackers'} is a link that leaves the run directory" in line
    assert [file.name for file in (tmp_path / "mine").rglob("*")] == ["tensorboard", "notes"]


def test_the_process_beside_the_training_has_no_torch() -> None:
    code = "import sys, loopwright.hooks.following, loopwright.hooks.tensorboard; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_nothing_is_tracked_without_a_record(caplog: pytest.LogCaptureFixture) -> None:
    assert run(recipe(trackers=["wandb", "tensorboard"], record={"save": False})).status == "completed"
    (line,) = warnings(caplog)
    assert line == "`trackers` is [wandb, tensorboard]: nothing is tracked, since record.save=false leaves no record"
    assert tracking((), None) == []


def test_a_module_of_ones_own_is_tracked_and_its_proof_is_not(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Linear(3, 1)

    given: dict[str, Any] = {"train": data("train"), "val": data("val")}
    few = {"epochs": 2, "batch_size": 8, "record": {"code": False}, "plots": "none", "device": "cpu"}
    outcome = loopwright.fit(make, nn.MSELoss(), **given, **few, out=tmp_path, trackers=["tensorboard"])
    points, _ = in_tensorboard(path_of(outcome))
    assert [step for step, _ in points["val/loss"]] == [3, 6]
    proof = tmp_path / "proof"
    assert loopwright.verify(path_of(outcome), model=make, loss=nn.MSELoss(), **given, keep=proof).identical
    assert list(proof.glob("*/*/metrics.csv")) and not list(proof.rglob("trackers"))


class Collected:
    """A view that keeps what it is shown."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.result: Any = None

    def add(self, points: Any) -> None:
        self.batches.append([point.step for point in points])

    def finish(self, result: Any) -> None:
        self.result = result


def test_rows_are_read_as_they_come_and_torn_ones_when_they_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    growth = ["", "epoch,st", "ep,lr,train_loss,val_x\n1,5,0.1,2.0,\n", "", "2,10,0.1,nan,0.2", "5\n3,15,0.1,1.0,0.5\n"]
    view = Collected()

    def over(seconds: float) -> bool:
        with path.open("a") as file:
            file.write(growth.pop(0))
        if not growth:
            write_result(tmp_path, **_result())
        return not growth

    follow(tmp_path, view, over)
    assert view.batches == [[5], [10, 15]] and view.result["status"] == "completed"
    first, second, third = Rows(tmp_path).new()
    assert first.values == {"epoch": 1.0, "train/lr": 0.1, "train/loss": 2.0}
    assert second.values["train/loss"] != second.values["train/loss"] and third.values["val/x"] == 0.5


def test_a_row_has_the_moment_of_its_work(tmp_path: Path) -> None:
    """Pauses between sessions do not count, and what a child has from its parent lies before its start."""
    path = record(tmp_path / "run", epochs=3)  # 20 steps and 0.1 seconds each
    started = {"started_at": "2026-01-01T00:00:00.000Z"}
    later = {"started_at": "2026-01-02T00:00:00.000Z", "step_from": 40}
    (path / "sessions.jsonl").write_text(dumps(started) + "\n" + dumps(later) + "\n")
    assert [point.at - 1767225600 for point in Rows(path).new()] == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    (path / "sessions.jsonl").write_text(dumps(started | {"step_from": 40}) + "\n")
    assert [point.at - 1767225600 for point in Rows(path).new()] == pytest.approx([-0.1, 0.0, 0.1], abs=1e-6)


def _result() -> dict[str, Any]:
    texts = dict.fromkeys(("reason", "monitor", "mode", "weights_sha256"), "")
    return {**texts, "status": "completed", "epochs": 1, "steps": 15, "elapsed_seconds": 1.0}
