"""`parallel`: the completed trials of a study as lines through their parameters to their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from loopwright.report.frame import Array
from loopwright.report.study import Trial, short
from loopwright.report.style import GREEN, INK, ORDERED, headline, literal

_MOST_AXES = 9
_MOST_LINES = 400
_MOST_CHOICES = 12
# The axis of the values is logarithmic beyond this ratio: most trials are near the best.
_LOG_RATIO = 10.0


@dataclass(frozen=True, slots=True)
class Axis:
    """The range of a searched key: both bounds, and whether it is searched in the logarithm; or its choices."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def place(self, value: float | str) -> float:
        """Where a value lies between the bounds, from 0 to 1; NaN where it is none of the choices."""
        if self.choices:
            at = self.choices.index(str(value)) if str(value) in self.choices else math.nan
            return at / (len(self.choices) - 1) if len(self.choices) > 1 else 0.5
        low, high, at = self.low, self.high, float(value)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at) if at > 0 else math.nan
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """Places and names: the choices, or both bounds and round numbers between them."""
        if self.choices:
            kept = self.choices if len(self.choices) <= _MOST_CHOICES else (self.choices[0], self.choices[-1])
            return [(self.place(choice), literal(short(choice))) for choice in kept]
        ends = [self.low, self.high] if self.high > self.low else [self.low]
        locator = LogLocator(numticks=6) if self.log else MaxNLocator(4)
        inner = [float(value) for value in locator.tick_values(self.low, self.high) if self.low < value < self.high]
        kept_inner = [value for value in inner if 0.12 < self.place(value) < 0.88] if len(ends) == 2 else []
        return [(self.place(value), f"{value:.4g}") for value in (*ends, *kept_inner)]


def parallel_figure(
    trials: Sequence[Trial], space: Mapping[str, Axis], metric: str, mode: Literal["min", "max"]
) -> Figure | None:
    """A line per completed trial through its parameters to its value, dark for good ones; the best is green.

    `space` is drawn in its order, at most nine keys of it. Of many trials the best half and others at even distances of
    rank are drawn. None with fewer than two completed trials.
    """
    keys = list(space)[:_MOST_AXES]
    completed = [
        t
        for t in trials
        if t.kind == "completed" and math.isfinite(t.values[0]) and all(key in t.params for key in keys)
    ]
    if len(completed) < 2 or not keys:
        return None
    ranked = sorted(completed, key=lambda t: (t.values[0] if mode == "min" else -t.values[0], t.number))
    lines = ranked
    if len(ranked) > _MOST_LINES:
        half = _MOST_LINES // 2
        rest = ranked[half:]
        lines = ranked[:half] + [rest[i * len(rest) // half] for i in range(half)]
    values = np.array([t.values[0] for t in lines], dtype=np.float64)
    logged = bool(values.min() > 0 and values.max() / values.min() > _LOG_RATIO)
    axis = Axis(float(values.min()), float(values.max()), logged)
    every = [*(space[key] for key in keys), axis]
    places_LK: Array = np.array(
        [[*(space[key].place(t.params[key]) for key in keys), axis.place(t.values[0])] for t in lines]
    )
    figure = Figure(figsize=(max(4.6, 1.5 * len(every) + 0.6), 3.6), layout="constrained")
    axes = figure.add_subplot()
    x = np.arange(len(every), dtype=np.float64)
    quantile = np.linspace(0, 1, len(lines))
    paths = LineCollection(
        [np.column_stack([x, row]) for row in places_LK[:0:-1]],
        array=quantile[:0:-1],
        cmap=ORDERED,
        norm=Normalize(0, 1),
        linewidths=0.9,
        alpha=0.75 if len(lines) <= 100 else 0.45,
        zorder=2,
    )
    axes.add_collection(paths)
    axes.plot(x, places_LK[0], color=GREEN, linewidth=2.2, zorder=4)
    for at, part in zip(x, every, strict=True):
        _draw_axis(axes, float(at), part, last=at == x[-1])
    names = [_broken(literal(key)) + ("\n(log)" if space[key].log else "") for key in keys]
    axes.set_xticks(x, [*names, literal(metric) + ("\n(log)" if logged else "")], fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_yticks([])
    axes.set_xlim(-0.15, len(every) - 1 + 0.55)
    axes.set_ylim(-0.04, 1.04)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(paths, ax=axes, ticks=[0, 1], fraction=0.03, pad=0.02)
    bar.ax.set_yticklabels(["best", "worst"])
    bar.ax.invert_yaxis()
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    bar.outline.set_visible(False)
    said = f"{len(completed):,} completed trials, by rank; green: the best (trial {ranked[0].number:,})"
    said += f"; {len(lines)} of them are drawn" if len(lines) < len(completed) else ""
    said += f"; {len(keys)} of {len(space)} keys, the most important ones" if len(keys) < len(space) else ""
    headline(figure, said)
    return figure


def _draw_axis(axes: Axes, at: float, axis: Axis, *, last: bool) -> None:
    axes.plot([at, at], [0, 1], color=INK, linewidth=0.9, zorder=3)
    for place, name in axis.ticks():
        axes.plot([at, at + 0.03], [place, place], color=INK, linewidth=0.9, zorder=3)
        axes.text(
            at + 0.05,
            place,
            name,
            va="center",
            ha="left",
            fontsize=7,
            zorder=5,
            bbox={"facecolor": "white", "alpha": 0 if last else 0.85, "edgecolor": "none", "pad": 0.6},
        )


def _broken(name: str) -> str:
    """A dotted key in two lines where it is long."""
    head, dot, tail = name.rpartition(".")
    return f"{head}{dot}\n{tail}" if len(name) > 16 and dot else name
