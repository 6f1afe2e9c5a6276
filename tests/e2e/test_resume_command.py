"""`train --resume` and `resume RUN`: finished runs are not repeated, unfinished ones go on, others have children."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import loopwright
from loopwright.engine.outcome import Outcome
from loopwright.record.compare import likely_causes
from loopwright.record.lock import DirectoryLock
from support.cli import TINY, Ended, command, train
from support.compare import assert_same, timeless, trajectory
from support.interruptions import Fail, Signal, Stopped

THREE = (*TINY, "train.epochs=3", "record.checkpoint_every='4 steps'")


def resumed(root: Path, *arguments: object) -> Ended:
    return command("train", *THREE, "--out", root, "--json", "--resume", *arguments)


def interrupted(root: Path, step: int, number: int = signal.SIGTERM) -> Path:
    outcome = loopwright.train(*THREE, out=root, resume=True, hooks=[Signal(step, number)])
    assert isinstance(outcome, Outcome) and outcome.status == "interrupted" and outcome.run is not None
    return Path(outcome.run)


def environment(run: Path) -> dict[str, Any]:
    facts = json.loads((run / "environment.json").read_text())
    assert isinstance(facts, dict)
    return facts


def test_none_starts_and_finished_prints_the_same_line(tmp_path: Path) -> None:
    first = resumed(tmp_path)
    assert first.code == 0 and "epoch 1/3" in first.err
    again = resumed(tmp_path)
    assert again.code == 0 and "already finished" in again.err and "epoch 1/3" not in again.err
    assert timeless(again.json) == timeless(first.json) and again.run == first.run
    assert again.json["seconds"] == json.loads((first.run / "result.json").read_text())["elapsed_seconds"]
    assert len(list(first.run.parent.glob("2*"))) == 1


def test_new_forces_a_new_one(tmp_path: Path) -> None:
    first = resumed(tmp_path)
    new = resumed(tmp_path, "--new")
    assert new.run != first.run
    assert_same(first.run, new.run)
    interrupted(tmp_path / "other", 7)
    forced = command("train", *THREE, "--out", tmp_path / "other", "--json", "--resume", "--new")
    assert len(list(forced.run.parent.glob("2*"))) == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("optim=sgd", "optim.lr=1e12"), 4),
        (("stop.gate={loss: 1e-9}", "--require-gate"), 3),
        (("stop.gate={loss: 100.0}", "--require-gate"), 0),
        (("train.epochs=0",), 0),
        (("stop.patience=1", "stop.mode=max"), 0),
    ],
)
def test_finished_run_exits_as_it_did(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    first, again = resumed(tmp_path, *arguments), resumed(tmp_path, *arguments)
    assert (first.code, again.code) == (code, code)
    assert timeless(again.json) == timeless(first.json)
    assert len(list(first.run.parent.glob("2*"))) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_interrupted_run_goes_on_to_the_same_content(tmp_path: Path, number: int) -> None:
    whole = train(tmp_path / "whole", *THREE[len(TINY) :])
    run = interrupted(tmp_path / "runs", 7, number)
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "interrupted" and result["steps"] == 7 and "step 7" in result["reason"]
    assert command("runs", "--out", tmp_path / "runs", "--json").json[0]["status"] == "interrupted"
    ended = resumed(tmp_path / "runs")
    assert ended.code == 0 and ended.run == run and "going on from step 7 (epoch 2)" in ended.err
    assert_same(whole.run, run)
    sessions = [json.loads(line) for line in (run / "sessions.jsonl").read_text().splitlines()]
    assert [(one["step_from"], one["step_reached"], one["end"]) for one in sessions] == [
        (0, 7, "interrupted"),
        (7, 15, "completed"),
    ]


def test_drift_is_kept_in_the_record_from_the_resume_on(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 7)
    facts = environment(run)
    assert facts["bits_promised"] is True and "changes" not in facts
    facts["numerics"]["float32_matmul_precision"] = "medium"
    (run / "environment.json").write_text(json.dumps(facts))
    ended = resumed(tmp_path)
    line = "float32_matmul_precision: recorded medium, now highest; bits are no longer promised"
    assert ended.run == run and f"warning: {line}" in ended.err
    now = environment(run)
    (change,) = now["changes"]
    assert now == {**facts, "bits_promised": False, "changes": [change]}
    assert set(change) == {"at", "step", "what"} and (change["step"], change["what"]) == (7, [line])
    assert likely_causes(run, run) == [f"changed at a resume in step 7: {line}"] * 2


def test_interruption_exits_with_75(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loopwright.console.observers", lambda console_every: [Signal(7)])
    ended = resumed(tmp_path)
    assert ended.code == 75 and ended.json["status"] == "interrupted"
    assert "SIGTERM: a checkpoint follows at the next step" in ended.err and ended.errors == []
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.undo()
    assert resumed(tmp_path).code == 0 and signal.getsignal(signal.SIGTERM) is before


def test_interrupted_again_and_again_also_right_at_the_ends_of_epochs(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *THREE[len(TINY) :])
    for step in (1, 4, 6, 8, 9, 11, 14):
        run = interrupted(tmp_path / "runs", step)
    assert resumed(tmp_path / "runs").run == run
    assert_same(whole.run, run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_last_step_of_the_run_finishes_it(tmp_path: Path, number: int) -> None:
    outcome = loopwright.train(*THREE, out=tmp_path, hooks=[Signal(15, number)])
    assert isinstance(outcome, Outcome) and outcome.status == "completed" and outcome.steps == 15


def test_unfinished_without_a_checkpoint_starts_again_in_the_same_directory(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *THREE[len(TINY) :])
    with pytest.raises(Stopped):
        loopwright.train(*THREE, out=tmp_path / "runs", hooks=[Fail("on_step_end", 2)])
    (run,) = (tmp_path / "runs/self_test").glob("2*")
    assert not list((run / "checkpoints").glob("step_*.pt"))
    assert json.loads((run / "result.json").read_text())["status"] == "failed"
    ended = resumed(tmp_path / "runs")
    assert ended.run == run and "going on" not in ended.err
    assert_same(whole.run, run)


def test_failure_in_own_code_is_recorded_and_raised(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        loopwright.train(*THREE, out=tmp_path, hooks=[Fail("on_epoch_end", 2)])
    (run,) = (tmp_path / "self_test").glob("2*")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "failed" and result["reason"] == "Stopped: on_epoch_end"
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "on_exception" and events[-1]["error"] == "Stopped: on_epoch_end"
    assert command("runs", "--out", tmp_path, "--json").json[0]["status"] == "failed"


def test_killed_before_anything_but_the_config_was_written(tmp_path: Path) -> None:
    whole = train(tmp_path / "runs", *THREE[len(TINY) :])
    run = whole.run.with_name(whole.run.name.replace("20", "21", 1))  # a later start of the same identity
    run.mkdir()
    (run / "config.yaml").write_bytes((whole.run / "config.yaml").read_bytes())
    (run / "overrides.yaml").write_bytes((whole.run / "overrides.yaml").read_bytes())
    assert command("runs", "--out", tmp_path / "runs", "--json").json[-1]["status"] == "unfinished"
    ended = resumed(tmp_path / "runs")
    assert ended.run == run and ended.code == 0
    assert_same(whole.run, run)


def test_changed_recipe_starts_a_new_one_and_names_the_keys(tmp_path: Path) -> None:
    first = resumed(tmp_path)
    other = resumed(tmp_path, "optim.lr=0.5", "train.batch_size=8")
    assert other.code == 0 and other.run != first.run
    (warning,) = [line for line in other.err.splitlines() if line.startswith("warning: ")]
    assert "optim.lr: 0.01 -> 0.5; train.batch_size: 16 -> 8" in warning and first.run.name in warning


def test_other_record_settings_are_the_same_run(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", *THREE[len(TINY) :])
    run = interrupted(tmp_path / "runs", 7)
    ended = resumed(tmp_path / "runs", "record.checkpoint_every='1 steps'", "record.console_every=0")
    assert ended.run == run and trajectory(run) == trajectory(whole.run)


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 7)
    other = resumed(tmp_path, "seed=7")
    assert other.run != run and "seed: 42 -> 7" in other.err


def test_resume_goes_on_with_a_named_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole", *THREE[len(TINY) :])
    run = interrupted(tmp_path / "runs", 7)
    monkeypatch.chdir(tmp_path)
    ended = command("resume", "last", "--json")
    assert ended.code == 0 and ended.run == run.relative_to(tmp_path)
    assert_same(whole.run, run)
    again = command("resume", run, "--json")
    assert timeless(again.json) == {**timeless(ended.json), "run": str(run)} and "is finished (completed)" in again.err


def test_more_epochs_make_a_child_that_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    long = train(tmp_path / "long", "train.epochs=4")
    parent = train(tmp_path / "runs")
    before = {path: path.read_bytes() for path in parent.run.rglob("*") if path.is_file()}
    child = command("resume", parent.run, "train.epochs=4", "--json")
    assert child.code == 0 and child.run != parent.run and "warning" not in child.err
    assert environment(child.run)["parent"] == str(parent.run.resolve()) and environment(parent.run)["parent"] is None
    assert trajectory(child.run) == trajectory(long.run)
    for name in ("metrics.csv", "steps.csv"):
        assert len((child.run / name).read_text().splitlines()) == len((long.run / name).read_text().splitlines())
    for key in ("best", "last", "test"):
        assert timeless(child.json[key]) == timeless(long.json[key])
    assert {path: path.read_bytes() for path in parent.run.rglob("*") if path.is_file()} == before


def test_child_does_not_stand_in_for_a_run_of_its_recipe(tmp_path: Path) -> None:
    parent = train(tmp_path, "optim.lr=0.5")
    child = command("resume", parent.run, "optim.lr=0.01", "train.epochs=4", "--json")
    ended = command("train", *TINY, "train.epochs=4", "--out", tmp_path, "--resume", "--json")
    assert ended.run not in (child.run, parent.run) and ended.json["weights_sha256"] != child.json["weights_sha256"]
    again = command("resume", child.run, "--json")
    assert timeless(again.json) == timeless(child.json)


def test_other_patience_goes_on_after_an_early_stop(tmp_path: Path) -> None:
    parent = train(tmp_path, "train.epochs=6", "stop.mode=max", "stop.patience=1")
    assert parent.json["status"] == "early_stopped" and parent.json["epochs"] == 2
    child = command("resume", parent.run, "stop.patience=3", "--json")
    assert (child.json["status"], child.json["epochs"]) == ("early_stopped", 4)


def test_a_lower_gate_passes_where_the_parent_ended_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    parent = train(tmp_path, "stop.gate={loss: 1e-9}")
    assert parent.json["status"] == "gate_failed"
    child = command("resume", parent.run, "stop.gate.loss=100.0", "--require-gate", "--json")
    assert (child.code, child.json["status"], child.json["epochs"]) == (0, "gate_passed", 2)
    assert (child.run / "checkpoints/gate.pt").exists() and not (parent.run / "checkpoints/gate.pt").exists()
    judged = command("evaluate", child.run, "--split", "val", "--checkpoint", "gate", "--json").json
    assert judged["metrics"]["loss"] == child.json["last"]["val_loss"]


def test_a_child_of_another_precision_is_one_line(tmp_path: Path) -> None:
    parent = train(tmp_path)
    child = command("resume", parent.run, "train.precision=fp16", "train.epochs=3")
    assert child.code == 2 and len(child.errors) == 1
    assert "it was written with another train.precision; keep that, or start a new run" in child.errors[0]


def test_a_childs_tables_gain_the_columns_that_its_parent_had_not(tmp_path: Path) -> None:
    parent = train(tmp_path)
    child = command("resume", parent.run, "train.clip_norm=1.0", "train.epochs=3", "--json")
    assert child.code == 0
    for name, column in (("steps.csv", "grad_norm"), ("metrics.csv", "train_grad_norm")):
        before, after = ([*csv.DictReader((run / name).read_text().splitlines())] for run in (parent.run, child.run))
        assert column not in before[0] and column in after[0]
        for ours, theirs in zip(before, after, strict=False):
            assert theirs == ours | dict.fromkeys(theirs.keys() - ours.keys(), "")
        assert all(float(row[column]) > 0 for row in after[len(before) :]) and len(after) > len(before)


def test_schedule_that_depends_on_the_total_is_named(tmp_path: Path) -> None:
    parent = train(tmp_path, "schedule=cosine")
    child = command("resume", parent.run, "train.epochs=4")
    assert "warning: `schedule` is cosine, which depends on the total" in child.err and child.code == 0


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (("trian.epochs=4",), "did you mean `train`?"),
        (("train.epochs=-1",), "it should be greater than or equal to 0"),
        (("train.epochs",), "is not an override"),
    ],
)
def test_wrong_override_of_resume_is_one_line(tmp_path: Path, overrides: tuple[str, ...], part: str) -> None:
    parent = train(tmp_path)
    ended = command("resume", parent.run, *overrides)
    assert ended.code == 2 and len(ended.errors) == 1 and part in ended.errors[0]
    assert len(list(parent.run.parent.glob("2*"))) == 1


def test_run_without_a_checkpoint_has_no_child(tmp_path: Path) -> None:
    parent = train(tmp_path, "train.epochs=0")
    ended = command("resume", parent.run, "train.epochs=4")
    assert ended.code == 2 and ended.errors == [f"{parent.run} has no checkpoint to go on from"]


def test_run_from_python_is_gone_on_with_from_python(tmp_path: Path) -> None:
    import torch

    x = torch.linspace(-1, 1, 24).reshape(8, 3)
    arguments: dict[str, Any] = {
        "train": (x, x.sum(1, keepdim=True)),
        "epochs": 3,
        "batch_size": 4,
        "out": tmp_path,
        "plots": "none",
        "record": {"code": False},
    }
    stopped = loopwright.fit(lambda: nn.Linear(3, 1), nn.MSELoss(), hooks=[Signal(3)], **arguments)
    for extra in ((), ("train.epochs=9",)):
        ended = command("resume", stopped.run, *extra)
        assert ended.code == 2 and len(ended.errors) == 1
        assert "call loopwright.fit(..., resume=True)" in ended.errors[0]
    assert command("evaluate", stopped.run).code == 2
    done = loopwright.fit(lambda: nn.Linear(3, 1), nn.MSELoss(), resume=True, **arguments)
    assert (done.status, done.run, done.steps) == ("completed", stopped.run, 6)


def test_held_run_is_refused_with_who_holds_it(tmp_path: Path) -> None:
    run = interrupted(tmp_path, 7)
    with DirectoryLock(run / ".lock"):
        for ended in (resumed(tmp_path), command("resume", run), command("runs", "remove", run, "--yes")):
            assert ended.code == 2 and len(ended.errors) == 1
            assert f"pid {os.getpid()} on host {os.uname().nodename}" in ended.errors[0]
        assert command("runs", "--out", tmp_path, "--json").json[0]["status"] == "interrupted"
    assert resumed(tmp_path).code == 0


def test_several_seeds_resume_each_of_their_runs(tmp_path: Path) -> None:
    first = train(tmp_path, "seeds=[1,2]")
    again = train(tmp_path, "seeds=[1,2,3]", "--resume")
    assert [one["run"] for one in again.json["runs"][:2]] == [one["run"] for one in first.json["runs"]]
    assert timeless(again.json["runs"][:2]) == timeless(first.json["runs"])
    assert len(again.json["runs"]) == 3 and again.err.count("epoch 1/2") == 1
