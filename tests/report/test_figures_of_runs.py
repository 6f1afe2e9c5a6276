"""Figures of real runs, one of each task: what they show is what the run measured."""

from __future__ import annotations

import csv
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwright.report.draw import draw
from support.cli import command
from support.records import files, shows, texts

FEW = ("train.epochs=2", "record.code=false", "plots=standard")
REGRESSION = ("experiment=self_test", "task.data.rows=300", "task.data.features=3", "train.batch_size=64")
SETS = ("experiment=gru_baseline", "task.data.synthetic.rows=200", "model.hidden=8")
REGEX = ("experiment=regex_ab_star_c", "task.data.samples=300", "model.d_model=16")
WALKS = (
    "experiment=walks_small",
    "task.data.num_walks=400",
    "task.evaluation.walks=20",
    "model.d_model=16",
    "train.batch_size=16",
)
ALWAYS = {"losses", "metrics", "latency"}


def run_of(out: Path, *recipe: str) -> Path:
    ended = command("train", *recipe, *FEW, "--out", out, "--json")
    assert ended.code in (0, 3), ended.err
    return ended.run


def test_a_run_without_views_says_how_to_get_more_figures(tmp_path: Path) -> None:
    ended = command(
        "train", *REGRESSION, "train.epochs=1", "record.code=false", "plots=none", "--out", tmp_path, "--json"
    )
    drawn = command("figures", ended.run)
    assert "fit.svg" not in drawn.out and f"`loopwright evaluate {ended.run.name}` measures" in drawn.err
    assert command("evaluate", ended.run).code == 0
    drawn = command("figures", ended.run)
    assert "fit.svg" in drawn.out and drawn.err == ""


def views(run: Path, split: str = "test") -> dict[str, np.ndarray[Any, Any]]:
    with np.load(run / "evaluation" / f"{split}_best_views.npz") as file:
        return dict(file)


def column(run: Path, name: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file)]


@pytest.fixture(autouse=True)
def _outlines_only(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    monkeypatch.setattr("loopwright.report.draw.KINDS", ("svg",))
    yield
    said = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
    assert not [text for text in said if "figure" in text]


def families(run: Path, *wanted: str) -> Path:
    """Draw a run; it must have the figures that every run has, and these. Returns the folder of the figures."""
    before = files(run)
    written = draw(run)
    assert {path.stem for path in written} == ALWAYS | set(wanted)
    assert files(run) == before
    return run / "figures"


def test_regression(tmp_path: Path) -> None:
    run = run_of(tmp_path, *REGRESSION)
    folder, shown = families(run, "fit", "residuals"), views(run)
    y, predicted = shown["y"][:, 0], shown["predicted"][:, 0]
    assert shows(folder / "fit.svg", y.tolist(), predicted.tolist())
    assert shows(folder / "residuals.svg", predicted.tolist(), (y - predicted).tolist())
    rmse = json.loads((run / "result.json").read_text())["test"]["best"]["rmse"]
    assert float(np.sqrt(np.mean((y - predicted).astype(np.float64) ** 2))) == pytest.approx(rmse, rel=1e-4)
    assert shows(folder / "latency.svg", [1, 2], column(run, "epoch_seconds"))


def test_classes(tmp_path: Path) -> None:
    run = run_of(tmp_path, *REGRESSION, "task.data.target=binary", "task.loss=bce_with_logits")
    found = texts(families(run, "confusion") / "confusion.svg")
    counts = views(run)["class_confusion"]
    assert {f"{count:,}" for count in counts.ravel().tolist()} <= set(found)


def test_set_prediction(tmp_path: Path) -> None:
    run = run_of(tmp_path, *SETS)
    folder = families(run, "recall", "calibration")
    for k in (5, 20):
        assert shows(folder / "recall.svg", [1, 2], column(run, f"val_recall_at_{k}"))
    assert {"chance, 99 % interval", "best reachable", "test, best weights"} <= set(texts(folder / "recall.svg"))
    assert f"calibration of {views(run)['probability'].size:,} forecasts" in " ".join(texts(folder / "calibration.svg"))


def test_regex(tmp_path: Path) -> None:
    run = run_of(tmp_path, *REGEX)
    folder = families(run, "lengths", "confusion", "attention")
    assert {"accept", "incomplete", "reject", "true class"} <= set(texts(folder / "confusion.svg"))
    found = texts(folder / "attention.svg")
    assert {"layer 0, head 0", "layer 0, head 3", "query", "<eos>"} <= set(found)
    assert any(text.startswith("attention: test split, best weights") for text in found)


def test_walks(tmp_path: Path) -> None:
    run = run_of(tmp_path, *WALKS)
    folder = families(run, "gate")
    assert shows(folder / "gate.svg", [1, 2], column(run, "val_edge_compliance"))
    found = set(texts(folder / "gate.svg"))
    assert {"edge_compliance: threshold 0.95", "rule_compliance: threshold 0.8"} <= found
    assert any(text.startswith("train, mean of") for text in found)
