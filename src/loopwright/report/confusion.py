"""Which class is taken for which: `confusion`, counts of true against predicted classes (C, C)."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.errors import RunError
from loopwright.record.read import read_json
from loopwright.report.frame import Record
from loopwright.report.shown import measured, unfit, whole
from loopwright.report.style import headline, literal

_MOST_WRITTEN = 10  # classes whose cells have room for their counts
_COLORS = "Blues"


def confusion_figure(record: Record) -> Figure | None:
    """A row per true class, shaded by the share of it that is taken for each; counts and shares written in where few.

    None where the record has no such counts. Raises RunError where they, or the classes' names, are damaged.
    """
    counts_CC = whole(record, "class_confusion", 2)
    if counts_CC is None:
        return None
    num_classes = len(counts_CC)
    if counts_CC.shape != (num_classes, num_classes):
        raise unfit(record, f"class_confusion has shape {counts_CC.shape}, which is no square")
    total_C1 = counts_CC.sum(axis=1, keepdims=True)
    share_CC = np.divide(counts_CC, total_C1, out=np.full(counts_CC.shape, np.nan), where=total_C1 > 0)
    side = 0.9 * min(num_classes, 3) + 0.55 * max(0, min(num_classes, _MOST_WRITTEN) - 3)
    figure = Figure(figsize=(side + 1.9, side + 1.1), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share_CC, cmap=_COLORS, vmin=0.0, vmax=1.0, interpolation="none")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    names = _names(record, num_classes)
    if num_classes <= _MOST_WRITTEN:
        long = max(map(len, names)) > 8
        axes.set_xticks(range(num_classes), names, rotation=30 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(num_classes), names)
        small = 7 if num_classes > 4 else 8
        for row, column in np.argwhere(np.isfinite(share_CC)).tolist():
            share = share_CC[row, column]
            text = (
                f"{share:.1%}\n{counts_CC[row, column]:,.0f}" if num_classes <= 4 else f"{counts_CC[row, column]:,.0f}"
            )
            ink = "white" if share > 0.55 else "black"
            axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=small)
    else:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.05, pad=0.03, format="{x:.0%}")
    right = float(np.trace(counts_CC) / max(1.0, counts_CC.sum()))
    headline(figure, f"classes of {counts_CC.sum():,.0f} cases, {right:.1%} right: {measured(record)}")
    return figure


def _names(record: Record, num_classes: int) -> list[str]:
    """The classes of `task/fsm.json`, else their numbers."""
    path = record.path / "task" / "fsm.json"
    machine = read_json(path)
    if machine is None:
        return [str(number) for number in range(num_classes)]
    names = machine.get("classes")
    if not isinstance(names, list) or len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise RunError(f"{path} is damaged: 'classes' are no names of {num_classes} classes")
    return [literal(name if len(name) <= 20 else f"{name[:19]}\N{HORIZONTAL ELLIPSIS}") for name in names]
