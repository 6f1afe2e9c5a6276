"""Hidden states: `hidden`, the newest ones in the plane of their two main directions, and how fast they change.

Shape letters: S samples, T positions, N rows (one per sample and position), D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.errors import RunError
from loopwright.report.captures import Capture, real_positions, spread
from loopwright.report.frame import Array, Record
from loopwright.report.style import (
    BLUE,
    CATEGORIES,
    ORDERED,
    counted,
    dotted,
    headline,
    literal,
    no_value,
    scaled,
    small_title,
    whole_numbers,
)

_MOST_PANELS = 4
_MOST_POINTS = 600  # in a panel: enough to see the shape, and an SVG below a megabyte
_MOST_CAPTURES = 50  # are read; of hundreds an even choice
_DOT_SIZE = 12  # square points
_LARGEST = 1e150  # what is larger, or not finite, is left out: its square is infinite


def hidden_figure(record: Record) -> Figure | None:
    """Above: the rows of each layer on their first two principal components. Below: relative change between captures.

    A token model's residual streams, else the captured outputs of the modules. The change of an array R between
    neighbouring captures is |R - R'| / |R'| (Frobenius norms), of equal batches only; fewer than three captures make no
    curve and are drawn without it. None where nothing was captured. Raises RunError where a capture is damaged.
    """
    if not record.captures:
        return None
    newest = record.captures[-1]
    arrays = _arrays(newest)
    shown = spread(arrays, _MOST_PANELS)
    states = {name: newest.read(name) for name in shown}
    shown = [name for name in shown if states[name].dtype.kind in "fiu" and states[name].size]
    if not shown:
        return None
    # Every k-th capture, the newest included: the changes are all over equally many steps.
    captures = record.captures[:: -math.ceil(len(record.captures) / _MOST_CAPTURES)][::-1]
    several = len(captures) > 2
    figure = Figure(figsize=(max(4.6, 2.2 * len(shown) + 0.9), 2.5 + 2.2 * several), layout="constrained")
    rows = figure.add_gridspec(1 + several, len(shown), height_ratios=[1.0, 0.75][: 1 + several])
    panels = [figure.add_subplot(rows[0, column]) for column in range(len(shown))]
    _draw_states(figure, panels, {name: states[name] for name in shown}, Kinds.of(newest, record.token_names))
    if several:
        _draw_changes(figure.add_subplot(rows[1, :]), captures, shown, record.token_names)
    said = f"hidden states at step {newest.step:,} on their first two principal components (PC)"
    said += f", {len(shown)} of {len(arrays)} layers" if len(shown) < len(arrays) else ""
    headline(figure, said)
    return figure


@dataclass(frozen=True)
class Kinds:
    """What tells the rows of a token model apart: the captured tokens, which of them are no padding, and their names."""

    tokens_ST: np.ndarray[Any, Any] | None
    real_ST: np.ndarray[Any, np.dtype[np.bool_]] | None
    names: Sequence[str]

    @classmethod
    def of(cls, capture: Capture, names: Sequence[str]) -> Kinds:
        tokens_ST = capture.tokens()
        return cls(tokens_ST, None if tokens_ST is None else real_positions(tokens_ST, names), names)

    def fit(self, array: np.ndarray[Any, Any]) -> bool:
        """Whether an array (S, T, D) has a row for each of the tokens."""
        return self.tokens_ST is not None and array.ndim == 3 and array.shape[:2] == self.tokens_ST.shape


def _draw_states(figure: Figure, panels: list[Axes], states: dict[str, np.ndarray[Any, Any]], kinds: Kinds) -> None:
    """A panel for each array: its rows coloured by token where these are few, else by position, padding left out."""
    tokens = np.unique(kinds.tokens_ST[kinds.real_ST]) if kinds.tokens_ST is not None else np.array([])
    by_token = 0 < len(tokens) <= len(CATEGORIES)
    image: Any = None
    for axes, (name, array) in zip(panels, states.items(), strict=True):
        rows_ND, positions_N, tokens_N = _rows(array, kinds)
        small_title(axes, name)
        axes.tick_params(labelsize=7)
        axes.locator_params(nbins=4)
        kept = (np.abs(rows_ND) < _LARGEST).all(axis=1)
        if not kept.any():
            no_value(axes)
            continue
        plane_N2, shares = principal_plane(rows_ND[kept])
        axes.set_xlabel(f"PC 1 ({shares[0]:.0%})")
        axes.set_ylabel(f"PC 2 ({shares[1]:.0%})", labelpad=1)
        if by_token and tokens_N is not None:
            for color, token in zip(CATEGORIES, tokens.tolist(), strict=False):
                at = tokens_N[kept] == token
                named = literal(kinds.names[token]) if 0 <= token < len(kinds.names) else str(token)
                axes.scatter(plane_N2[at, 0], plane_N2[at, 1], color=color, label=named, s=_DOT_SIZE, linewidths=0)
        elif array.ndim == 3 and array.shape[1] > 1:
            image = axes.scatter(
                plane_N2[:, 0], plane_N2[:, 1], c=positions_N[kept], cmap=ORDERED, s=_DOT_SIZE, linewidths=0
            )
            image.set_clim(0, array.shape[1] - 1)
        else:
            axes.scatter(plane_N2[:, 0], plane_N2[:, 1], color=BLUE, s=_DOT_SIZE, linewidths=0)
    if image is not None:
        figure.colorbar(image, ax=panels, label="position", aspect=25, pad=0.02, ticks=MaxNLocator(6, integer=True))
    labelled = next((axes for axes in reversed(panels) if axes.get_legend_handles_labels()[1]), None)
    if labelled is not None:
        labelled.legend(title="token", title_fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=2)


def _draw_changes(axes: Axes, captures: Sequence[Capture], names: Sequence[str], vocabulary: Sequence[str]) -> None:
    """The relative change of each array since the capture before, against the step."""
    steps = np.array([capture.step for capture in captures[1:]], dtype=np.float64)
    changes = _changes(captures, names, vocabulary)
    colors = matplotlib.colormaps[ORDERED](np.linspace(0.0, 0.85, len(names)))
    for color, name in zip(colors, names, strict=True):
        y = changes[name]
        axes.plot(steps, y, color=color, marker=dotted(y), markersize=2.5, label=counted(literal(name), y))
    strides = set(np.diff([capture.step for capture in captures]).tolist())
    stride = f"\nin {strides.pop():,} steps" if len(strides) == 1 else ""
    whole_numbers(axes, steps, nbins=8)
    axes.set_xlabel("optimizer step")
    scaled(axes, f"relative change{stride}", np.concatenate(list(changes.values())))
    if not any(np.isfinite(y).any() for y in changes.values()):
        no_value(axes)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=len(names))


def _changes(captures: Sequence[Capture], names: Sequence[str], vocabulary: Sequence[str]) -> dict[str, Array]:
    """|R - R'| / |R'| of each array between neighbouring captures, without padding; nan where they do not compare."""
    changes: dict[str, list[float]] = {name: [] for name in names}
    before: dict[str, np.ndarray[Any, Any]] = {}
    for number, capture in enumerate(captures):
        kinds = Kinds.of(capture, vocabulary)
        now = {name: capture.read(name) for name in names if name in capture.names}
        now = {name: array[kinds.real_ST] if kinds.fit(array) else array for name, array in now.items()}
        if kinds.tokens_ST is not None:
            now["tokens"] = kinds.tokens_ST
        same = np.array_equal(before.get("tokens", ()), now.get("tokens", ()))
        for name in names if number else ():
            old, new = before.get(name), now.get(name)
            changes[name].append(math.nan if old is None or new is None or not same else _relative(old, new))
        before = now
    return {name: np.array(values) for name, values in changes.items()}


def _relative(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    if old.shape != new.shape or not {old.dtype.kind, new.dtype.kind} <= set("fiu"):
        return math.nan
    old, new = old.astype(np.float64).ravel(), new.astype(np.float64).ravel()
    with np.errstate(all="ignore"):
        value = float(np.linalg.norm(new - old) / np.linalg.norm(old))
    return value if math.isfinite(value) else math.nan


def principal_plane(rows_ND: Array) -> tuple[Array, tuple[float, float]]:
    """Rows on their first two principal components (N, 2), and the share of the variance that each explains.

    The sign of a component is that which makes its largest weight positive.
    """
    scale = np.abs(rows_ND).max() or 1.0
    centred_ND = rows_ND / scale - (rows_ND / scale).mean(axis=0)
    left, sizes, weights = np.linalg.svd(centred_ND, full_matrices=False)
    total = float((sizes**2).sum())
    plane_N2, shares = np.zeros((len(rows_ND), 2)), [0.0, 0.0]
    for k in range(min(2, len(sizes)) if total else 0):
        sign = np.sign(weights[k, np.argmax(np.abs(weights[k]))])
        plane_N2[:, k] = sign * left[:, k] * sizes[k] * scale
        shares[k] = float(sizes[k] ** 2) / total
    return plane_N2, (shares[0], shares[1])


def _rows(array: np.ndarray[Any, Any], kinds: Kinds) -> tuple[Array, Array, np.ndarray[Any, Any] | None]:
    """An array as rows (N, D), their positions, and their tokens where the rows are those of the token batch.

    (S, T, D) has a row for each sample and position that is no padding, any other shape one for each sample.
    """
    flat = array.reshape(-1, array.shape[-1]) if array.ndim == 3 else array.reshape(len(array), -1)
    positions_N = np.tile(np.arange(array.shape[1]), len(array)) if array.ndim == 3 else np.zeros(len(flat))
    tokens_N: np.ndarray[Any, Any] | None = None
    real = np.arange(len(flat))
    if kinds.fit(array) and kinds.tokens_ST is not None and kinds.real_ST is not None:
        tokens_N, real = kinds.tokens_ST.ravel(), np.flatnonzero(kinds.real_ST)
    chosen = np.array(spread(real.tolist(), _MOST_POINTS), dtype=np.intp)
    return flat[chosen].astype(np.float64), positions_N[chosen], None if tokens_N is None else tokens_N[chosen]


def _arrays(capture: Capture) -> list[str]:
    """The arrays that are hidden states: the residual streams where there are any, else all but tokens and attention."""
    residuals = [name for _, name in capture.numbered("residual")]
    attention = {name for _, name in capture.numbered("attention")}
    others = [name for name in capture.names if name != "tokens" and name not in attention]
    if len(set(others)) < len(others):
        raise RunError(f"{capture.path} is damaged (two arrays of one name); remove it")
    return residuals or others
