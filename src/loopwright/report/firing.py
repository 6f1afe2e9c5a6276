"""Spiking models: `firing`, the share of a layer's neurons that fire at a time step, over the epochs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from loopwright.report.captures import spread
from loopwright.report.curves import best_row
from loopwright.report.frame import Record, row_axis, series
from loopwright.report.style import (
    CATEGORIES,
    ORDERED,
    ROW_LABELS,
    best_line,
    counted,
    dotted,
    headline,
    literal,
    no_value,
    scaled,
    whole_numbers,
)

_COLUMN = re.compile(r"val_firing_rate_(.+)")
_BLOCK = re.compile(r"(.+?)_?(\d{1,3})", re.ASCII)
_LINES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MOST_NAMED = 16


def firing_figure(record: Record) -> Figure | None:
    """Mean firing rate of each layer on validation, the best row marked. None for a model that does not spike.

    The first layer is dark, the last one light; where blocks repeat the same few layers (`query_0`, `query_1`), a layer has
    its colour and a block its line.
    """
    by = row_axis(record.epochs)
    found = {match[1]: series(record.epochs, by, match[0]) for match in map(_COLUMN.fullmatch, record.epochs) if match}
    found = {name: (x, y) for name, (x, y) in found.items() if len(y)}
    if not found:
        return None
    figure = Figure(figsize=(5.6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for look, (name, (x, y)) in zip(_looks(list(found)), found.items(), strict=True):
        axes.plot(x, y, marker=dotted(y), markersize=2.5, label=counted(literal(name), y), **look)
    best, rule = best_row(record.epochs, record.result)
    if math.isfinite(best):
        best_line(axes, best)
    values = np.concatenate([y for _, y in found.values()])
    if not np.isfinite(values).any():
        no_value(axes)
    else:
        scaled(axes, "firing rate (spikes per step)", values)
    whole_numbers(axes, series(record.epochs, by, by)[0], nbins=8)
    axes.set_xlabel(ROW_LABELS[by])
    named = spread(axes.get_legend_handles_labels()[0], _MOST_NAMED)
    axes.legend(
        handles=named,
        title="layer",
        title_fontsize=8,
        fontsize=8 if len(named) <= 12 else 7,
        handlelength=2.6,
        labelspacing=0.3,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    headline(figure, "firing rate by layer, validation" + (f"; green: best {by} {best:,.0f}, {rule}" if rule else ""))
    return figure


def _looks(names: Sequence[str]) -> list[dict[str, Any]]:
    """Colour and line of each layer."""
    matches = [_BLOCK.fullmatch(name) for name in names]
    kinds = [match[1] if match else name for match, name in zip(matches, names, strict=True)]
    blocks = [int(match[2]) if match else 0 for match in matches]
    colors = {kind: CATEGORIES[number % len(CATEGORIES)] for number, kind in enumerate(dict.fromkeys(kinds))}
    if 1 < len(colors) <= len(CATEGORIES) and max(blocks) < len(_LINES):
        return [{"color": colors[kind], "linestyle": _LINES[block]} for kind, block in zip(kinds, blocks, strict=True)]
    return [{"color": color} for color in matplotlib.colormaps[ORDERED](np.linspace(0.0, 0.85, len(names)))]
