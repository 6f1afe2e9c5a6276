"""The learning curves of a run: `losses`, over the optimizer steps, and `metrics`, a small panel per validation metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from loopwright.report.frame import LENGTH_BIN, Array, Columns, Record, row_axis, series
from loopwright.report.style import (
    BLUE,
    GREEN,
    INK,
    LIGHT_BLUE,
    ORANGE,
    ROW_LABELS,
    best_line,
    counted,
    dotted,
    headline,
    no_value,
    plain_numbers,
    scaled,
    small_title,
    whole_numbers,
)

# Beyond this many steps a line per step is a blot of megabytes: the range of each bin is drawn instead.
_BINS = 1000
_MOST_PARTS = 9
_NO_PARTS = ("step", "epoch", "loss", "lr", "grad_norm")  # of the columns of steps.csv


def loss_figure(record: Record) -> Figure | None:
    """Loss against the optimizer step: every step (light), its moving average, and both losses of each row.

    A row's training loss is the mean of the steps since the row before: it stands in their middle. Its validation loss
    is that of the weights at its last step. Below, a small panel for each part of the loss that is recorded with it.
    """
    x_steps, per_step = series(record.steps, "step", "loss")
    rows = record.epochs | {"middle": _middles(record.epochs)}
    train, val = series(rows, "middle", "train_loss"), series(rows, "step", "val_loss")
    drawn = [per_step, train[1], val[1]]
    if not any(len(y) for y in drawn):
        return None
    parts = [name for name in record.steps if name not in _NO_PARTS and len(series(rows, "middle", f"train_{name}")[1])]
    parts = parts[:_MOST_PARTS]
    per_line = 4 if len(parts) in (4, 7, 8) else 3
    num_lines = math.ceil(len(parts) / per_line)
    figure = Figure(figsize=(6.4, 3.6 + 1.6 * num_lines), layout="constrained")
    grid = figure.add_gridspec(1 + num_lines, per_line, height_ratios=[3.6] + num_lines * [1.6])
    axes = figure.add_subplot(grid[0, :])
    if len(per_step):
        draw_steps(axes, x_steps, per_step)
    by_epoch = row_axis(rows) == "epoch"
    for (x, y), label, color, line in (
        (train, f"train, mean of each {'epoch' if by_epoch else 'period'}", INK, "" if dotted(train[1]) else "-"),
        (val, f"validation, per {'epoch' if by_epoch else 'evaluation'}", ORANGE, "-"),
    ):
        if len(y):
            name, marker = counted(label, y), dotted(y)
            axes.plot(x, y, color=color, linestyle=line, marker=marker, markersize=3, label=name, zorder=3)
    axes.set_xlabel(step_label(record.epochs))
    scaled(axes, "loss", np.concatenate(drawn))
    all_steps = np.concatenate([x_steps, train[0], series(rows, "step", "step")[0]])
    whole_numbers(axes, all_steps, nbins=8)
    axes.legend(loc="best")
    for number, name in enumerate(parts):
        panel = figure.add_subplot(grid[1 + number // per_line, number % per_line])
        _draw_part(panel, name, series(rows, "middle", f"train_{name}"), series(rows, "step", f"val_{name}"))
        whole_numbers(panel, all_steps, nbins=4)
        if number + per_line >= len(parts):
            panel.set_xlabel("optimizer step")
    return figure


def _draw_part(axes: Axes, name: str, train: tuple[Array, Array], val: tuple[Array, Array]) -> None:
    """The mean of each row in training (black) and its value on validation (orange), as above."""
    for (x, y), color, line in ((train, INK, "" if dotted(train[1]) else "-"), (val, ORANGE, "-")):
        axes.plot(x, y, color=color, linestyle=line, marker=dotted(y), markersize=2.5)
    drawn = np.concatenate([train[1], val[1]])
    scaled(axes, "", drawn)
    axes.set_ylabel("")  # the title has the name; numbers of a panel this small stand at powers of ten alone
    if axes.get_yscale() == "linear":
        plain_numbers(axes, nbins=4, values=drawn)
    else:
        axes.yaxis.set_minor_formatter(NullFormatter())
    if not np.isfinite(drawn).any():
        no_value(axes)
    small_title(axes, name if axes.get_yscale() == "linear" else f"{name} (log)")


def metrics_figure(record: Record) -> Figure | None:
    """A small panel per validation metric against the epoch, or the step (`row_axis`); the best row is marked in each.

    Counts, of which neither more nor less is better, are left out as soon as a result says which metrics are judged; until
    then the mark is at the one that is watched.
    """
    epochs = record.epochs
    names = [name for name in epochs if name.startswith("val_") and not LENGTH_BIN.match(name)]
    names = _judged(names, record.result) or names
    by = row_axis(epochs)
    names = [name for name in names if len(series(epochs, by, name)[1])]
    if not names:
        return None
    num_columns = len(names) if len(names) <= 3 else min(4, math.ceil(math.sqrt(len(names))))
    num_rows = math.ceil(len(names) / num_columns)
    figure = Figure(figsize=(max(2.3 * num_columns, 4.0), 1.7 * num_rows + 0.4), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    best, rule = best_row(epochs, record.result)
    judged = _judged(names, record.result) or [_monitor(epochs, record.result)]
    for axes, name in zip(grid, names, strict=False):
        x, y = series(epochs, by, name)
        axes.plot(x, y, color=BLUE, marker=dotted(y), markersize=2.5)
        small_title(axes, name.removeprefix("val_"))
        plain_numbers(axes, nbins=4, values=y)
        whole_numbers(axes, series(epochs, by, by)[0], nbins=5 if by == "epoch" else 3)
        if not np.isfinite(y).any():
            no_value(axes)
        for value in y[(x == best) & np.isfinite(y) & (name in judged)]:
            best_line(axes, best)
            axes.plot([best], [value], "o", color=GREEN, markersize=5, zorder=4)
            axes.set_title(f"{value:.4g}", loc="right", fontsize=8, color=GREEN)
    for index, axes in enumerate(grid):
        if index >= len(names):
            axes.remove()
        elif index // num_columns == num_rows - 1:  # a label above a missing panel would push the last row down
            axes.set_xlabel(ROW_LABELS[by])
    if rule:
        headline(figure, f"validation metrics; green: best {by} {best:,.0f}, {rule}")
    return figure


def draw_steps(axes: Axes, x: Array, y: Array) -> None:
    """The loss of every step, or of bins of steps where there are very many, and its centred moving average."""
    stride = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
    label = counted("train, per step", y)
    bin_size = math.ceil(len(y) / _BINS) if len(y) > 4 * _BINS else 1
    if bin_size == 1:
        color = LIGHT_BLUE if len(y) >= 80 else BLUE  # light behind its average, where there are enough for one
        axes.plot(x, y, color=color, linewidth=0.8, marker=dotted(y, 2), markersize=3, label=label, zorder=2)
    else:
        filled = np.append(y, np.full(-len(y) % bin_size, np.nan)).reshape(-1, bin_size)
        x = np.append(x, np.full(-len(x) % bin_size, x[-1])).reshape(-1, bin_size).mean(axis=1)
        masked = np.ma.masked_invalid(filled)
        low, high, y = (getattr(masked, what)(axis=1).filled(np.nan) for what in ("min", "max", "mean"))
        axes.fill_between(x, low, high, color=LIGHT_BLUE, linewidth=0, label=f"{label} (range of {bin_size})", zorder=2)
    half = len(y) // 80
    if half:
        window = np.ones(2 * half + 1)
        finite = np.isfinite(y)
        counts = np.convolve(finite, window, "same")
        sums = np.convolve(np.where(finite, y, 0.0), window, "same")
        mean = np.divide(sums, counts, out=np.full(len(y), np.nan), where=counts > 0.5)
        num_steps = len(window) * bin_size * stride
        axes.plot(x, mean, color=BLUE, label=f"train, mean of {num_steps:,.0f} steps", zorder=2.5)


def step_label(epochs: Columns) -> str:
    """The name of the step axis, with the number of steps per epoch where all epochs have the same."""
    strides = set(np.diff(series(epochs, "step", "step")[1], prepend=0.0).tolist())
    told = len(strides) == 1 and row_axis(epochs) == "epoch"
    return f"optimizer step ({strides.pop():,.0f} per epoch)" if told else "optimizer step"


def best_row(epochs: Columns, result: dict[str, Any]) -> tuple[float, str]:
    """The epoch or step (`row_axis`) of the best row and the rule it follows.

    (nan, "") where the record does not say which metric is watched.
    """
    by = row_axis(epochs)
    monitor = _monitor(epochs, result)
    mode = result.get("mode") or ("min" if monitor.endswith("loss") else None)
    x, y = series(epochs, by, monitor)
    finite = np.isfinite(y)
    if mode not in ("min", "max") or not finite.any():
        return math.nan, ""
    best = result.get("best")
    recorded = best.get(by) if isinstance(best, dict) else None
    order = y if mode == "min" else -y
    at = float(recorded) if isinstance(recorded, int) and recorded in x else float(x[finite][np.argmin(order[finite])])
    return at, f"{'lowest' if mode == 'min' else 'highest'} {monitor}"


def _middles(epochs: Columns) -> list[float | None]:
    """The middle of the steps that each row closes: those after the row before, its own included."""
    steps = epochs.get("step", [])
    return [
        None if before is None or step is None else (before + 1 + step) / 2
        for before, step in zip([0.0, *steps], steps, strict=False)
    ]


def _monitor(epochs: Columns, result: dict[str, Any]) -> str:
    known = str(result.get("monitor") or "val_loss")
    return known if known in epochs else f"val_{known}"


def _judged(names: list[str], result: dict[str, Any]) -> list[str]:
    """The columns whose metric has a direction: result.json's `curves`, and the one that is watched; none while nobody
    says."""
    curves = result.get("curves")
    judged = {f"val_{name}" for name in curves if name != "train_loss"} if isinstance(curves, dict) else set()
    watched = _monitor({name: [] for name in names}, result)
    return [name for name in names if name in judged or name == watched] if judged else []
