"""What a regression predicts: `fit`, beside the data, and `residuals`, what it misses.

Letters of shapes: S samples, F features, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.report.frame import Array, Record
from loopwright.report.shown import alike, measured, view
from loopwright.report.style import BLUE, GREY, INK, LIGHT_BLUE, ORANGE, headline, literal, no_value, plain_numbers

_MOST_OUTPUTS = 4
_DOT_SIZE = 9  # square points


@dataclass(frozen=True)
class _Predictions:
    """What the views hold of a regression, and what the recipe calls its columns."""

    x_SF: Array
    y_SO: Array
    predicted_SO: Array
    feature: str
    targets: tuple[str, ...]

    @classmethod
    def of(cls, record: Record) -> _Predictions | None:
        arrays = [view(record, name, 2) for name in ("x", "y", "predicted")]
        x_SF, y_SO, predicted_SO = arrays
        if x_SF is None or y_SO is None or predicted_SO is None:
            return None
        alike(record, "y and predicted", [y_SO.shape, predicted_SO.shape])
        alike(record, "the samples of x and y", [x_SF.shape[:1], y_SO.shape[:1]])
        task = record.config.get("task")
        data = task.get("data") if isinstance(task, dict) else None
        named = data if isinstance(data, dict) else {}
        target = named.get("target")
        targets = _names([target] if isinstance(target, str) else target, y_SO.shape[1], "y")
        return cls(x_SF, y_SO, predicted_SO, _names(named.get("features"), x_SF.shape[1], "x")[0], targets)

    def of_output(self, output: int) -> tuple[Array, Array, Array]:
        """(x, y, predicted) of one output, of the samples where the last two are finite; x is its first feature."""
        y_S, predicted_S = self.y_SO[:, output], self.predicted_SO[:, output]
        kept = np.isfinite(y_S) & np.isfinite(predicted_S)
        return self.x_SF[kept, 0], y_S[kept], predicted_S[kept]

    def left_out(self) -> str:
        """How many predictions cannot be drawn, for the title."""
        lost = int(np.isnan(self.predicted_SO).any(axis=1).sum())
        return f"; {lost:,} predictions are not finite" if lost else ""


def fit_figure(record: Record) -> Figure | None:
    """With one feature the predicted curve on the data, else predicted against true values with the line of equality.

    At most four outputs. None for a task without such predictions (classes have the figure `confusion`). Raises RunError
    where the views are damaged.
    """
    found = _Predictions.of(record)
    if found is None:
        return None
    outputs = range(min(found.y_SO.shape[1], _MOST_OUTPUTS))
    curve = found.x_SF.shape[1] == 1
    width = (5.2 if curve else 3.9) if len(outputs) == 1 else 3.2 * len(outputs)
    figure = Figure(figsize=(width, 3.5), layout="constrained")
    for axes, output in zip(figure.subplots(1, len(outputs), squeeze=False).ravel(), outputs, strict=True):
        x_S, y_S, predicted_S = found.of_output(output)
        name = literal(found.targets[output])
        if not len(y_S):
            no_value(axes)
        elif curve:
            _draw_curve(axes, x_S, y_S, predicted_S)
        else:
            _draw_equality(axes, y_S, predicted_S)
        axes.set_xlabel(literal(found.feature) if curve else f"true {name}")
        axes.set_ylabel(name if curve else f"predicted {name}")
    cut = f", the first {len(outputs)} of {found.y_SO.shape[1]} outputs" if len(outputs) < found.y_SO.shape[1] else ""
    headline(figure, f"fit, {len(found.y_SO):,} samples{cut}: {measured(record)}{found.left_out()}")
    return figure


def residuals_figure(record: Record) -> Figure | None:
    """True minus predicted value against the predicted one, and how often each residual occurs; a row per output.

    At most four outputs. None for a task without such predictions. Raises RunError where the views are damaged.
    """
    found = _Predictions.of(record)
    if found is None:
        return None
    outputs = range(min(found.y_SO.shape[1], _MOST_OUTPUTS))
    figure = Figure(figsize=(5.6, 0.5 + 2.8 * len(outputs)), layout="constrained")
    grid = figure.subplots(len(outputs), 2, squeeze=False, sharey="row", width_ratios=[2.4, 1])
    for (axes, counts), output in zip(grid, outputs, strict=True):
        _, y_S, predicted_S = found.of_output(output)
        name = literal(found.targets[output])
        residual_S = y_S - predicted_S
        axes.set_xlabel(f"predicted {name}")
        axes.set_ylabel(f"residual of {name}\n(true \N{MINUS SIGN} predicted)")
        counts.set_xlabel("samples")
        if not len(residual_S):
            no_value(axes)
            continue
        axes.scatter(predicted_S, residual_S, s=_DOT_SIZE, color=BLUE, alpha=0.6, linewidths=0)
        plain_numbers(axes)
        edges = _bin_edges(residual_S)
        counts.hist(residual_S, bins=edges.tolist(), orientation="horizontal", color=LIGHT_BLUE, edgecolor=BLUE, lw=0.6)
        counts.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        for panel in (axes, counts):
            panel.axhline(0.0, color=INK, linewidth=0.9, zorder=3)
        said = f"mean {residual_S.mean():.3g}\nstd {residual_S.std():.3g}".replace("-", "\N{MINUS SIGN}")
        counts.set_title(said, loc="left", fontsize=8, color=GREY)
    headline(figure, f"residuals, {len(found.y_SO):,} samples: {measured(record)}{found.left_out()}")
    return figure


def _draw_curve(axes: Axes, x_S: Array, y_S: Array, predicted_S: Array) -> None:
    """The samples as dots, the prediction as a line over the feature."""
    axes.scatter(x_S, y_S, s=_DOT_SIZE, color=GREY, alpha=0.55, linewidths=0, label="data", zorder=2)
    order = np.argsort(x_S, kind="stable")
    few = "o" if len(x_S) <= 30 else ""
    axes.plot(x_S[order], predicted_S[order], color=ORANGE, marker=few, markersize=3, label="predicted", zorder=3)
    plain_numbers(axes)
    axes.legend(loc="best", markerscale=1.6)


def _draw_equality(axes: Axes, y_S: Array, predicted_S: Array) -> None:
    """Predicted against true values on axes of one scale; on the line they agree."""
    both = np.concatenate([y_S, predicted_S])
    margin = 0.04 * (both.max() - both.min()) or 0.5
    ends = [both.min() - margin, both.max() + margin]
    axes.plot(ends, ends, color=INK, linewidth=0.9, zorder=1, label="predicted = true")
    axes.scatter(y_S, predicted_S, s=_DOT_SIZE, color=BLUE, alpha=0.6, linewidths=0, zorder=2)
    axes.set_xlim(ends[0], ends[1])
    axes.set_ylim(ends[0], ends[1])
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    variance = float(np.var(y_S))
    if variance > 0:
        r2 = 1 - float(np.mean((y_S - predicted_S) ** 2)) / variance
        axes.set_title(f"R\N{SUPERSCRIPT TWO} {r2:.3f}", loc="right", fontsize=8, color=GREY)
    axes.legend(loc="upper left")


def _bin_edges(values_S: Array) -> Array:
    """Bins of equal width around all values, as many as the root of their number, 8 to 40."""
    low, high = float(values_S.min()), float(values_S.max())
    least = 1e-6 * max(abs(low), abs(high)) or 1.0  # a width that floating point can divide
    if high - low < least:
        low, high = low - least, high + least
    return np.linspace(low, high, min(40, max(8, int(len(values_S) ** 0.5))) + 1)


def _names(given: object, count: int, default: str) -> tuple[str, ...]:
    """The columns' names where the recipe has them, else one name, numbered where there are several."""
    if isinstance(given, list | tuple) and len(given) == count and all(isinstance(name, str) for name in given):
        return tuple(given)
    return (default,) if count == 1 else tuple(f"{default} {number + 1}" for number in range(count))
