"""The gate of a run: `gate`, the loss of every step above, the gated metrics of every evaluation below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report.curves import draw_steps, step_label
from loopwright.report.frame import Array, Columns, Record, row_axis, series
from loopwright.report.style import (
    CATEGORIES,
    ROW_LABELS,
    best_line,
    counted,
    dotted,
    headline,
    literal,
    no_value,
    plain_numbers,
    scaled,
    whole_numbers,
)

_SHARE = (-0.001, 1.001)  # metrics that all lie in here are shares and have one axis


def gate_figure(record: Record) -> Figure | None:
    """Loss per step with its moving average; below it each gated metric, its threshold, and where the gate passed.

    None for a run without a gate, before its first row, or where it ended without asking the gate (`train.overfit`).
    Raises RunError where the recorded gate is damaged.
    """
    thresholds = _thresholds(record)
    by = row_axis(record.epochs)
    x_rows, _ = series(record.epochs, by, by)
    if not thresholds or not len(x_rows) or (record.result and "gate_passed" not in record.result):
        return None
    groups = _groups(record.epochs, thresholds)
    x_steps, per_step = series(record.steps, "step", "loss")
    num_rows = len(groups) + bool(len(per_step))
    figure = Figure(figsize=(6.4, 0.5 + 2.3 * num_rows), layout="constrained")
    panels = list(figure.subplots(num_rows, 1, squeeze=False).ravel())
    passed = _passed(record.result)
    if len(per_step):
        axes = panels.pop(0)
        draw_steps(axes, x_steps, per_step)
        axes.set_xlabel(step_label(record.epochs))
        scaled(axes, "loss", per_step)
        whole_numbers(axes, x_steps, nbins=8)
        if math.isfinite(passed["step"]):
            best_line(axes, passed["step"])
        axes.legend(loc="best")
    for axes, group in zip(panels, groups, strict=True):
        _draw_metrics(axes, record.epochs, group, thresholds)
        whole_numbers(axes, x_rows if by == "epoch" else np.concatenate([x_steps, x_rows]), nbins=8)
        axes.set_xlabel(ROW_LABELS[by])
        if math.isfinite(passed[by]):
            best_line(axes, passed[by])
    headline(figure, _said(record, by, passed[by]))
    return figure


def _draw_metrics(axes: Axes, epochs: Columns, group: list[str], thresholds: dict[str, float]) -> None:
    """The metrics of one axis, each with its threshold as a dashed line of the same colour."""
    drawn: list[Array] = []
    order = list(thresholds)
    for name in group:
        x, y = series(epochs, row_axis(epochs), name)
        color = CATEGORIES[order.index(name) % len(CATEGORIES)]
        shown = literal(name.removeprefix("val_"))
        if len(y):
            axes.plot(x, y, color=color, marker=dotted(y), markersize=3, label=counted(shown, y), zorder=3)
        threshold = thresholds[name]
        label = f"{shown}: threshold {threshold:g}" + ("" if np.isfinite(y).any() else " (no value yet)")
        axes.axhline(threshold, color=color, linewidth=1.0, linestyle=(0, (4, 2)), label=label, zorder=2)
        drawn += [y, np.array([threshold])]
    if not any(np.isfinite(y).any() for y in drawn):
        no_value(axes)
    plain_numbers(axes, values=np.concatenate(drawn))
    axes.set_ylabel(literal(group[0].replace("val_", "validation ", 1)) if len(group) == 1 else "gated metrics")
    num_columns = min(3, len(group)) if len(group) > 1 else 2
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=num_columns)


def _groups(epochs: Columns, thresholds: dict[str, float]) -> list[list[str]]:
    """Which metrics share an axis: all where all are shares between 0 and 1, else each has its own."""
    values = np.concatenate([[threshold, *series(epochs, "epoch", n)[1]] for n, threshold in thresholds.items()])
    finite = values[np.isfinite(values)]
    together = bool(len(finite)) and _SHARE[0] <= finite.min() and finite.max() <= _SHARE[1]
    return [list(thresholds)] if together else [[name] for name in thresholds]


def _thresholds(record: Record) -> dict[str, float]:
    """The gate's thresholds by column of metrics.csv; without a prefix `val_` is meant."""
    stop = record.config.get("stop")
    gate = stop.get("gate") if isinstance(stop, dict) else None
    if not gate:
        return {}
    number = (int, float)
    if not isinstance(gate, dict) or not all(isinstance(n, str) and type(v) in number for n, v in gate.items()):
        raise RunError(f"{record.path / 'config.yaml'} is damaged: `stop.gate` is no mapping of metrics to thresholds")
    return {n if n.startswith(("val_", "train_")) else f"val_{n}": float(value) for n, value in gate.items()}


def _passed(result: dict[str, Any]) -> dict[str, float]:
    """`epoch` and `step` at which the gate passed: the last ones, since training stops there. nan where it has not."""
    last = result.get("last")
    found = last if result.get("gate_passed") is True and isinstance(last, dict) else {}
    return {by: float(found[by]) if type(found.get(by)) is int else math.nan for by in ("epoch", "step")}


def _said(record: Record, by: str, at: float) -> str:
    """How the gate stands, for the title."""
    hold = record.config["stop"].get("hold")
    held = f" ({hold} evaluations in a row)" if isinstance(hold, int) and hold > 1 else ""
    if math.isfinite(at):
        return f"gate passed at {by} {at:,.0f}{held}; green: where it passed"
    if record.result.get("gate_passed") is False:
        return f"gate not passed{held}"
    return f"gate not passed yet{held}"
