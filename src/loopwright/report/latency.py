"""How long the training takes: `latency`, the seconds of every epoch and the samples trained per second."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from loopwright.report.frame import Record, row_axis, series
from loopwright.report.style import BLUE, GREY, ROW_LABELS, dotted, no_value, plain_numbers, whole_numbers


def latency_figure(record: Record) -> Figure | None:
    """Seconds and samples per second of each row of `metrics.csv`, both from 0 on, with the median of each.

    Two runs of one recipe differ here and nowhere else. None before the first row.
    """
    by = row_axis(record.epochs)
    labels = {
        "epoch_seconds": f"seconds per {'epoch' if by == 'epoch' else 'period'}",
        "samples_per_second": "samples per second",
    }
    drawn = {name: series(record.epochs, by, name) for name in labels}
    drawn = {name: (x, y) for name, (x, y) in drawn.items() if len(y)}
    if not drawn:
        return None
    figure = Figure(figsize=(3.4 * len(drawn), 2.7), layout="constrained")
    panels = figure.subplots(1, len(drawn), squeeze=False).ravel()
    for axes, (name, (x, y)) in zip(panels, drawn.items(), strict=True):
        axes.set_xlabel(ROW_LABELS[by])
        axes.set_ylabel(labels[name])
        whole_numbers(axes, x, nbins=6)
        if not np.isfinite(y).any():
            no_value(axes)
            continue
        axes.plot(x, y, color=BLUE, marker=dotted(y), markersize=2.5)
        median = float(np.nanmedian(y))
        axes.axhline(median, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1)
        said = f"{median:,.0f}" if 1000 <= median < 1e9 else f"{median:.4g}"
        axes.set_title(f"median {said}", loc="right", color=GREY)
        plain_numbers(axes, nbins=5)
        axes.set_ylim(0, 1.08 * float(np.nanmax(y)) or 1.0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    return figure
