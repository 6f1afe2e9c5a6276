"""Latency and firing rates: what metrics.csv says, row by row."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.report.firing import firing_figure
from loopwright.report.frame import Record
from loopwright.report.latency import latency_figure
from loopwright.report.style import GREEN, applied, rendered
from support.records import record, shows, texts, write_result

SECONDS, RATES = [0.5, 0.25, 0.25, 0.75], [2000.0, 4000.0, 4000.0, 1000.0]


def timed(run_dir: Path, seconds: list[object], rates: list[object], periods: int = 1) -> Path:
    record(run_dir, len(seconds) // periods, periods=periods)
    rows = [line.rsplit(",", 1)[0] for line in (run_dir / "metrics.csv").read_text().splitlines()]
    cells = [("epoch_seconds", "samples_per_second"), *zip(seconds, rates, strict=True)]
    lines = [f"{row},{a},{b}" for row, (a, b) in zip(rows, cells, strict=True)]
    (run_dir / "metrics.csv").write_text("\n".join(lines) + "\n")
    return run_dir


def drawn(run_dir: Path) -> Figure:
    with applied():
        figure = latency_figure(Record(run_dir))
    assert figure is not None
    return figure


def curve(axes: Axes) -> tuple[list[float], list[float]]:
    first = axes.get_lines()[0]
    return np.asarray(first.get_xdata()).tolist(), np.asarray(first.get_ydata()).tolist()


def test_seconds_and_samples_from_zero_with_their_medians(tmp_path: Path) -> None:
    figure = drawn(timed(tmp_path / "run", [*SECONDS], [*RATES]))
    left, right = figure.axes
    assert (curve(left), curve(right)) == (([1, 2, 3, 4], SECONDS), ([1, 2, 3, 4], RATES))
    assert [axes.get_ylabel() for axes in figure.axes] == ["seconds per epoch", "samples per second"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["median 0.375", "median 3,000"]
    assert [axes.get_ylim()[0] for axes in figure.axes] == [0, 0]
    with applied():
        (tmp_path / "l.svg").write_bytes(rendered(figure, "svg"))
    assert shows(tmp_path / "l.svg", [1, 2, 3, 4], SECONDS) and shows(tmp_path / "l.svg", [1, 2, 3, 4], RATES)
    assert {"median 3,000", "2,000", "0.4"} <= set(texts(tmp_path / "l.svg"))


def test_rows_within_epochs_and_missing_cells(tmp_path: Path) -> None:
    figure = drawn(timed(tmp_path / "run", [0.5, "", "nan", 0.25], ["", "", "", ""], periods=2))
    (axes,) = figure.axes
    assert axes.get_ylabel() == "seconds per period" and axes.get_xlabel() == "optimizer step"
    x, y = curve(axes)
    assert x == [10.0, 30.0, 40.0] and y[0] == 0.5 and math.isnan(y[1])
    figure = drawn(timed(tmp_path / "none", ["nan", "inf"], ["", ""]))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no finite value"]


def test_no_rows_no_latency(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    (run_dir / "metrics.csv").write_text("epoch,step,epoch_seconds\n")
    assert latency_figure(Record(run_dir)) is None
    (run_dir / "metrics.csv").unlink()
    assert latency_figure(Record(run_dir)) is None


def test_firing_rates_by_layer(tmp_path: Path) -> None:
    rates = {"0": [0.1, 0.2, 0.3], "$x$": [0.4, 0.3, 0.2]}
    run_dir = record(
        tmp_path / "run",
        3,
        val=lambda e: {"loss": abs(e - 2), **{f"firing_rate_{k}": v[e - 1] for k, v in rates.items()}},
    )
    write_result(run_dir, best={"epoch": 2})
    with applied():
        figure = firing_figure(Record(run_dir))
        assert figure is not None
        (tmp_path / "f.svg").write_bytes(rendered(figure, "svg"))
    (axes,) = figure.axes
    *curves, best = axes.get_lines()
    assert [np.asarray(line.get_ydata()).tolist() for line in curves] == list(rates.values())
    assert (best.get_color(), float(np.asarray(best.get_xdata())[0])) == (GREEN, 2.0)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "firing rate (spikes per step)")
    assert {"layer", "0", "$x$", "firing rate by layer, validation; green: best epoch 2, lowest val_loss"} <= set(
        texts(tmp_path / "f.svg")
    )
    assert all(shows(tmp_path / "f.svg", [1, 2, 3], values) for values in rates.values())


def test_layers_that_are_silent_or_many(tmp_path: Path) -> None:
    assert firing_figure(Record(record(tmp_path / "plain"))) is None
    silent = firing_figure(Record(record(tmp_path / "nan", val=lambda e: {"firing_rate_0": "nan"})))
    assert silent is not None and [text.get_text() for text in silent.axes[0].texts] == ["no finite value"]
    many = firing_figure(Record(record(tmp_path / "many", val=lambda e: {f"firing_rate_{k}": k for k in range(30)})))
    assert many is not None and len(many.axes[0].get_lines()) == 30
    legend = many.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()][::15] == ["0", "29"]


def test_layers_of_blocks_share_a_colour_and_have_their_own_line(tmp_path: Path) -> None:
    names = ("embedding", "key_0", "value_0", "key_1", "value_1")
    run_dir = record(tmp_path / "run", 2, val=lambda e: {f"firing_rate_{name}": 0.1 for name in names})
    figure = firing_figure(Record(run_dir))
    assert figure is not None
    looks = {str(line.get_label()): (line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert list(looks) == list(names) and len(set(looks.values())) == 5
    assert looks["key_0"][0] == looks["key_1"][0] != looks["value_0"][0] == looks["value_1"][0]
    assert looks["key_0"][1] == looks["value_0"][1] == "-" != looks["key_1"][1] == looks["value_1"][1]
