"""Accuracy by length: the bins in order, the test before the validation, the epochs beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.report.frame import Record
from loopwright.report.lengths import lengths_figure
from loopwright.report.style import GREEN, applied, rendered
from support.records import record, texts, write_result

BINS = ("11_15", "1_5", "6_10", "16_16")  # by number, not by letter, and not as written
LABELS = ["1–5", "6–10", "11–15", "16"]


def binned(run_dir: Path, epochs: int = 4, periods: int = 1) -> Path:
    rows = {"11_15": 0.7, "1_5": 0.9, "6_10": 0.8, "16_16": 0.6}
    return record(
        run_dir,
        epochs,
        periods=periods,
        val=lambda e: {"loss": abs(e - 3) + 1.0, **{f"token_accuracy_len_{b}": rows[b] - 0.1 / e for b in BINS}},
    )


def drawn(run_dir: Path) -> Figure:
    figure = lengths_figure(Record(run_dir))
    assert figure is not None
    return figure


def lines(axes: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.asarray(line.get_ydata()).tolist() for line in axes.get_lines()}


def ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_test_results_of_best_and_last_weights(tmp_path: Path) -> None:
    run_dir = binned(tmp_path / "run")
    best = {"token_accuracy_len_1_5": 0.95, "token_accuracy_len_6_10": 0.85, "token_accuracy_len_11_15": 0.75}
    last = {"token_accuracy_len_1_5": 0.94, "token_accuracy_len_6_10": "nan", "token_accuracy_len_11_15": None}
    write_result(run_dir, test={"last": last, "best": best | {"token_accuracy_len_16_16": 0.5, "loss": 9.0}})
    left, right = drawn(run_dir).axes
    assert ticks(left) == LABELS
    found = lines(left)
    assert list(found) == ["test, best weights", "test, last weights"]
    assert found["test, best weights"] == [0.95, 0.85, 0.75, 0.5]
    assert found["test, last weights"][0] == 0.94 and np.isnan(found["test, last weights"][1:]).all()
    assert [text.get_text() for text in left.texts] == ["0.95", "0.85", "0.75", "0.5", "0.94"]
    assert (left.get_xlabel(), left.get_ylabel()) == ("sample length", "token_accuracy")
    epochs = {name: values for name, values in lines(right).items() if name in LABELS}
    assert list(epochs) == LABELS
    assert epochs["11–15"] == [0.7 - 0.1 / e for e in (1, 2, 3, 4)]
    assert [float(np.asarray(d.get_xdata())[0]) for d in right.get_lines() if str(d.get_color()) == GREEN] == [3.0]


@pytest.mark.parametrize(
    ("result", "label", "epoch"),
    [
        ({}, "validation, best epoch 3", 3),
        ({"test": {"best": {"loss": 1.0}}}, "validation, best epoch 3", 3),
        ({"monitor": "val_unknown", "mode": "max"}, "validation, epoch 4", 4),
    ],
)
def test_without_a_test_the_best_or_last_validation(
    tmp_path: Path, result: dict[str, object], label: str, epoch: int
) -> None:
    run_dir = binned(tmp_path / "run")
    write_result(run_dir, **result)
    assert lines(drawn(run_dir).axes[0]) == {label: [v - 0.1 / epoch for v in (0.9, 0.8, 0.7, 0.6)]}


def test_rows_within_epochs_stand_at_their_steps(tmp_path: Path) -> None:
    run_dir = binned(tmp_path / "run", 2, periods=2)
    figure = drawn(run_dir)
    left, right = figure.axes
    assert list(lines(left)) == ["validation, best step 30"]
    assert lines(left)["validation, best step 30"] == [v - 0.1 / 3 for v in (0.9, 0.8, 0.7, 0.6)]
    (bin_line,) = (line for line in right.get_lines() if line.get_label() == LABELS[0])
    assert np.asarray(bin_line.get_xdata()).tolist() == [10.0, 20.0, 30.0, 40.0]
    assert right.get_xlabel() == "optimizer step"
    assert [float(np.asarray(d.get_xdata())[0]) for d in right.get_lines() if str(d.get_color()) == GREEN] == [30.0]
    assert figure.get_suptitle() == "metrics by sample length; green line: best step"
    write_result(run_dir, monitor="val_unknown", mode="max")
    assert list(lines(drawn(run_dir).axes[0])) == ["validation, step 40"]


def test_legends_stand_beside_the_points_and_name_no_unit(tmp_path: Path) -> None:
    run_dir = binned(tmp_path / "run")
    write_result(run_dir, test={name: {f"token_accuracy_len_{b}": 0.5 for b in BINS} for name in ("best", "last")})
    with applied():
        figure = drawn(run_dir)
        rendered(figure, "png")
    frames = [axes.get_window_extent() for axes in figure.axes]
    legends = [legend for axes in figure.axes if (legend := axes.get_legend()) is not None]
    assert [legend.get_title().get_text() for legend in legends] == ["", "length"]
    boxes = [legend.get_window_extent() for legend in legends]
    assert boxes[0].y0 >= frames[0].y1 and boxes[0].x1 < frames[1].x0
    assert boxes[1].x0 >= frames[1].x1


def test_a_row_for_each_metric_and_one_panel_for_one_epoch(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 1, val=lambda e: {"class_accuracy_len_1_5": 1.0, "accuracy_len_1_5": 0.5})
    assert [axes.get_ylabel() for axes in drawn(run_dir).axes] == ["class_accuracy", "accuracy"]


def test_no_value_at_all(tmp_path: Path) -> None:
    assert lengths_figure(Record(record(tmp_path / "plain"))) is None
    assert lengths_figure(Record(record(tmp_path / "empty", val=lambda e: {"accuracy_len_1_5": ""}))) is None
    undefined = drawn(record(tmp_path / "nan", val=lambda e: {"accuracy_len_1_5": "nan"}))
    assert lines(undefined.axes[0]) == {} and ticks(undefined.axes[0]) == [LABELS[0]]


def test_a_test_without_epochs_is_drawn(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    write_result(run_dir, test={"last": {"accuracy_len_1_5": 0.25}})
    assert lines(drawn(run_dir).axes[0]) == {"test, last weights": [0.25]}
    with applied():
        (tmp_path / "lengths.svg").write_bytes(rendered(drawn(run_dir), "svg"))
    assert {LABELS[0], "test, last weights", "metrics by sample length"} <= set(texts(tmp_path / "lengths.svg"))


def test_many_bins_stay_legible(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", val=lambda e: {f"accuracy_len_{k}_{k}": k / 99 for k in range(1, 21)})
    left, right = drawn(run_dir).axes
    assert len(ticks(left)) == 20 and left.get_xticklabels()[0].get_rotation() == 90
    assert list(left.texts) == []
    assert len([name for name in lines(right) if name.isdigit()]) == 20
    legend = right.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["1", "4", "6", "9", "12", "15", "17", "20"]
