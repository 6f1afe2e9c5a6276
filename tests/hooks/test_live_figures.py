"""Figures while a run trains: a process of its own, within its share of the time; and the views that a run keeps."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopwright.config.compose import compose
from loopwright.engine.hooks import Info
from loopwright.experiment import run
from loopwright.hooks.figures import FIRST_SECONDS, SHARE, LiveFigures
from loopwright.report import background
from support.compare import assert_same

SMALL = ("experiment=self_test", "task.data.rows=60", "model.hidden=[4]", "train.epochs=3", "record.code=false")


class Drawing:
    """A drawing that costs what it is told, and is at work until `done`."""

    def __init__(self) -> None:
        self.cost: float | None = None

    def cpu_seconds(self) -> float | None:
        return self.cost


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Drawing]:
    drawings: list[Drawing] = []

    def draw_later(run: Path, families: Any, *, each_epoch: bool) -> Drawing:
        drawings.append(Drawing())
        return drawings[-1]

    monkeypatch.setattr("loopwright.report.background.draw_later", draw_later)
    return drawings


def test_drawing_stays_within_its_share_of_the_time(started: list[Drawing], tmp_path: Path) -> None:
    info = Info(1, 1, 9, 1, 0, 0.0, "val_loss", None, None, None)  # type: ignore[arg-type]
    hook = LiveFigures(tmp_path, ["losses"])

    def epoch_ends_at(seconds: float) -> int:
        hook.on_epoch_end(replace(info, elapsed_seconds=seconds))
        return len(started)

    assert epoch_ends_at(0.9 * FIRST_SECONDS / SHARE) == 0
    assert epoch_ends_at(1.1 * FIRST_SECONDS / SHARE) == 1
    assert epoch_ends_at(1000) == 1  # one at a time
    started[0].cost = 5.0
    assert epoch_ends_at(0.9 * 10 / SHARE) == 1  # 5 s spent, and the next would cost as much
    assert epoch_ends_at(1.1 * 10 / SHARE) == 2
    started[1].cost = 1.0
    assert epoch_ends_at(1.1 * 10 / SHARE) == 3  # 6 s spent of 11


@pytest.mark.parametrize(
    ("plots", "at_end", "epochs"),
    [
        ("plots=none", None, False),
        ("plots=minimal", {"losses"}, False),
        ("plots.families.fit=false", {"losses", "metrics", "latency", "residuals"}, False),
        ("plots=full", {"losses", "codebook", "fit"}, True),
    ],
)
def test_a_preset_says_what_is_drawn_and_measured(
    plots: str, at_end: set[str] | None, epochs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[set[str], bool]] = []

    def draw_later(run: Path, families: Any, *, each_epoch: bool) -> None:
        asked.append((set(families), each_epoch))

    monkeypatch.setattr("loopwright.report.background.draw_later", draw_later)
    outcome = run(compose((*SMALL, plots)).recipe, out=tmp_path)
    assert outcome.run is not None
    if at_end is None:
        assert asked == []
    else:
        assert [(at_end <= families, each) for families, each in asked] == [(True, epochs)]
        assert ("fit" in asked[0][0]) == (plots == "plots=full")
    captured = sorted(path.name for path in Path(outcome.run).glob("captures/*"))
    assert captured == ([f"epoch_000{epoch}.npz" for epoch in (1, 2, 3)] if epochs else [])
    views = sorted(path.name for path in Path(outcome.run).glob("evaluation/*"))
    assert views == (["test_best_views.npz"] if plots not in ("plots=none", "plots=minimal") else [])


def test_views_and_figures_change_nothing_and_repeat(tmp_path: Path) -> None:
    plain, drawn, again = (
        run(compose((*SMALL, "model.dropout=0.3", f"plots={plots}")).recipe, out=tmp_path / folder)
        for plots, folder in (("none", "plain"), ("full", "drawn"), ("full", "again"))
    )
    assert plain.weights_sha256 == drawn.weights_sha256
    assert drawn.run is not None and again.run is not None
    assert_same(Path(drawn.run), Path(again.run))
    one, two = (Path(where.run or "") / "evaluation" / "test_best_views.npz" for where in (drawn, again))
    assert one.read_bytes() == two.read_bytes()
    with np.load(one) as arrays:
        assert {"x", "y", "predicted"} <= set(arrays.files)


def test_views_that_fail_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise IndexError("no such view")

    whole = run(compose((*SMALL, "plots=none")).recipe, out=tmp_path / "whole")
    monkeypatch.setattr("loopwright.tasks.regression.task.RegressionTask.views", broken)
    outcome = run(compose((*SMALL, "plots=full")).recipe, out=tmp_path / "broken")
    assert outcome.status == "completed" and outcome.weights_sha256 == whole.weights_sha256
    said = [entry.getMessage() for entry in caplog.records if "no such view" in entry.getMessage()]
    assert len(said) == 2  # the hook's, which is switched off, and the end's
    assert "switched off" in said[0] and said[1].startswith("what some figures show could not be measured")


@pytest.mark.figures
def test_a_drawing_tells_what_it_has_cost(tmp_path: Path) -> None:
    drawing = background.Drawing(subprocess.Popen([sys.executable, "-c", "sum(range(10**6))"]), tmp_path)
    drawing.wait(60)
    cost = drawing.cpu_seconds()
    assert cost is not None and cost > 0 and drawing.cpu_seconds() == cost
