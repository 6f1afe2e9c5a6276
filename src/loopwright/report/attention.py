"""Attention maps: `attention`, layers by heads, of one sample of the newest capture, or of the views without captures.

Shape letters: S samples, H heads, Q queries, K keys, T positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm, to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.errors import RunError
from loopwright.report.captures import Capture, real_positions, spread
from loopwright.report.frame import Array, Record
from loopwright.report.shown import measured
from loopwright.report.style import GREY, headline, literal

_MOST_PANELS = 4  # of layers, and of heads
_MOST_POSITIONS = 256
_MOST_NAMED = 24  # tokens that are named beside a map
_COLORS = "YlGnBu"


def attention_figure(record: Record) -> Figure | None:
    """A map for each layer (row) and head (column): how much each query (y) attends to each key (x), from 0 to 1.

    The longest sample is shown, without its padding, and at most four layers and heads, evenly chosen. Without captures
    the maps of the views are taken. None where there are none either. Raises RunError where the file is damaged.
    """
    capture = record.captures[-1] if record.captures else record.views
    layers = [] if capture is None else capture.numbered("attention")
    if capture is None or not layers:
        return None
    shown = [(layer, _read(capture, name)) for layer, name in spread(layers, _MOST_PANELS)]
    num_samples = min(len(maps_SHQK) for _, maps_SHQK in shown)
    sample, names, which = _sample(capture, record.token_names, num_samples)
    size = min(len(names) or _MOST_POSITIONS, _MOST_POSITIONS)
    num_heads = max(maps_SHQK.shape[1] for _, maps_SHQK in shown)
    heads = spread(range(num_heads), _MOST_PANELS)
    side = 2.9 if len(heads) * len(shown) == 1 else 1.75
    figure = Figure(figsize=(max(4.2, side * len(heads) + 0.9), (side + 0.1) * len(shown) + 0.7), layout="constrained")
    grid = figure.subplots(len(shown), len(heads), squeeze=False)
    norm = PowerNorm(0.5, 0.0, 1.0)
    for row, (layer, maps_SHQK) in zip(grid, shown, strict=True):
        for axes, head in zip(row, heads, strict=True):
            if head < maps_SHQK.shape[1]:
                _draw(axes, maps_SHQK[sample, head, :size, :size].astype(np.float64), norm)
                axes.set_title(f"layer {layer}, head {head}", loc="left", fontsize=8)
                _name_tokens(axes, names[:size], side)
            else:
                axes.remove()
    _name_axes(grid, alike=len({maps_SHQK.shape[1:] for _, maps_SHQK in shown}) == 1)
    bar = figure.colorbar(
        ScalarMappable(norm, _COLORS),
        ax=figure.axes,
        ticks=[0, 0.05, 0.25, 0.5, 1],
        fraction=0.04,
        pad=0.02,
        format="%g",
    )
    bar.set_label("attention weight (square-root scale)", fontsize=8)
    said = [f"attention at step {capture.step:,}" if record.captures else f"attention: {measured(record)}", which]
    said += [f"{len(shown)} of {len(layers)} layers"] if len(shown) < len(layers) else []
    said += [f"{len(heads)} of {num_heads} heads"] if len(heads) < num_heads else []
    said[-1] += f" (at most {_MOST_PANELS} are drawn)" if max(len(layers), num_heads) > _MOST_PANELS else ""
    length = len(names) or max(maps_SHQK.shape[2] for _, maps_SHQK in shown)
    said += [f"the first {size} of {length} positions"] if size < length else []
    headline(figure, ", ".join(said))
    return figure


def _read(capture: Capture, name: str) -> np.ndarray[Any, Any]:
    maps_SHQK = capture.read(name)
    if maps_SHQK.ndim != 4 or 0 in maps_SHQK.shape or maps_SHQK.dtype.kind not in "fiu":
        raise RunError(
            f"{capture.path}: {name} is {maps_SHQK.dtype} of shape {maps_SHQK.shape}, which are no attention maps "
            "(samples, heads, queries, keys)"
        )
    return maps_SHQK


def _sample(capture: Capture, vocabulary: Sequence[str], num_samples: int) -> tuple[int, list[str], str]:
    """The longest sample, the first among equals, the names of its tokens, and which one it is for the title.

    No names where there are no tokens.
    """
    tokens_ST = capture.tokens()
    if tokens_ST is None or not tokens_ST[:num_samples].size:
        return 0, [], f"sample 1 of {num_samples}"
    lengths = real_positions(tokens_ST[:num_samples], vocabulary).sum(axis=1)
    sample = int(np.argmax(lengths))
    length = int(lengths[sample]) or tokens_ST.shape[1]
    tokens = tokens_ST[sample, :length].tolist()
    names = [vocabulary[token] if 0 <= token < len(vocabulary) else str(token) for token in tokens]
    number = f"{sample + 1} of {num_samples}"
    return sample, names, f"sample {number}" if lengths.min() == lengths.max() else f"longest sample ({number})"


def _draw(axes: Axes, map_QK: Array, norm: PowerNorm) -> None:
    """One map. What no query can see (a causal model's upper triangle) stays blank; what is not finite is grey."""
    finite = np.isfinite(map_QK)
    image = matplotlib.colormaps[_COLORS](norm(np.where(finite, map_QK, 0.0)))
    image[~finite] = to_rgba(GREY)
    future = np.triu(np.ones(map_QK.shape, dtype=bool), 1)
    if not np.any(map_QK[future & finite]):
        image[future] = (1.0, 1.0, 1.0, 0.0)
    axes.imshow(image, interpolation="none", aspect="equal")
    axes.grid(visible=False)
    axes.tick_params(length=2, labelsize=7)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name_axes(grid: Any, alike: bool) -> None:
    """Name the axes at the left and at the bottom; where all maps are alike, only these bear numbers or tokens."""
    for axes in grid[:, 0]:
        axes.set_ylabel("query")
    for axes in grid[-1]:
        axes.set_xlabel("key")
    for axes in grid[:, 1:].ravel() if alike else ():
        axes.tick_params(labelleft=False)
    for axes in grid[:-1].ravel() if alike else ():
        axes.tick_params(labelbottom=False)


def _name_tokens(axes: Axes, names: Sequence[str], side: float) -> None:
    """Tokens at the ticks where they are few, else positions, counted from 0."""
    if not 0 < len(names) <= _MOST_NAMED:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, integer=True))
        return
    short = [literal(name if len(name) <= 6 else f"{name[:5]}\N{HORIZONTAL ELLIPSIS}") for name in names]
    # Points of a tick's room: an inch has 72, and letters leave a little space between them.
    size = min(8.0, 72 * side * 0.7 / len(names))
    upright = max(map(len, short)) <= 1
    axes.set_xticks(range(len(names)), short, rotation=0 if upright else 90, fontsize=size)
    axes.set_yticks(range(len(names)), short, fontsize=size)
