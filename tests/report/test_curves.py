"""Curves: drawn from the record alone, the same bytes for the same record, whatever the record looks like."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report import curves, frame
from loopwright.report.draw import draw, main
from loopwright.report.frame import Record
from loopwright.report.style import BLUE, GREEN, LIGHT_BLUE, applied, rendered
from support.records import record, write_result

CURVES = ("losses", "metrics")


def metrics_figure(run_dir: Path) -> Figure:
    figure = curves.metrics_figure(Record(run_dir))
    assert figure is not None
    return figure


def loss_figure(run_dir: Path) -> Figure:
    figure = curves.loss_figure(Record(run_dir))
    assert figure is not None
    return figure


def line(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    (found,) = (line for line in figure.axes[0].get_lines() if str(line.get_label()).startswith(label))
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


def test_columns_keep_bits_and_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(f"epoch,a,b\n1,{0.1 + 0.2!r},\n2,nan,inf\n")
    columns = frame.metrics(tmp_path)
    assert columns["epoch"] == [1.0, 2.0]
    assert columns["a"][0] == 0.1 + 0.2
    assert columns["a"][1] is not None and math.isnan(columns["a"][1])
    assert columns["b"] == [None, math.inf]
    assert frame.steps(tmp_path) == {}


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    table = tmp_path / "steps.csv"
    for torn in ("3", "3,0.", "3,0.25"):
        table.write_text(f"step,loss\n1,0.5\n2,0.75\n{torn}")
        assert frame.steps(tmp_path) == {"step": [1.0, 2.0], "loss": [0.5, 0.75]}
    table.write_text("step,lo")
    assert frame.steps(tmp_path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("step,loss\n1,0.5\n2\n3,1\n", r"line 3 has 1 cells instead of 2"),
        ("step,loss\n1,0.5\n2,x\n", r"line 3: loss is 'x', which is not a number"),
        ("step,step\n1,2\n", r"two columns of one name"),
    ],
)
def test_damage_is_named_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "steps.csv").write_text(content)
    with pytest.raises(RunError, match=message):
        frame.steps(tmp_path)


def test_draw_writes_both_figures_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    written = draw(run_dir, CURVES)
    assert [path.name for path in written] == ["losses.svg", "losses.png", "metrics.svg", "metrics.png"]
    assert sorted((run_dir / "figures").iterdir()) == sorted(written)
    first = [path.read_bytes() for path in written]
    assert first[0].startswith(b"<?xml") and first[1].startswith(b"\x89PNG")
    with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.hashsalt": None}):  # a person's own matplotlibrc
        assert [path.read_bytes() for path in draw(run_dir, CURVES)] == first


def test_loss_figure_shows_steps_mean_and_epochs(tmp_path: Path) -> None:
    figure = loss_figure(record(tmp_path / "run", epochs=10, loss=lambda step: 1.0 + step % 2))
    steps, values = line(figure, "train, per step")
    assert (steps[0], steps[-1], values[:2]) == (1.0, 200.0, [2.0, 1.0])
    _, mean = line(figure, "train, mean of 5 steps")
    assert mean[2] == pytest.approx(1.6) and mean[3] == pytest.approx(1.4)
    assert mean[0] == pytest.approx(5 / 3)  # at the edge, over what there is
    # A mean of steps 1 to 20 stands in their middle.
    assert line(figure, "train, mean of each epoch") == ([20.0 * e - 9.5 for e in range(1, 11)], [1.0] * 10)
    assert line(figure, "validation, per epoch") == ([20.0 * e for e in range(1, 11)], [1 / e for e in range(1, 11)])
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer step (20 per epoch)", "loss")


def test_means_lie_on_a_falling_loss(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 5, 10, loss=lambda step: 100.0 - step)
    table = (run_dir / "metrics.csv").read_text().splitlines()
    for epoch in range(1, 6):
        mean = sum(100.0 - step for step in range(10 * epoch - 9, 10 * epoch + 1)) / 10
        table[epoch] = ",".join([*table[epoch].split(",")[:3], repr(mean), *table[epoch].split(",")[4:]])
    (run_dir / "metrics.csv").write_text("\n".join(table) + "\n")
    x, y = line(loss_figure(run_dir), "train, mean of each epoch")
    assert y == [100.0 - step for step in x]


def test_losses_of_rows_within_epochs(tmp_path: Path) -> None:
    figure = loss_figure(record(tmp_path / "run", 2, 30, periods=3, val=lambda row: {"loss": "" if row == 3 else row}))
    assert line(figure, "train, mean of each period")[0] == [5.5, 15.5, 25.5, 35.5, 45.5, 55.5]
    assert line(figure, "validation, per evaluation") == ([10.0, 20.0, 40.0, 50.0, 60.0], [1.0, 2.0, 4.0, 5.0, 6.0])
    assert figure.axes[0].get_xlabel() == "optimizer step"  # 10 steps are a period here, not an epoch


def test_a_mean_without_recorded_steps(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 1, 20, val=lambda e: {"accuracy": 1.0})
    (run_dir / "steps.csv").unlink()
    figure = loss_figure(run_dir)
    assert line(figure, "train, mean of each epoch")[0] == [10.5]
    low, high = figure.axes[0].get_xlim()
    assert low < 10.5 < 20 < high
    (run_dir / "metrics.csv").write_text("epoch,step,train_loss\n1,,0.5\n2,20,0.25\n3,30,0.125\n")
    assert line(loss_figure(run_dir), "train, mean of each epoch") == ([25.5], [0.125])


def test_losses_over_orders_of_magnitude_get_a_log_axis(tmp_path: Path) -> None:
    (axes,) = loss_figure(record(tmp_path / "run", loss=lambda step: 10.0 ** (-step / 30))).axes
    assert (axes.get_yscale(), axes.get_ylabel()) == ("log", "loss (log scale)")
    (axes,) = loss_figure(record(tmp_path / "run", loss=lambda step: -(10.0 ** (-step / 30)))).axes
    assert axes.get_yscale() == "linear"


def test_a_log_axis_with_one_power_of_ten_has_more_numbers(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", loss=lambda step: 0.05 * 40.0 ** (-step / 120), val=lambda row: {"loss": 0.02})
    figure = loss_figure(run_dir)
    figure.canvas.draw()
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    shown = {label.get_text() for label in axes.get_yticklabels() if low <= label.get_position()[1] <= high}
    assert axes.get_yscale() == "log" and shown == {"0.003", "0.01", "0.03"}


def test_few_steps_are_drawn_as_the_curve_and_many_behind_their_mean(tmp_path: Path) -> None:
    for steps, color in ((3, BLUE), (40, LIGHT_BLUE)):
        figure = loss_figure(record(tmp_path / f"run{steps}", 2, steps))
        (drawn,) = (each for each in figure.axes[0].get_lines() if str(each.get_label()).startswith("train, per step"))
        assert drawn.get_color() == color


def _add_columns(table: Path, **columns: list[object]) -> None:
    rows = [row.split(",") for row in table.read_text().splitlines()]
    for name, values in columns.items():
        for row, cell in zip(rows, [name, *values], strict=True):
            row.append(str(cell))
    table.write_text("\n".join(map(",".join, rows)) + "\n")


def test_parts_of_the_loss_have_panels_of_their_own(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 3, 10, val=lambda e: {"loss": 1 / e, "tokens": e / 4, "accuracy": 1.0})
    parts = {"tokens": [3.0, 2.0, 1.0], "adversarial": [0.001, 1.0, "nan"]}
    _add_columns(run_dir / "steps.csv", **{name: [1.0] * 30 for name in (*parts, "lr_of_steps", "grad_norm")})
    _add_columns(run_dir / "metrics.csv", **{f"train_{name}": values for name, values in parts.items()})
    figure = loss_figure(run_dir)
    main, *panels = figure.axes
    assert [axes.get_title(loc="left") for axes in panels] == ["tokens", "adversarial (log)"]
    points = [
        (np.asarray(drawn.get_xdata()).tolist(), np.asarray(drawn.get_ydata()).tolist()) for drawn in panels[0].lines
    ]
    assert points == [([5.5, 15.5, 25.5], [3.0, 2.0, 1.0]), ([10.0, 20.0, 30.0], [0.25, 0.5, 0.75])]
    assert [axes.get_xlabel() for axes in panels] == ["optimizer step", "optimizer step"]
    assert panels[1].get_yscale() == "log"
    assert {axes.get_xlim() for axes in panels} == {main.get_xlim()}
    assert line(figure, "validation, per epoch")[1] == [1.0, 0.5, 1 / 3]


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (3, 1), (4, 1), (5, 2), (8, 2), (9, 3), (30, 3)])
def test_any_number_of_parts(tmp_path: Path, count: int, lines: int) -> None:
    run_dir = record(tmp_path / "run", 2, 5)
    parts: dict[str, list[object]] = {f"part_{number}": [1.0, "inf"] for number in range(count)}
    _add_columns(run_dir / "steps.csv", **{name: [1.0] * 10 for name in parts})
    _add_columns(run_dir / "metrics.csv", **{f"train_{name}": values for name, values in parts.items()})
    figure = loss_figure(run_dir)
    assert len(figure.axes) == 1 + min(count, 9)
    assert figure.get_figheight() == pytest.approx(3.6 + 1.6 * lines)


def test_many_steps_are_drawn_as_ranges(tmp_path: Path) -> None:
    spikes = {3001: 7.0, 3002: math.nan}
    figure = loss_figure(record(tmp_path / "run", 5, 2000, loss=lambda step: spikes.get(step, 1.0)))
    (band,) = figure.axes[0].collections
    assert band.get_label() == "train, per step (1 not finite) (range of 10)"
    assert max(vertex[1] for path in band.get_paths() for vertex in path.vertices) == 7.0
    x, mean = line(figure, "train, mean of 250 steps")
    assert len(x) == 1000
    assert max(mean) < 1.1
    assert sum(len(drawn.get_xdata()) for drawn in figure.axes[0].get_lines()) < 1100


@pytest.mark.parametrize(
    ("result", "best", "title"),
    [
        ({}, 6.0, "best epoch 6, lowest val_loss"),
        ({"monitor": "val_recall", "mode": "max"}, 4.0, "best epoch 4, highest val_recall"),
        ({"monitor": "recall", "mode": "max", "best": {"epoch": 3}}, 3.0, "best epoch 3, highest val_recall"),
    ],
)
def test_best_epoch_is_marked_in_every_panel(
    tmp_path: Path, result: dict[str, object], best: float, title: str
) -> None:
    run_dir = record(tmp_path / "run", val=lambda e: {"loss": 1 / e, "recall": -abs(e - 4), "f1": e / 10})
    write_result(run_dir, curves={"loss": [], "recall": [], "f1": []}, **result)
    figure = metrics_figure(run_dir)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "recall", "f1"]
    assert figure.get_suptitle() == f"validation metrics; green: {title}"
    for axes in figure.axes:
        marked = {float(np.asarray(drawn.get_xdata())[0]) for drawn in axes.get_lines() if drawn.get_color() == GREEN}
        assert marked == {best}
    assert figure.axes[2].get_title(loc="right") == f"{best / 10:.4g}"


@pytest.mark.parametrize(
    ("result", "step"),
    [({}, 120.0), ({"monitor": "val_f1", "mode": "max"}, 33.0), ({"best": {"epoch": 2, "step": 66}}, 66.0)],
)
def test_rows_within_epochs_stand_at_their_steps(tmp_path: Path, result: dict[str, object], step: float) -> None:
    steps = [16.0, 33.0, 50.0, 66.0, 83.0, 100.0]
    step = min(step, steps[-1])  # the loss falls until the last row
    run_dir = record(tmp_path / "run", 2, 50, periods=3, val=lambda row: {"loss": 1 / row, "f1": -abs(row - 2)})
    write_result(run_dir, curves={"loss": [], "recall": [], "f1": []}, **result)
    figure = metrics_figure(run_dir)
    for axes in figure.axes:
        curve, *marks = axes.get_lines()
        assert np.asarray(curve.get_xdata()).tolist() == steps
        assert {float(np.asarray(mark.get_xdata())[0]) for mark in marks if mark.get_color() == GREEN} == {step}
        assert axes.get_xlabel() == "optimizer step"
    assert str(figure.get_suptitle()).startswith(f"validation metrics; green: best step {step:.0f}, ")


def test_one_row_per_epoch_stays_at_its_epoch(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 3)
    assert frame.row_axis(frame.metrics(run_dir)) == "epoch"
    assert frame.row_axis(frame.metrics(record(tmp_path / "periods", 3, periods=2))) == "step"
    assert frame.row_axis({}) == "epoch"
    assert frame.row_axis({"epoch": [1.0, 1.0]}) == "epoch"  # no steps to tell them apart
    assert [axes.get_xlabel() for axes in metrics_figure(run_dir).axes] == ["epoch", "epoch"]


@pytest.mark.parametrize(
    ("values", "inside"),
    [
        ([0.2, 0.9, 1.0], True),
        ([1.0, 1.0, 1.0], True),
        ([0.0, 0.0, 0.0], True),
        ([0.99999, 1.0, math.nan], True),
        ([0.2, 0.9, 1.5], False),
    ],
)
def test_shares_have_no_ticks_beyond_0_and_1(tmp_path: Path, values: list[float], inside: bool) -> None:
    figure = metrics_figure(record(tmp_path / "run", 3, val=lambda e: {"accuracy": values[e - 1]}))
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    ticks = [float(tick) for tick in axes.get_yticks() if low <= tick <= high]
    assert len(ticks) >= 2 and (len(set(values)) > 1 or min(abs(tick - values[0]) for tick in ticks) < 1e-9)
    assert all(-1e-9 < tick < 1 + 1e-9 for tick in ticks) is inside
    assert low < np.nanmin(values) and np.nanmax(values) < high  # the dots are drawn in full


@pytest.mark.parametrize("num_metrics", [5, 8])
def test_rows_of_panels_are_equally_far_apart(tmp_path: Path, num_metrics: int) -> None:
    run_dir = record(tmp_path / "run", val=lambda e: {f"m{i}": e * 0.5 for i in range(num_metrics)})
    with applied():
        figure = metrics_figure(run_dir)
        rendered(figure, "png")
    rows = sorted({round(axes.get_position().y0, 6) for axes in figure.axes})
    first, *others = (axes.get_position().height for axes in figure.axes)
    assert others == pytest.approx([first] * len(others))
    assert np.diff(rows) == pytest.approx(np.diff(rows)[0], abs=2e-3)
    assert [axes.get_xlabel() for axes in figure.axes] == [""] * (3 * len(rows) - 3) + ["epoch"] * 2


def test_no_mark_where_the_watched_metric_is_unknown(tmp_path: Path) -> None:
    figure = metrics_figure(record(tmp_path / "run", val=lambda e: {"recall": e}))
    assert figure.get_suptitle() == ""
    assert [drawn.get_color() for drawn in figure.axes[0].get_lines()] == [BLUE]


def test_counts_are_left_out_once_the_result_names_what_is_judged(tmp_path: Path) -> None:
    names = ("loss", "recall", "rule_checks", "recall_len_1_5")
    run_dir = record(tmp_path / "run", val=lambda e: dict.fromkeys(names, e))

    def drawn(**result: object) -> list[str]:
        write_result(run_dir, **result)
        return [axes.get_title(loc="left") for axes in metrics_figure(run_dir).axes]

    assert drawn() == ["loss", "recall", "rule_checks"]
    assert drawn(curves={"train_loss": [1.0]}) == ["loss", "recall", "rule_checks"]
    assert drawn(curves={"train_loss": [1.0], "recall": [1.0]}) == ["loss", "recall"]  # val_loss is the default monitor
    assert drawn(curves={"recall": [], "recall_len_1_5": []}, monitor="val_recall", mode="max") == ["recall"]


def test_a_count_has_no_mark_while_nobody_says_what_is_judged(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", val=lambda e: {"checks": e, "loss": 1 / e})
    assert not (run_dir / "result.json").exists()
    count, loss = metrics_figure(run_dir).axes
    colors = [[drawn.get_color() for drawn in axes.get_lines()] for axes in (count, loss)]
    assert colors[0] == [BLUE] and GREEN in colors[1]
    assert count.get_title(loc="right") == ""


def test_only_lengths_and_empty_columns_make_no_metrics_figure(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", val=lambda e: {"accuracy_len_1_5": 0.5, "checks": ""})
    assert curves.metrics_figure(Record(run_dir)) is None


def test_gaps_and_missing_cells(tmp_path: Path) -> None:
    run_dir = record(
        tmp_path / "run",
        loss=lambda step: math.nan if step == 5 else math.inf if step == 6 else 1.0,
        val=lambda e: {"loss": math.nan, "seldom": "" if e % 2 else e, "never": ""},
    )
    figure = metrics_figure(run_dir)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "seldom"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["no finite value"]
    x = np.asarray(figure.axes[1].get_lines()[0].get_xdata()).tolist()
    assert x == [2.0, 4.0, 6.0]
    _, values = line(loss_figure(run_dir), "train, per step (2 not finite)")
    assert np.isnan(values[4:6]).all()
    assert len(draw(run_dir, CURVES)) == 4


@pytest.mark.parametrize(
    ("epochs", "steps_per_epoch", "num_metrics", "num_files"), [(1, 1, 1, 4), (2, 3, 12, 4), (3, 2, 0, 2)]
)
def test_any_shape_of_record_is_drawn(
    tmp_path: Path, epochs: int, steps_per_epoch: int, num_metrics: int, num_files: int
) -> None:
    run_dir = record(
        tmp_path / "run",
        epochs,
        steps_per_epoch,
        loss=lambda step: 0.5,
        val=lambda e: {f"a_rather_long_metric_name_{i}": 0.5 for i in range(num_metrics)},
    )
    assert len(draw(run_dir, CURVES)) == num_files


def test_partial_records(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    (run_dir / "steps.csv").unlink()
    assert len(draw(run_dir, CURVES)) == 4
    (run_dir / "metrics.csv").unlink()
    assert draw(run_dir, CURVES) == []
    (run_dir / "steps.csv").write_text("step,epoch,loss,lr\n1,1,0.5,0.1\n")
    assert [path.name for path in draw(run_dir, CURVES)] == ["losses.svg", "losses.png"]
    with pytest.raises(RunError, match="nowhere does not exist"):
        draw(tmp_path / "nowhere")


def test_the_module_is_a_command_without_torch_or_pyplot(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-X", "importtime", "-m", "loopwright.report.draw"]
    done = subprocess.run([*command, str(run_dir)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert (done.stdout, (run_dir / "figures" / "losses.png").exists()) == ("", True)
    imported = {row.split("|")[-1].strip() for row in done.stderr.splitlines()}
    assert "matplotlib.figure" in imported
    assert not imported & {"torch", "matplotlib.pyplot", "loopwright.experiment"}


def test_command_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.splitlines() == [f"{tmp_path / 'nowhere'} does not exist; name a run directory"]
