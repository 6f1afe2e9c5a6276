"""Accuracy by the length of the samples: `lengths`, from metrics named like `token_accuracy_len_6_10`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.report.captures import spread
from loopwright.report.curves import best_row
from loopwright.report.frame import LENGTH_BIN, Array, Record, row_axis, series
from loopwright.report.style import (
    BLUE,
    GREEN,
    ORANGE,
    ORDERED,
    ROW_LABELS,
    best_line,
    dotted,
    headline,
    literal,
    plain_numbers,
    whole_numbers,
)

_MOST_NAMED = 8  # bins in the legend, which is as high as a panel
_WEIGHTS = {"best": (GREEN, "o"), "last": (ORANGE, "s")}


@dataclass(frozen=True, order=True)
class Bin:
    """The samples of length `low` to `high`, in the unit in which the task measures it."""

    low: int
    high: int

    def column(self, metric: str) -> str:
        return f"{metric}_len_{self.low}_{self.high}"

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}\N{EN DASH}{self.high}"


def lengths_figure(record: Record) -> Figure | None:
    """A metric by length bin, on test with the best and the last weights where there is a test, else on validation.

    Beside it the validation value of each bin over the epochs, or the steps (`row_axis`). A row for each metric that has
    bins.
    """
    test = record.result.get("test")
    tested = {name: row for name, row in test.items() if isinstance(row, dict)} if isinstance(test, dict) else {}
    bins = _bins([*record.epochs, *(name for row in tested.values() for name in row)])
    rows = [x for metric, found in bins.items() for b in found for x in _over_rows(record, metric, b)[0]]
    if not any(_drawn(record, tested, metric, found) for metric, found in bins.items()) and not rows:
        return None
    several = len(set(rows)) > 1
    figure = Figure(figsize=(7.2 if several else 4.2, 0.5 + 2.5 * len(bins)), layout="constrained")
    grid = figure.subplots(len(bins), 1 + several, squeeze=False)
    for row, (metric, found) in zip(grid, bins.items(), strict=True):
        _draw_bins(row[0], metric, found, _drawn(record, tested, metric, found))
        if several:
            _draw_rows(row[1], record, metric, found)
    headline(figure, "metrics by sample length" + (f"; green line: best {row_axis(record.epochs)}" if several else ""))
    return figure


def _draw_bins(axes: Axes, metric: str, bins: list[Bin], rows: Mapping[str, Array]) -> None:
    """A point for each bin and each set of weights, side by side; few points bear their value."""
    for number, (name, values) in enumerate(rows.items()):
        color, marker = _WEIGHTS.get(name, (BLUE, "o"))
        label = f"test, {name} weights" if name in _WEIGHTS else name
        x = np.arange(len(bins)) + 0.24 * (number - (len(rows) - 1) / 2)
        axes.plot(x, values, marker, color=color, markersize=5, label=label, zorder=3)
        others = [other for shown, other in rows.items() if shown != name]
        for k in np.flatnonzero(np.isfinite(values)) if len(bins) * len(rows) <= 10 else ():
            under = any(other[k] > values[k] or (other[k] == values[k] and number) for other in others)
            place, side = ((0, -4), "top") if under else ((0, 4), "bottom")
            at = (float(x[k]), float(values[k]))
            axes.annotate(f"{at[1]:.3g}", at, place, textcoords="offset points", ha="center", va=side, fontsize=6.5)
    axes.set_xticks(range(len(bins)), [str(b) for b in bins], rotation=0 if len(bins) <= 8 else 90)
    axes.set_xlim(-0.6, len(bins) - 0.4)
    axes.margins(y=0.2)
    axes.grid(axis="x", visible=False)
    plain_numbers(axes, values=np.concatenate([np.array([]), *rows.values()]))
    axes.set_xlabel("sample length")
    axes.set_ylabel(literal(metric))
    if rows:  # above the axes: among the points its markers would read as points
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, handletextpad=0.2)


def _draw_rows(axes: Axes, record: Record, metric: str, bins: list[Bin]) -> None:
    """The validation value of each bin against the epoch or the step, short samples dark and long ones light."""
    by = row_axis(record.epochs)
    drawn: list[Array] = []
    colors = matplotlib.colormaps[ORDERED](np.linspace(0.0, 0.85, len(bins)))
    for color, found in zip(colors, bins, strict=True):
        x, y = _over_rows(record, metric, found)
        drawn.append(y)
        if len(y):
            axes.plot(x, y, color=color, marker=dotted(y), markersize=2.5, label=str(found))
    best, _ = best_row(record.epochs, record.result)
    if math.isfinite(best):
        best_line(axes, best)
    plain_numbers(axes, values=np.concatenate(drawn))
    whole_numbers(axes, series(record.epochs, by, by)[0], nbins=6 if by == "epoch" else 4)
    axes.set_xlabel(ROW_LABELS[by])
    axes.set_ylabel(f"validation {literal(metric)}")
    named = spread(axes.get_legend_handles_labels()[0], _MOST_NAMED)
    axes.legend(handles=named, title="length", title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _drawn(record: Record, tested: Mapping[str, Mapping[str, Any]], metric: str, bins: list[Bin]) -> dict[str, Array]:
    """The values by bin and what they are of: the test's where it has any, else those of the best or last row."""
    rows = {
        name: np.array([_number(tested[name].get(b.column(metric))) for b in bins])
        for name in _WEIGHTS
        if name in tested
    }
    rows = {name: values for name, values in rows.items() if np.isfinite(values).any()}
    if rows:
        return rows
    over = [_over_rows(record, metric, b) for b in bins]
    numbers = sorted({number for x, y in over for number in x[np.isfinite(y)].tolist()})
    if not numbers:
        return {}
    best, _ = best_row(record.epochs, record.result)
    number, which = (best, "best ") if best in numbers else (numbers[-1], "")
    values = np.array([next(iter(y[x == number].tolist()), math.nan) for x, y in over])
    return {f"validation, {which}{row_axis(record.epochs)} {number:,.0f}": values}


def _bins(names: list[str]) -> dict[str, list[Bin]]:
    """The bins of each metric, short ones first."""
    found: dict[str, set[Bin]] = {}
    for match in filter(None, map(LENGTH_BIN.match, names)):
        found.setdefault(match["metric"], set()).add(Bin(int(match["low"]), int(match["high"])))
    return {metric: sorted(bins) for metric, bins in found.items()}


def _over_rows(record: Record, metric: str, found: Bin) -> tuple[Array, Array]:
    return series(record.epochs, row_axis(record.epochs), f"val_{found.column(metric)}")


def _number(value: Any) -> float:
    """A value of result.json as a number; nan where it is none, or not finite."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
