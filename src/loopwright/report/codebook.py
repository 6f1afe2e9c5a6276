"""How a codebook is used: `codebook`, each code's share of the tokens, perplexity and dead codes over the epochs."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.report.curves import best_row
from loopwright.report.frame import Array, Record, row_axis, series
from loopwright.report.shown import measured, whole
from loopwright.report.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_BLUE,
    ROW_LABELS,
    best_line,
    dotted,
    headline,
    no_value,
    whole_numbers,
)

_COLUMNS = {"val_perplexity": "perplexity (codes)", "val_dead_codes": "dead codes"}


def codebook_figure(record: Record) -> Figure | None:
    """Left: the codes by their use, the most used first, once the views have counted it. Right: the two metrics.

    Perplexity is exp of the entropy of use in nats: as many codes, used equally, would be as hard to predict. None where
    nothing is coded. Raises RunError where the views are damaged.
    """
    codes_K = whole(record, "codes", 1)
    by = row_axis(record.epochs)
    # Perplexity alone may be that of a language model.
    curves = {name: series(record.epochs, by, name) for name in _COLUMNS} if "val_dead_codes" in record.epochs else {}
    curves = {name: (x, y) for name, (x, y) in curves.items() if len(y)}
    if codes_K is None and not curves:
        return None
    both = codes_K is not None and bool(curves)
    figure = Figure(figsize=(7.0 if both else 3.9, 3.6), layout="constrained")
    grid = figure.add_gridspec(max(1, len(curves)), 1 + both, width_ratios=[1.15, 1][: 1 + both])
    if codes_K is not None:
        _draw_use(figure.add_subplot(grid[:, 0]), codes_K)
    best, rule = best_row(record.epochs, record.result)
    for row, (name, (x, y)) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[row, int(both)])
        _draw_curve(axes, x, y, best)
        whole_numbers(axes, series(record.epochs, by, by)[0], nbins=6)
        axes.set_ylabel(_COLUMNS[name])
        if row == len(curves) - 1:
            axes.set_xlabel(ROW_LABELS[by])
    said = [f"use of the codebook: {measured(record)}"] if codes_K is not None else []
    said += [f"right: validation{f', green: best {by} {best:,.0f}, {rule}' if rule else ''}"] if both else []
    said += [] if both or not curves else ["use of the codebook, validation"]
    headline(figure, "; ".join(said))
    return figure


def _draw_use(axes: Axes, codes_K: Array) -> None:
    """The share of the tokens that each code takes, sorted, on a log scale; dashed: what equal use would give."""
    used_K = np.sort(codes_K[codes_K > 0])[::-1]
    axes.set_xlabel("code, by rank of use")
    axes.set_ylabel("share of tokens (log scale)")
    if not len(used_K):
        no_value(axes)
        return
    share_K = used_K / used_K.sum()
    rank_K = np.arange(1, len(share_K) + 1, dtype=np.float64)
    floor = min(share_K[-1], 1 / len(codes_K)) / 2
    axes.set_yscale("log")
    axes.fill_between(rank_K, floor, share_K, step="mid", color=LIGHT_BLUE, linewidth=0, zorder=2)
    axes.step(rank_K, share_K, where="mid", color=BLUE, zorder=3)
    equal = 1 / len(codes_K)
    axes.axhline(equal, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=4, label="equal use of all codes")
    axes.set_ylim(bottom=floor)
    whole_numbers(axes, np.array([1.0, float(len(codes_K))]), nbins=6)
    perplexity = math.exp(-float((share_K * np.log(share_K)).sum()))
    said = f"{len(used_K):,} of {len(codes_K):,} codes used,\nperplexity {perplexity:.1f}"
    axes.set_title(said, loc="left", fontsize=8)
    axes.legend(loc="upper right")


def _draw_curve(axes: Axes, x: Array, y: Array, best: float) -> None:
    if not np.isfinite(y).any():
        no_value(axes)
        return
    axes.plot(x, y, color=BLUE, marker=dotted(y), markersize=2.5)
    axes.set_ylim(0, 1.1 * float(np.nanmax(y)) or 1.0)
    axes.locator_params(axis="y", nbins=4)
    for value in y[(x == best) & np.isfinite(y)]:
        best_line(axes, best)
        axes.plot([best], [value], "o", color=GREEN, markersize=5, zorder=4)
        axes.set_title(f"{value:.4g}", loc="right", fontsize=8, color=GREEN)
