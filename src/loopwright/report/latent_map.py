"""Latents in two dimensions: `latent_map`, the mean latent of each sample, coloured by what the sample is.

Letters of shapes: S samples, L width of the latent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.report.frame import Array, Record
from loopwright.report.hidden import principal_plane
from loopwright.report.shown import alike, measured, view, whole
from loopwright.report.style import BLUE, CATEGORIES, ORDERED, headline, no_value

_MOST_NAMED = 10
_DOT_SIZE = 14  # square points
# Two more than the palette has, with a marker of their own (colours of Tol 2021).
_COLORS = (*CATEGORIES, "#882255", "#999933")
_MARKERS = ("o",) * len(CATEGORIES) + ("^", "^")


def latent_map_figure(record: Record) -> Figure | None:
    """Samples on the first two principal components of their latents; at most ten labels by name, more by a colour scale.

    The sign of a component is that which makes its largest weight positive. None where no latents were kept. Raises
    RunError where the views are damaged.
    """
    latent_SL, label_S = view(record, "latent", 2), whole(record, "label", 1)
    if latent_SL is None:
        return None
    if label_S is not None:
        alike(record, "the samples of latent and label", [latent_SL.shape[:1], label_S.shape])
    kept = np.isfinite(latent_SL).all(axis=1)
    figure = Figure(figsize=(5.0, 3.9), layout="constrained")
    axes = figure.add_subplot()
    if not kept.any():
        no_value(axes)
        return figure
    plane_S2, shares = principal_plane(latent_SL[kept])
    axes.set_xlabel(f"principal component 1 ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"principal component 2 ({shares[1]:.0%})")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6))
    what = _what(record, label_S)
    if label_S is None:
        axes.scatter(plane_S2[:, 0], plane_S2[:, 1], s=_DOT_SIZE, color=BLUE, linewidths=0)
    else:
        _draw_labelled(figure, axes, plane_S2, label_S[kept], what)
    lost = int((~kept).sum())
    said = f"mean latents of {len(plane_S2):,} samples: {measured(record)}"
    headline(figure, said + (f"; {lost:,} are not finite" if lost else ""))
    return figure


def _draw_labelled(figure: Figure, axes: Axes, plane_S2: Array, label_S: Array, what: str) -> None:
    labels = np.unique(label_S)
    if len(labels) > _MOST_NAMED:
        points: Any = axes.scatter(plane_S2[:, 0], plane_S2[:, 1], c=label_S, cmap=ORDERED, s=_DOT_SIZE, linewidths=0)
        figure.colorbar(points, ax=axes, label=what, aspect=25, pad=0.02, ticks=MaxNLocator(8, integer=True))
        return
    for number, label in enumerate(labels.tolist()):
        at = label_S == label
        color, marker = _COLORS[number], _MARKERS[number]
        axes.scatter(
            plane_S2[at, 0],
            plane_S2[at, 1],
            s=_DOT_SIZE,
            linewidths=0,
            label=f"{label:.9g}",
            color=color,
            marker=marker,
        )
        middle = np.median(plane_S2[at], axis=0)
        axes.text(
            middle[0],
            middle[1],
            f"{label:.9g}",
            ha="center",
            va="center",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": color, "linewidth": 0.8},
            zorder=4,
        )
    axes.legend(title=what, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.4)


def _what(record: Record, label_S: Array | None) -> str:
    """What the labels are: the numbers of real tokens, where they are those of the samples shown beside originals."""
    types_ST = whole(record, "types", 2)
    if types_ST is None or label_S is None:
        return "class"
    known = min(len(types_ST), len(label_S))
    same = np.array_equal((types_ST[:known] > 0).sum(axis=1), label_S[:known])
    return "number of real tokens" if same else "class"
