"""A run's directory: which files there are, what each holds, and that nothing else appears anywhere."""

from __future__ import annotations

import csv
import json
import math
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from loopwright import clock, compose
from loopwright.engine.outcome import Outcome
from loopwright.errors import RunError
from loopwright.experiment import run
from loopwright.record.run import NAMES, Run
from loopwright.record.tables import Table
from support.cli import TINY, command, train

# Public: scripts read these files. A new name is added here and in docs/reference/run-directory.md.
FILES_OF_A_RUN = {
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "pip_freeze.txt",
    "code.diff",
    "events.jsonl",
    "sessions.jsonl",
    "metrics.csv",
    "steps.csv",
    "result.json",
    "model.pt",
    "task/data.json",
    "checkpoints/index.json",
    "checkpoints/step_000000010.pt",
    "checkpoints/last.pt",
    "checkpoints/best.pt",
}
TOP_LEVEL = {
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "pip_freeze.txt",
    "code.diff",
    "events.jsonl",
    "sessions.jsonl",
    "metrics.csv",
    "steps.csv",
    "result.json",
    "checkpoints",
    "model.pt",
    "loss.pt",
    "figures",
    "evaluation",
    "captures",
    "trackers",
    "task",
    "proof.json",
}
EVENTS_OF_TWO_EPOCHS = [
    "on_start",
    "on_epoch_start",
    "on_validation_end",
    "on_epoch_end",
    "on_epoch_start",
    "on_validation_end",
    "on_epoch_end",
    "on_train_end",
    "on_test_end",
]
COLUMNS = [
    "epoch",
    "step",
    "lr",
    "train_loss",
    "val_loss",
    "val_mae",
    "val_rmse",
    "val_r2",
    "epoch_seconds",
    "samples_per_second",
    "max_memory_mib",
]


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if not file.is_dir()}


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_finished_run_has_exactly_these_files(tmp_path: Path) -> None:
    ended = train(tmp_path, "name=tiny")
    assert files(ended.run) == FILES_OF_A_RUN
    assert set(NAMES) == TOP_LEVEL
    assert {path.name for path in ended.run.iterdir()} <= TOP_LEVEL
    moment, recipe_id, seed = ended.run.name.split("-")
    assert ended.run.parent == tmp_path / "tiny"
    assert datetime.strptime(moment, "%Y%m%dT%H%M%SZ").year >= 2024
    assert len(recipe_id) == 10 and int(recipe_id, 16) >= 0 and seed == "s42"


def test_config_and_overrides_say_what_was_asked_for(tmp_path: Path) -> None:
    ended = train(tmp_path, "optim.lr=0.003")
    assert yaml.safe_load((ended.run / "overrides.yaml").read_text()) == [*TINY, "optim.lr=0.003"]
    config = yaml.safe_load((ended.run / "config.yaml").read_text())
    assert config["optim"]["lr"] == 0.003 and config["task"]["data"]["rows"] == 100 and config["name"] == "self_test"
    printed = command("train", *TINY, "optim.lr=0.003", "--print-config")
    assert yaml.safe_load(printed.out) == config


def test_tables_have_a_row_per_epoch_and_per_step(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    metrics, steps = read(run_dir / "metrics.csv"), read(run_dir / "steps.csv")
    assert list(metrics[0]) == COLUMNS and list(steps[0]) == ["step", "epoch", "loss", "lr"]
    assert [(row["epoch"], row["step"]) for row in metrics] == [("1", "5"), ("2", "10")]
    assert [(row["step"], row["epoch"]) for row in steps] == [(str(n), "1" if n <= 5 else "2") for n in range(1, 11)]


def test_parts_and_gradient_norms_have_columns_of_their_own(tmp_path: Path) -> None:
    overrides = ["experiment=gru_baseline", "task.data.synthetic.rows=60", "task.data.window=7", "model.hidden=4"]
    ended = command(
        "train",
        *overrides,
        "task.loss.cardinality_weight=0.1",
        "train.epochs=1",
        "train.clip_norm=1.0",
        "plots=none",
        "record.code=false",
        "--out",
        tmp_path,
        "--json",
    )
    assert ended.code == 0, ended.err
    steps, metrics = read(ended.run / "steps.csv"), read(ended.run / "metrics.csv")
    assert list(steps[0]) == ["step", "epoch", "loss", "bce", "cardinality", "lr", "grad_norm"]
    assert list(metrics[0])[:8] == [
        "epoch",
        "step",
        "lr",
        "train_loss",
        "train_bce",
        "train_cardinality",
        "train_grad_norm",
        "train_grad_norm_max",
    ]
    assert list(metrics[0])[8:] == [
        *(f"val_{name}" for name in ("loss", "recall_at_5", "recall_at_20", "hit_at_5", "hit_at_20", "mrr")),
        "epoch_seconds",
        "samples_per_second",
        "max_memory_mib",
    ]
    weighted = float(steps[0]["bce"]) + 0.1 * float(steps[0]["cardinality"])
    assert float(steps[0]["loss"]) == pytest.approx(weighted, rel=1e-5)


def test_events_come_in_order_and_carry_their_rows(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    events = lines(run_dir / "events.jsonl")
    assert [event["event"] for event in events] == EVENTS_OF_TWO_EPOCHS
    assert all(event["written_at"].endswith("Z") for event in events)
    rows = read(run_dir / "metrics.csv")
    ends = [event for event in events if event["event"] == "on_epoch_end"]
    assert [{key: repr(value) for key, value in event["row"].items()} for event in ends] == rows
    history = next(event["history"] for event in events if event["event"] == "on_train_end")
    assert {name: [repr(value) for value in values] for name, values in history.items()} == {
        name: [row[name] for row in rows] for name in COLUMNS
    }


def test_result_has_these_keys(tmp_path: Path) -> None:
    ended = train(tmp_path)
    result = json.loads((ended.run / "result.json").read_text())
    assert list(result) == [
        "status",
        "reason",
        "name",
        "seed",
        "recipe_id",
        "monitor",
        "mode",
        "value",
        "best",
        "last",
        "test",
        "epochs",
        "steps",
        "elapsed_seconds",
        "weights_sha256",
        "remarks",
        "curves",
    ]
    assert (result["status"], result["epochs"], result["steps"]) == ("completed", 2, 10)
    assert set(result["test"]) == {"best", "last"} and set(result["test"]["best"]) == {"loss", "mae", "rmse", "r2"}
    assert set(result["curves"]) == {"train_loss", "loss", "mae", "rmse", "r2"}
    assert len(result["curves"]["train_loss"]) == 10 and len(result["curves"]["loss"]) == 2
    assert result["value"] == result["last"]["val_loss"]
    assert {key: ended.json[key] for key in ("best", "last", "test", "weights_sha256")} == {
        key: result[key] for key in ("best", "last", "test", "weights_sha256")
    }


def test_loss_curve_is_per_step_only_where_every_step_was_recorded(tmp_path: Path) -> None:
    run_dir = train(tmp_path, "record.steps_every=3").run
    assert [row["step"] for row in read(run_dir / "steps.csv")] == ["3", "6", "9"]
    assert set(json.loads((run_dir / "result.json").read_text())["curves"]) == {"loss", "mae", "rmse", "r2"}
    none = train(tmp_path, "record.steps_every=0").run
    assert (none / "steps.csv").read_bytes() == b""


def test_environment_has_these_keys_and_no_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOPWRIGHT_TEST_SECRET", "hunter2-in-the-environment")
    ended = train(tmp_path, "record.code=true", "record.checkpoint_every='1 epochs'")
    environment = json.loads((ended.run / "environment.json").read_text())
    assert list(environment) == [
        "seed",
        "recipe_id",
        "run_id",
        "parent",
        "deterministic",
        "bits_promised",
        "device",
        "data_sha256",
        "initial_weights_sha256",
        "python",
        "platform",
        "host",
        "loopwright",
        "torch",
        "numpy",
        "numerics",
        "hardware",
        "git",
        "argv",
        "source_sha256",
    ]
    assert environment["parent"] is None and environment["seed"] == 42 and environment["bits_promised"] is True
    assert environment["numerics"]["threads"] == 1
    assert len(environment["initial_weights_sha256"]) == 64
    for file in ended.run.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"hunter2" not in content and b"LOOPWRIGHT_TEST_SECRET" not in content, file
    assert "torch==" in (ended.run / "pip_freeze.txt").read_text()
    assert train(tmp_path, "--no-deterministic").code == 0
    loose = json.loads((max(tmp_path.rglob("environment.json"), key=os.path.getmtime)).read_text())
    assert loose["bits_promised"] is False


def test_sessions_hold_a_row_per_process(tmp_path: Path) -> None:
    ended = train(tmp_path)
    (session,) = lines(ended.run / "sessions.jsonl")
    assert list(session) == [
        "started_at",
        "host",
        "pid",
        "versions",
        "step_from",
        "ended_at",
        "end",
        "step_reached",
    ]
    assert session["pid"] == os.getpid() and session["step_from"] == 0
    assert (session["end"], session["step_reached"]) == ("completed", 10)


def test_floats_read_back_to_the_same_bits(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, math.pi * 1e-17, float(torch.tensor(0.1))]
    table = Table(tmp_path / "t.csv")
    for step, value in enumerate(values):
        table.append({"step": step, "value": value, "none": None})
    table.close()
    rows = read(tmp_path / "t.csv")
    assert [float(row["value"]).hex() for row in rows] == [value.hex() for value in values]
    assert {row["none"] for row in rows} == {""}


def test_numbers_of_every_file_agree_to_the_bit(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    row = read(run_dir / "metrics.csv")[-1]
    result = json.loads((run_dir / "result.json").read_text())
    saved = torch.load(run_dir / "checkpoints/last.pt", weights_only=True)
    for name in COLUMNS:
        assert float(row[name]).hex() == float(result["last"][name]).hex()
        assert float(saved["metrics"][name]).hex() == float(row[name]).hex()
    at = saved["history"]["columns"].index("val_loss")
    assert saved["history"]["values"][-1, at].item() == float(row["val_loss"])


def test_two_runs_of_one_second_get_directories_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime(2024, 2, 29, 12, 0, 0, tzinfo=UTC)
    monkeypatch.setattr(clock, "utc_now", lambda: moment)
    runs = [train(tmp_path).run for _ in range(3)]
    base = runs[0].name
    assert base.startswith("20240229T120000Z-") and [path.name for path in runs] == [base, f"{base}-2", f"{base}-3"]
    listed = command("runs", "--out", tmp_path, "--json").json
    assert [row["path"] for row in listed] == [str(path) for path in runs]


def test_threads_that_start_at_one_instant_never_share_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = datetime(2024, 1, 1, tzinfo=UTC)
    monkeypatch.setattr(clock, "utc_now", lambda: moment)
    barrier, made = threading.Barrier(4), []

    def create() -> None:
        barrier.wait()
        made.append(Run.create(tmp_path, "n", "0123456789-s1", {}, ()))

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.path for one in made}) == 4
    for one in made:
        one.close()


def test_name_that_is_a_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    ended = train(tmp_path, "name=taken", code=2)
    assert ended.errors == [
        f"--out {tmp_path}: {tmp_path}/taken cannot be made (File exists); choose another directory"
    ]
    root = tmp_path / "root"
    root.write_text("")
    assert train(root, code=2).errors == [f"--out {root} is a file; give a directory"]


@pytest.mark.parametrize("name", ["a/b", ".hidden", "", "x" * 201, "new\nline"])
def test_name_is_one_folder(tmp_path: Path, name: str) -> None:
    ended = train(tmp_path, f"name='{name}'", code=2)
    assert len(ended.errors) == 1 and "a run's name is one folder" in ended.errors[0]
    assert list(tmp_path.iterdir()) == []


def test_save_false_leaves_nothing_and_returns_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = train(tmp_path / "runs")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    ended = command("train", *TINY, "record.save=false", "--json")
    assert ended.code == 0 and list(empty.iterdir()) == []
    assert ended.json["run"] is None
    for key in ("status", "test", "weights_sha256", "epochs", "steps", "value"):
        assert ended.json[key] == saved.json[key]
    outcome = run(compose(*TINY, "record.save=false"))
    assert isinstance(outcome, Outcome) and outcome.run is None and outcome.best is not None
    kept = json.loads((saved.run / "result.json").read_text())["curves"]
    assert dict(outcome.curves) == kept
    assert list(empty.iterdir()) == []


def test_root_is_out_else_the_variable_else_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOPWRIGHT_RUNS", raising=False)
    assert command("train", *TINY, "--json").run.parts[0] == "runs"
    monkeypatch.setenv("LOOPWRIGHT_RUNS", str(tmp_path / "elsewhere"))
    assert command("train", *TINY, "--json").run.parent.parent == tmp_path / "elsewhere"
    assert len(command("runs", "--json").json) == 1
    assert train(tmp_path / "given").run.parent.parent == tmp_path / "given"
    monkeypatch.chdir("/")
    assert run(compose(*TINY)).run is not None
    assert len(command("runs", "--json").json) == 2


def test_directory_that_is_no_run_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        Run.open(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_a_run_only_when_all_that_was_asked_for_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is killed between the two files leaves no run without its overrides."""
    import loopwright.record.run as module

    written: list[str] = []
    inner = module.write_atomic
    monkeypatch.setattr(module, "write_atomic", lambda path, *more: (written.append(path.name), inner(path, *more)))
    module.Run.create(tmp_path, "a", "0123456789-s1", {}, ()).close()
    assert written == ["overrides.yaml", "config.yaml"]
