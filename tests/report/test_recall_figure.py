"""Recall beside chance: the interval of each split, the test beside the epochs, the best that can be reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from loopwright.errors import RunError
from loopwright.report.frame import Record
from loopwright.report.recall import recall_figure
from loopwright.report.style import GREEN, applied, rendered
from support.records import record, shows, texts, write_config, write_result

RECALL = {20: [0.51, 0.6, 0.72, 0.7], 5: [0.12, 0.2, 0.3, 0.35]}
CHANCE = {
    "level": 0.99,
    "val": {
        "recall_at_20": {"low": 0.48, "mean": 0.5128, "high": 0.54},
        "recall_at_5": {"low": 0.11, "mean": 0.1282, "high": 0.15},
    },
    "test": {
        "recall_at_20": {"low": 0.47, "mean": 0.5128, "high": 0.55},
        "recall_at_5": {"low": 0.1, "mean": 0.1282, "high": 0.16},
    },
}
TEST = {"best": {"recall_at_20": 0.71, "recall_at_5": 0.29}, "last": {"recall_at_20": 0.69, "recall_at_5": None}}


def windows(run_dir: Path, **facts: Any) -> Path:
    record(run_dir, 4, val=lambda e: {"loss": 1.0, **{f"recall_at_{k}": RECALL[k][e - 1] for k in (5, 20)}})
    write_result(run_dir, monitor="val_recall_at_20", mode="max", test=TEST)
    (run_dir / "task").mkdir()
    for name, content in {"chance": CHANCE, **facts}.items():
        (run_dir / "task" / f"{name}.json").write_text(json.dumps(content))
    return run_dir


def drawn(run_dir: Path) -> Figure:
    with applied():
        figure = recall_figure(Record(run_dir))
    assert figure is not None
    return figure


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}


def band(axes: Axes) -> tuple[float, float]:
    (found,) = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    return found.get_y(), round(found.get_y() + found.get_height(), 9)


def test_every_k_has_its_curve_its_interval_and_its_test(tmp_path: Path) -> None:
    run_dir = windows(tmp_path / "run", synthetic={"best_recall_at_20": 0.9, "best_recall_at_5": "nan"})
    figure = drawn(run_dir)
    high, high_test, low, low_test = figure.axes
    assert [axes.get_ylabel() for axes in (high, low)] == ["recall@20", "recall@5"]
    assert lines(high)["validation"] == RECALL[20] and lines(low)["validation"] == RECALL[5]
    assert [band(axes) for axes in figure.axes] == [(0.48, 0.54), (0.47, 0.55), (0.11, 0.15), (0.1, 0.16)]
    assert lines(high)["best reachable"] == lines(high_test)["best reachable"] == [0.9, 0.9]
    assert "best reachable" not in lines(low)
    assert (lines(high_test)["test, best weights"], lines(high_test)["test, last weights"]) == ([0.71], [0.69])
    assert lines(low_test)["test, best weights"] == [0.29] and "test, last weights" not in lines(low_test)
    for axes, value in ((high, "0.7200"), (low, "0.3000")):  # epoch 3 in both, where recall@20 was highest
        assert {float(np.asarray(g.get_xdata())[0]) for g in axes.get_lines() if g.get_color() == GREEN} == {3.0}
        assert axes.get_title(loc="right") == value
    assert figure.get_suptitle() == "recall beside chance; green: best epoch 3, highest val_recall_at_20"


def test_the_svg_has_points_legend_and_ticks(tmp_path: Path) -> None:
    run_dir = windows(tmp_path / "run")
    with applied():
        (tmp_path / "recall.svg").write_bytes(rendered(drawn(run_dir), "svg"))
    found = texts(tmp_path / "recall.svg")
    legend = {"chance, 99 % interval", "validation", "test, best weights", "test, last weights"}
    assert legend | {"recall@20", "recall@5", "epoch", "test", "1", "4"} <= set(found)
    assert [found.count(name) for name in sorted(legend)] == [1, 1, 1, 1]
    for values in RECALL.values():
        assert shows(tmp_path / "recall.svg", [1, 2, 3, 4], values)


def test_before_the_test_and_without_a_known_best(tmp_path: Path) -> None:
    run_dir = windows(tmp_path / "run")
    (run_dir / "result.json").unlink()
    figure = drawn(run_dir)
    assert len(figure.axes) == 2
    assert figure.get_suptitle() == "recall beside chance; green: best epoch 1, lowest val_loss"
    assert "best reachable" not in lines(figure.axes[0])


def test_nothing_without_chance_or_recall_or_on_the_samples_that_were_trained(tmp_path: Path) -> None:
    assert recall_figure(Record(record(tmp_path / "plain"))) is None
    run_dir = windows(tmp_path / "run")
    write_config(run_dir, train={"overfit": 16})
    assert recall_figure(Record(run_dir)) is None
    write_config(run_dir, train={"overfit": 0})
    assert recall_figure(Record(run_dir)) is not None
    (run_dir / "task" / "chance.json").unlink()
    assert recall_figure(Record(run_dir)) is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"val": 3}',
        '{"val": {"recall_at_20": {"low": 0.1, "mean": "x", "high": 0.2}}}',
        '{"val": {"recall_at_20": {"low": 0.3, "mean": 0.1, "high": 0.2}}}',
        '{"val": {"recall_at_20": {"low": 0.3, "mean": NaN, "high": 0.2}}}',
    ],
)
def test_damaged_chance_is_named(tmp_path: Path, content: str) -> None:
    run_dir = windows(tmp_path / "run")
    (run_dir / "task" / "chance.json").write_text(content)
    with pytest.raises(RunError, match=r"task/chance\.json is damaged"):
        recall_figure(Record(run_dir))


@pytest.mark.parametrize("test", [3, {"best": 3}, {"best": {"recall_at_20": "x"}}, {"best": {"recall_at_20": 1e999}}])
def test_a_strange_test_is_survived(tmp_path: Path, test: Any) -> None:
    run_dir = windows(tmp_path / "run")
    write_result(run_dir, test=test)
    figure = drawn(run_dir)
    assert not any("weights" in name for axes in figure.axes for name in lines(axes))
