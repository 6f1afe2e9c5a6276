"""Recall beside chance: `recall`, of every epoch and of the test, with the interval in which chance lies."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.record.read import read_json
from loopwright.report.curves import best_row
from loopwright.report.frame import Array, Record, row_axis, series
from loopwright.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    ROW_LABELS,
    best_line,
    counted,
    dotted,
    headline,
    plain_numbers,
    whole_numbers,
)

_COLUMN = re.compile(r"val_(recall_at_(\d{1,3}))", re.ASCII)
_MOST = 3
_BAND = "#DDDDDD"
_WEIGHTS = {"best": (GREEN, "o"), "last": (ORANGE, "s")}


def recall_figure(record: Record) -> Figure | None:
    """Each `recall_at_k` against the epoch, and on test, over the interval of chance; the highest k is above.

    The intervals are those of `task/chance.json`, for as many windows as each split has; `task/synthetic.json` adds the
    best that can be reached. None without recall or without such intervals, and where the run is measured on its own
    training samples (`train.overfit`). Raises RunError where a file is damaged.
    """
    found = sorted((int(m[2]), m[1]) for m in map(_COLUMN.fullmatch, record.epochs) if m)[::-1][:_MOST]
    chance = read_json(record.path / "task" / "chance.json")
    by = row_axis(record.epochs)
    rows = series(record.epochs, by, by)[0]
    if not found or chance is None or not len(rows):
        return None
    train = record.config.get("train")
    if isinstance(train, dict) and train.get("overfit"):
        return None
    best, rule = best_row(record.epochs, record.result)
    tested = _tested(record.result)
    figure = Figure(figsize=(6.8, 0.7 + 2.2 * len(found)), layout="constrained")
    grid = figure.subplots(
        len(found), 1 + bool(tested), squeeze=False, sharey="row", width_ratios=[7, 1][: 1 + bool(tested)]
    )
    level, handles = chance.get("level"), dict[str, Any]()
    band = f"chance, {100 * level:g} % interval" if isinstance(level, float) and 0 < level < 1 else "chance"
    for panels, (k, metric) in zip(grid, found, strict=True):
        x, y = series(record.epochs, by, f"val_{metric}")
        axes, interval = panels[0], _interval(record, chance, "val", metric)
        reachable = _reachable(record, metric)
        _draw_chance(axes, interval, reachable, band)
        if len(y):
            axes.plot(x, y, color=BLUE, marker=dotted(y), markersize=2.5, label=counted("validation", y), zorder=3)
        for value in y[(x == best) & np.isfinite(y)]:
            best_line(axes, best)
            axes.plot([best], [value], "o", color=GREEN, markersize=5, zorder=4)
            axes.set_title(f"{value:.4f}", loc="right", fontsize=8, color=GREEN)
        values = [y, np.array([*interval, reachable])]
        if tested:
            values.append(_draw_test(panels[1], record, chance, metric, tested, reachable, band))
        axes.set_ylabel(f"recall@{k}")
        whole_numbers(axes, rows, nbins=8)
        plain_numbers(axes, nbins=6, values=np.concatenate(values))
        axes.locator_params(axis="y", steps=[1, 2, 2.5, 5, 10])
        for panel in panels:
            handles |= {str(line.get_label()): line for line in panel.get_legend_handles_labels()[0]}
    grid[-1, 0].set_xlabel(ROW_LABELS[by])
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3)
    headline(figure, "recall beside chance" + (f"; green: best {by} {best:,.0f}, {rule}" if rule else ""))
    return figure


def _draw_chance(axes: Axes, interval: tuple[float, float, float], reachable: float, band: str) -> None:
    """The interval of chance as a band around its mean; the best reachable value as a dotted line."""
    low, mean, high = interval
    axes.axhspan(low, high, color=_BAND, linewidth=0, zorder=0.5, label=band)
    axes.axhline(mean, color=GREY, linewidth=0.9, zorder=1)
    if math.isfinite(reachable):
        axes.axhline(reachable, color=INK, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1, label="best reachable")


def _draw_test(
    axes: Axes,
    record: Record,
    chance: Mapping[str, Any],
    metric: str,
    tested: Mapping[str, Mapping[str, Any]],
    reachable: float,
    band: str,
) -> Array:
    """The test's values beside the test's own interval; returns what is drawn."""
    interval = _interval(record, chance, "test", metric)
    _draw_chance(axes, interval, reachable, band)
    drawn: list[float] = [*interval]
    for place, (name, row) in enumerate(tested.items()):
        value = row.get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            color, marker = _WEIGHTS[name]
            at = place - (len(tested) - 1) / 2
            axes.plot([at], [value], marker, color=color, markersize=5, label=f"test, {name} weights", zorder=3)
            drawn.append(float(value))
    axes.set_xlim(-1.2, 1.2)
    axes.set_xticks([0], ["test"])
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="y", length=0, labelleft=False)
    return np.array(drawn)


def _tested(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    test = result.get("test")
    found = test if isinstance(test, dict) else {}
    return {name: found[name] for name in _WEIGHTS if isinstance(found.get(name), dict)}


def _interval(record: Record, chance: Mapping[str, Any], split: str, metric: str) -> tuple[float, float, float]:
    """(low, mean, high) of a split's metric under chance."""
    held = chance.get(split)
    found = held.get(metric) if isinstance(held, dict) else None
    values = [found.get(name) for name in ("low", "mean", "high")] if isinstance(found, dict) else []
    numbers = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if len(numbers) != 3 or sorted(numbers) != numbers:
        raise RunError(f"{record.path / 'task' / 'chance.json'} is damaged: it has no interval of {metric} on {split}")
    return numbers[0], numbers[1], numbers[2]


def _reachable(record: Record, metric: str) -> float:
    """The best value that anybody can reach on a generated history; nan where it is not known."""
    value = (read_json(record.path / "task" / "synthetic.json") or {}).get(f"best_{metric}")
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.nan
