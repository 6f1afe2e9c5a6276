"""Adversarial training: `balance`, how well the discriminator does against what it judges, over the epochs."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from loopwright.report.curves import best_row
from loopwright.report.frame import Record, row_axis, series
from loopwright.report.style import (
    BLUE,
    GREY,
    ROW_LABELS,
    best_line,
    counted,
    dotted,
    headline,
    no_value,
    scaled,
    whole_numbers,
)

_EVEN = (0, (4, 2))


def balance_figure(record: Record) -> Figure | None:
    """Validation accuracy of the discriminator above the line at 0.5, where it guesses; below, the ratio of the losses.

    None for a training without a discriminator.
    """
    by = row_axis(record.epochs)
    accuracy, ratio = (series(record.epochs, by, f"val_{name}") for name in ("discriminator_accuracy", "loss_ratio"))
    if not len(accuracy[1]):
        return None
    num_rows = 1 + bool(len(ratio[1]))
    figure = Figure(figsize=(5.2, 0.4 + 2.1 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, 1, squeeze=False, sharex=True).ravel()
    best, rule = best_row(record.epochs, record.result)
    parts = (
        (accuracy, "discriminator accuracy", 0.5, "cannot tell (0.5)"),
        (ratio, "discriminator loss /\nadversarial loss", 1.0, "equal losses (1)"),
    )
    for axes, ((x, y), label, even, said) in zip(panels, parts, strict=False):
        axes.plot(x, y, color=BLUE, marker=dotted(y), markersize=2.5, label=counted("validation", y))
        axes.axhline(even, color=GREY, linewidth=1.0, linestyle=_EVEN, label=said, zorder=1)
        if math.isfinite(best):
            best_line(axes, best)
        if not np.isfinite(y).any():
            no_value(axes)
        elif even == 0.5:
            axes.set_ylim(-0.03, 1.03)
        else:
            scaled(axes, label, np.append(y, even))
        if not axes.get_ylabel():
            axes.set_ylabel(label)
        axes.legend(loc="best")
    whole_numbers(panels[-1], series(record.epochs, by, by)[0], nbins=8)
    panels[-1].set_xlabel(ROW_LABELS[by])
    headline(figure, "balance of the adversaries" + (f"; green: best {by} {best:,.0f}, {rule}" if rule else ""))
    return figure
