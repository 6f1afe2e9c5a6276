"""Confusion: every count in its cell, rows shaded by their share, the classes by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report.confusion import confusion_figure
from loopwright.report.frame import Record
from loopwright.report.style import applied, rendered
from support.records import record, texts, write_views

COUNTS = [[90, 10, 0], [5, 1000, 0], [0, 0, 0]]


def run_of(run_dir: Path, counts: Any, names: Any = None) -> Path:
    record(run_dir)
    write_views(run_dir, class_confusion=counts)
    if names is not None:
        (run_dir / "task").mkdir(exist_ok=True)
        (run_dir / "task" / "fsm.json").write_text(json.dumps({"classes": names}))
    return run_dir


def drawn(run_dir: Path) -> Figure:
    with applied():
        figure = confusion_figure(Record(run_dir))
    assert figure is not None
    return figure


def cells(figure: Figure) -> dict[tuple[int, int], str]:
    return {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in figure.axes[0].texts}


def test_counts_and_shares_by_row(tmp_path: Path) -> None:
    figure = drawn(run_of(tmp_path / "run", COUNTS, ["accept", "$x$", "reject"]))
    axes, bar = figure.axes
    assert cells(figure) == {
        (0, 0): "90.0%\n90",
        (0, 1): "10.0%\n10",
        (0, 2): "0.0%\n0",
        (1, 0): "0.5%\n5",
        (1, 1): "99.5%\n1,000",
        (1, 2): "0.0%\n0",
    }  # a class that never occurs has no shares
    share = np.ma.filled(axes.images[0].get_array(), np.nan)
    assert share[:2] == pytest.approx(np.array([[0.9, 0.1, 0.0], [5 / 1005, 1000 / 1005, 0.0]]))
    assert np.isnan(share[2]).all()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert bar.get_ylabel() == "share of the true class"
    with applied():
        (tmp_path / "c.svg").write_bytes(rendered(figure, "svg"))
    found = texts(tmp_path / "c.svg")
    assert [found.count(name) for name in ("accept", "$x$", "reject")] == [2, 2, 2]
    assert {"90", "1,000", "classes of 1,105 cases, 98.6% right: test"} <= set(found) | {
        " ".join(text.split()[:7]) for text in found
    }


def test_dark_cells_have_light_text(tmp_path: Path) -> None:
    colors = [text.get_color() for text in drawn(run_of(tmp_path / "run", [[9, 1], [1, 9]])).axes[0].texts]
    assert colors == ["white", "black", "black", "white"]


@pytest.mark.parametrize(("count", "written"), [(1, 1), (2, 4), (10, 100), (11, 0), (64, 0)])
def test_any_number_of_classes(tmp_path: Path, count: int, written: int) -> None:
    figure = drawn(run_of(tmp_path / "run", np.eye(count, dtype=np.int64) + 1))
    assert len(cells(figure)) == written
    width, height = figure.get_size_inches()
    assert 2 < width < 9 and 1.5 < height < 9


def test_numbers_where_there_are_no_names(tmp_path: Path) -> None:
    axes = drawn(run_of(tmp_path / "run", COUNTS)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "2"]
    long = ["a" * 30, "b", "c"]
    axes = drawn(run_of(tmp_path / "run", COUNTS, long)).axes[0]
    assert [len(label.get_text()) for label in axes.get_xticklabels()] == [20, 1, 1]


def test_nothing_to_draw_and_damage(tmp_path: Path) -> None:
    assert confusion_figure(Record(record(tmp_path / "plain"))) is None
    for counts, names, message in (
        ([[1, 2, 3]], None, "no square"),
        ([[1, -1], [0, 1]], None, "no whole numbers from 0"),
        ([[1, 0.5], [0, 1]], None, "no whole numbers from 0"),
        ([[1, np.nan], [0, 1]], None, "no whole numbers from 0"),
        (COUNTS, ["a", "b"], r"task/fsm\.json is damaged: 'classes' are no names of 3 classes"),
        (COUNTS, [1, 2, 3], r"task/fsm\.json is damaged"),
        (COUNTS, "abc", r"task/fsm\.json is damaged"),
    ):
        with pytest.raises(RunError, match=message):
            confusion_figure(Record(run_of(tmp_path / "run", counts, names)))
