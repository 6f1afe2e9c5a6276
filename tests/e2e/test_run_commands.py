"""`runs`, `evaluate`, `predict`, `figures` and `data`: what the record of a run can be asked afterwards."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import loopwright
from loopwright import clock
from loopwright.record.index import Index
from loopwright.record.lock import DirectoryLock
from support.cli import Ended, command, train

GRU = (
    "experiment=gru_baseline",
    "task.data.window=7",
    "model.hidden=8",
    "train.epochs=2",
    "train.batch_size=16",
    "plots=none",
    "record.code=false",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Its best epoch is the first of three, every step a checkpoint."""
    root = tmp_path_factory.mktemp("runs")
    return train(root, "train.epochs=3", "stop.mode=max", "record.checkpoint_every='1 steps'", "record.keep_last=99")


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "h.csv"
    made = command("data", "make", "set_prediction", "--rows", 90, "--signal", 0.5, "--seed", 3, "--out", file)
    assert made.code == 0
    return file


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory, history: Path) -> Ended:
    root = tmp_path_factory.mktemp("gru")
    ended = command("train", *GRU, f"task.data.path={history}", "--out", root, "--json")
    assert ended.code == 0, ended.err
    return ended


def test_listing_is_a_table_and_json(tmp_path: Path) -> None:
    empty = command("runs", "--out", tmp_path)
    assert empty.code == 0 and empty.out == f"no runs below {tmp_path}; `loopwright train` makes one\n"
    assert command("runs", "--out", tmp_path / "none", "--json").json == []
    first = train(tmp_path, "name=one", "seed=7")
    second = train(tmp_path, "name=two", "train.epochs=0")
    rows = command("runs", "--out", tmp_path, "--json").json
    assert [list(row) for row in rows] == [
        ["name", "seed", "status", "monitor", "best", "epochs", "seconds", "path"]
    ] * 2
    by_name = {row["name"]: row for row in rows}
    assert by_name["one"]["path"] == str(first.run) and by_name["one"]["seed"] == 7
    assert by_name["one"]["best"] == first.json["best"]["val_loss"] and by_name["one"]["epochs"] == 2
    assert by_name["two"] == {
        "name": "two",
        "seed": 42,
        "status": "completed",
        "monitor": "val_loss",
        "best": None,
        "epochs": 0,
        "seconds": by_name["two"]["seconds"],
        "path": str(second.run),
    }
    header, *table = command("runs", "list", "--out", tmp_path).out.splitlines()
    assert header.split() == ["name", "seed", "status", "best", "epochs", "time", "path"] and len(table) == 2
    assert any(f"val_loss {first.json['best']['val_loss']:.4f}" in line and str(first.run) in line for line in table)
    assert command("runs", "--out", tmp_path, "list").out.splitlines()[0] == header


def test_run_that_is_being_worked_on_is_running(tmp_path: Path) -> None:
    ended = train(tmp_path)
    (ended.run / "result.json").unlink()
    assert command("runs", "--out", tmp_path, "--json").json[0]["status"] == "unfinished"
    with DirectoryLock(ended.run / ".lock"):
        assert command("runs", "--out", tmp_path, "--json").json[0]["status"] == "running"


def test_listing_and_showing_import_no_torch(finished: Ended) -> None:
    code = (
        "import sys\nfrom loopwright.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules and 'hydra' not in sys.modules"
    )
    for arguments in (["runs"], ["runs", "show", "last"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments, "--out", str(finished.run.parent.parent)], capture_output=True
        )
        assert done.returncode == 0, done.stderr


def test_show_names_the_outcome_and_every_file(finished: Ended) -> None:
    root = finished.run.parent.parent
    text = command("runs", "show", finished.run.name, "--out", root).out
    assert "status: completed" in text and "reason: all 3 epochs done" in text and "processes: 1" in text
    for file in finished.run.rglob("*"):
        if file.is_file():
            assert f"  {file.relative_to(finished.run)}  {file.stat().st_size:,} bytes" in text


def test_run_is_found_by_path_beginning_of_its_name_or_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)]
    monkeypatch.setattr(clock, "utc_now", lambda: moments[0])
    first = train(tmp_path, "seed=1")
    monkeypatch.setattr(clock, "utc_now", lambda: moments[1])
    second = train(tmp_path, "optim.lr=0.5")
    for given, meant in (
        (first.run, first),
        ("last", second),
        (second.run.name, second),
        (second.run.name.split("-")[1], second),
    ):
        shown = command("evaluate", given, "--out", tmp_path, "--json")
        assert shown.code == 0, shown.err
        assert shown.json["run"] == str(meant.run)
    ambiguous = command("runs", "show", first.run.name[:6], "--out", tmp_path)
    assert ambiguous.code == 2 and "fits 2 runs" in ambiguous.errors[0]


def test_remove_deletes_that_run_only(tmp_path: Path) -> None:
    kept, gone = train(tmp_path), train(tmp_path)
    asked = command("runs", "remove", gone.run)  # nobody there to say yes
    assert asked.code == 130 and gone.run.is_dir()
    removed = command("runs", "remove", gone.run, "--yes")
    assert removed.code == 0 and removed.out == f"removed {gone.run}\n"
    assert not gone.run.exists() and kept.run.is_dir()
    assert command("runs", "remove", gone.run, "--yes").code == 2


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_evaluation_repeats_the_recorded_test_to_the_bit(finished: Ended, checkpoint: str) -> None:
    ended = command("evaluate", finished.run, "--split", "test", "--checkpoint", checkpoint, "--json")
    assert ended.code == 0, ended.err
    assert list(ended.json) == ["run", "split", "checkpoint", "metrics"]
    assert ended.json["metrics"] == finished.json["test"][checkpoint]
    assert finished.json["test"]["best"] != finished.json["test"]["last"]
    written = json.loads((finished.run / f"evaluation/test_{checkpoint}_metrics.json").read_text())
    assert written["metrics"] == ended.json["metrics"] and written["split"] == "test"
    assert (written["checkpoint"], written["step"], written["epoch"]) == (
        ("step_000000005.pt", 5, 1) if checkpoint == "best" else ("step_000000015.pt", 15, 3)
    )


def test_evaluation_of_a_step_repeats_its_row_of_the_table(finished: Ended) -> None:
    with (finished.run / "metrics.csv").open(newline="") as file:
        row = list(csv.DictReader(file))[1]
    ended = command("evaluate", finished.run, "--split", "val", "--checkpoint", row["step"], "--json")
    assert {f"val_{name}": repr(value) for name, value in ended.json["metrics"].items()} == {
        name: value for name, value in row.items() if name.startswith("val_")
    }
    train_split = command("evaluate", finished.run, "--split", "train", "--checkpoint", "10", "--json")
    assert train_split.json["metrics"]["loss"] != ended.json["metrics"]["loss"]


def test_evaluation_leaves_the_rest_of_the_record_alone(finished: Ended) -> None:
    before = {
        path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file() and "evaluation" not in path.parts
    }
    assert command("evaluate", finished.run).code == 0
    after = {
        path: path.read_bytes() for path in finished.run.rglob("*") if path.is_file() and "evaluation" not in path.parts
    }
    assert after == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--checkpoint", "77"), "--checkpoint 77: this run has last, best and the steps 1, 2,"),
        (("--checkpoint", "gate"), "--checkpoint gate: this run has"),
        (("--checkpoint", "bset"), "--checkpoint bset: this run has"),
    ],
)
def test_checkpoint_that_is_not_there_is_one_line(finished: Ended, arguments: tuple[str, ...], message: str) -> None:
    ended = command("evaluate", finished.run, *arguments)
    assert ended.code == 2 and len(ended.errors) == 1 and ended.errors[0].startswith(message)


def test_a_run_without_a_best_names_what_it_has(tmp_path: Path) -> None:
    run = train(tmp_path, "train.epochs=1").run
    index = Index.read(run / "checkpoints")
    index.tags.clear()
    index.write()
    ended = command("evaluate", run)
    assert ended.code == 2 and ended.errors == ["--checkpoint best: this run has last and the steps 5"]


def test_split_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    run = train(tmp_path, "task.data.split=[0.8,0.2]").run
    ended = command("evaluate", run)
    assert ended.code == 2 and ended.errors == ["--split test: this task has no test split; it has val and train"]
    assert json.loads((run / "result.json").read_text())["test"] is None


def test_run_without_a_checkpoint_is_one_line(tmp_path: Path) -> None:
    run = train(tmp_path, "train.epochs=0").run
    for name in ("evaluate", "predict"):
        ended = command(name, run)
        assert ended.code == 2 and ended.errors == [f"{run} has no checkpoint yet"]


def test_examples_of_set_prediction_are_a_row_per_window(ranked: Ended) -> None:
    ended = command("evaluate", ranked.run, "--json")
    assert ended.json["metrics"] == ranked.json["test"]["best"]
    with (ranked.run / "evaluation/test_best_examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "index",
        "date",
        "true_parts",
        "predicted_top_20",
        "recall_at_5",
        "recall_at_20",
        "hit_at_5",
        "hit_at_20",
    ]
    windows = 90 - 7
    test = windows - int(0.7 * windows) - int(0.15 * windows)
    assert len(rows) == test and [int(row["index"]) for row in rows] == list(range(windows - test, windows))
    mean = sum(float(row["recall_at_20"]) for row in rows) / len(rows)
    assert mean == pytest.approx(ranked.json["test"]["best"]["recall_at_20"])
    for row in rows:
        true, top = set(row["true_parts"].split()), row["predicted_top_20"].split()
        assert len(true) == 5 and len(set(top)) == 20
        assert float(row["recall_at_20"]) == pytest.approx(len(true & set(top)) / 5)


def test_changed_data_are_said(ranked: Ended, history: Path) -> None:
    text = history.read_text()
    try:
        history.write_text("\n".join(text.splitlines()[:-5]) + "\n")
        ended = command("evaluate", ranked.run)
        assert ended.code == 0 and "warning: the data have changed since this run was recorded" in ended.err
    finally:
        history.write_text(text)


def test_prediction_ranks_parts_up_to_a_day(ranked: Ended, history: Path) -> None:
    ended = command("predict", ranked.run, "--top-k", 7, "--json")
    assert ended.code == 0, ended.err
    rows = ended.json
    assert [list(row) for row in rows] == [["rank", "part", "score"]] * 7
    assert [row["rank"] for row in rows] == list(range(1, 8))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True) and len({row["part"] for row in rows}) == 7
    header, *lines = ended.out.splitlines()[:8]
    assert header.split() == ["rank", "part", "score"] and lines[0].split()[:2] == ["1", str(rows[0]["part"])]
    days = [line.split(",")[0] for line in history.read_text().splitlines()[1:]]
    latest = command("predict", ranked.run, "--top-k", 7, "--asof", days[-1], "--json")
    earlier = command("predict", ranked.run, "--top-k", 7, "--asof", days[-2], "--json")
    assert latest.json == rows and earlier.json != rows
    assert len(command("predict", ranked.run, "--json").json) == 20


def test_prediction_that_is_impossible_is_one_line(ranked: Ended, finished: Ended) -> None:
    too_early = command("predict", ranked.run, "--asof", "1999-01-01")
    assert too_early.code == 2 and "fewer than the window of 7" in too_early.errors[0]
    for arguments in (("--top-k", "40"), ("--top-k", "0"), ("--asof", "yesterday")):
        ended = command("predict", ranked.run, *arguments)
        assert ended.code == 2 and len(ended.errors) == 1
    other = command("predict", finished.run)
    assert other.code == 2 and "set_prediction does" in other.errors[0]


def test_python_twins_say_the_same(ranked: Ended) -> None:
    assert loopwright.evaluate(ranked.run).metrics == ranked.json["test"]["best"]
    assert [part for _, part, _ in loopwright.predict(ranked.run, top_k=3)] == [
        row["part"] for row in command("predict", ranked.run, "--top-k", 3, "--json").json
    ]


def test_figures_are_drawn_from_the_record_alone(tmp_path: Path) -> None:
    run = train(tmp_path).run
    ended = command("figures", run)
    assert ended.code == 0, ended.err
    drawn = sorted(path.name for path in (run / "figures").iterdir())
    assert drawn == [f"{family}.{kind}" for family in ("latency", "losses", "metrics") for kind in ("png", "svg")]
    assert sorted(ended.out.split()) == [str(run / "figures" / name) for name in drawn]


def test_data_are_made_and_validated(tmp_path: Path) -> None:
    file = tmp_path / "h.csv"
    made = command("data", "make", "set_prediction", "--rows", 50, "--signal", 1, "--out", file, "--json")
    assert made.code == 0
    assert made.json == {
        "file": str(file),
        "rows": 50,
        "signal": 1.0,
        "best_reachable": {"recall_at_5": 1.0, "recall_at_20": 1.0},
    }
    again = tmp_path / "again.csv"
    command("data", "make", "set_prediction", "--rows", 50, "--signal", 1, "--out", again)
    assert again.read_bytes() == file.read_bytes() and len(file.read_text().splitlines()) == 51
    report = command("data", "validate", file)
    assert report.code == 0 and report.out.count("\npass  ") == 5 and "rows        50" in report.out
    for arguments in (("--rows", "1"), ("--signal", "2"), ("--seed", "-1")):
        assert command("data", "make", "set_prediction", *arguments, "--out", file).code == 2
    lost = command("data", "make", "set_prediction", "--out", tmp_path / "none/h.csv")
    assert lost.code == 2 and len(lost.errors) == 1 and "cannot be written" in lost.errors[0]
