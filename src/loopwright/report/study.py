"""Figures of a study, from plain values: `history`, `importances`, and `front` for two metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    LIGHT_BLUE,
    ORANGE,
    headline,
    literal,
    no_value,
    scaled,
    whole_numbers,
)

Kind = Literal["completed", "infeasible", "pruned", "diverged", "failed"]
_VALUED: Mapping[Kind, str] = {"completed": "completed", "infeasible": "gate not passed"}
# What has no value that could be drawn; each has a row of ticks below the history.
_ENDED_EARLY: Mapping[Kind, str] = {"pruned": GREY, "diverged": ORANGE, "failed": INK}
_MOST_BARS = 15
# Beyond this many marks an SVG holds them as pixels: each would be a path of its own.
_MOST_VECTORS = 1000


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial: its number, how it ended, a value per metric (none but for `completed` and `infeasible`), parameters."""

    number: int
    kind: Kind
    values: tuple[float, ...] = ()
    params: Mapping[str, float | str] = field(default_factory=dict)


def history_figure(trials: Sequence[Trial], metric: str, mode: Literal["min", "max"]) -> Figure | None:
    """The value of every completed trial by its number, and the best so far; below, ticks for those that ended early.

    Trials that failed the gate are hollow and no best. None without trials.
    """
    if not trials:
        return None
    shown = sorted(trials, key=lambda trial: trial.number)
    early = {kind: [t.number for t in shown if t.kind == kind] for kind in _ENDED_EARLY}
    early = {kind: numbers for kind, numbers in early.items() if numbers}
    strip = 0.3 * len(early)
    figure = Figure(figsize=(6.4, 3.0 + strip), layout="constrained")
    ratios = [2.6, strip] if early else [2.6]
    panels = figure.subplots(len(ratios), 1, squeeze=False, sharex=True, height_ratios=ratios).ravel()
    axes: Axes = panels[0]
    drawn = [(t.number, t.values[0], t.kind) for t in shown if t.values and math.isfinite(t.values[0])]
    y = np.array([value for _, value, _ in drawn], dtype=np.float64)
    flat = len(drawn) > _MOST_VECTORS
    for kind in _VALUED:
        marks = [(number, value) for number, value, is_kind in drawn if is_kind == kind]
        if marks:
            _scatter(axes, marks, kind, many=flat)
    best = _best_so_far([(number, value) for number, value, kind in drawn if kind == "completed"], mode)
    numbers = np.array([t.number for t in shown], dtype=np.float64)
    if best:
        x, so_far = (np.array(column) for column in zip(*best, strict=True))
        end = np.append(x, numbers.max()), np.append(so_far, so_far[-1])
        axes.step(*end, where="post", color=GREEN, label="best so far", zorder=3)
        axes.plot(x[-1:], so_far[-1:], "o", color=GREEN, markersize=5, zorder=4)
        axes.annotate(
            f"{so_far[-1]:.4g}, trial {x[-1]:,.0f}",
            (x[-1], so_far[-1]),
            xytext=(0, -9 if mode == "min" else 9),
            textcoords="offset points",
            ha="right" if x[-1] > 0.5 * numbers.max() else "left",
            va="top" if mode == "min" else "bottom",
            fontsize=8,
            color=GREEN,
        )
    if len(y):
        scaled(axes, literal(metric), y)
        axes.margins(y=0.16)
        _framed_legend(axes, "upper right" if mode == "min" else "lower right")
    else:
        axes.set_ylabel(literal(metric))
        no_value(axes)
    if early:
        _draw_early(panels[1], early, flat=len(shown) > _MOST_VECTORS)
    whole_numbers(panels[-1], numbers, nbins=8)
    panels[-1].set_xlabel("trial")
    said = [f"{sum(t.kind in ('completed', 'infeasible') for t in shown):,} of {len(shown):,} trials completed"]
    said += [f"{len(found):,} {kind}" for kind, found in early.items()]
    headline(figure, ", ".join(said))
    return figure


def _scatter(axes: Axes, marks: Sequence[tuple[float, float]], kind: Kind, *, many: bool) -> None:
    """Dots with an edge while they can be told apart, else small ones that add up; hollow where the gate was not passed."""
    color, hollow = (BLUE, False) if kind == "completed" else (GREY, True)
    x, y = zip(*marks, strict=True)
    axes.scatter(
        x,
        y,
        s=3 if many else 14,
        facecolors="none" if hollow else color if many else LIGHT_BLUE,
        edgecolors="none" if many and not hollow else color,
        linewidths=0.3 if many else 0.7,
        alpha=0.5 if many else 1,
        label=_VALUED[kind],
        rasterized=many,
        zorder=2,
    )


def _framed_legend(axes: Axes, where: Literal["upper right", "lower right", "best"]) -> None:
    """A legend that can be read on top of marks."""
    axes.legend(loc=where, frameon=True, facecolor="white", edgecolor="none", framealpha=0.9).set_zorder(6)


def _best_so_far(found: Sequence[tuple[int, float]], mode: Literal["min", "max"]) -> list[tuple[int, float]]:
    best: list[tuple[int, float]] = []
    for number, value in found:
        if not best or (value < best[-1][1] if mode == "min" else value > best[-1][1]):
            best.append((number, value))
    return best


def _draw_early(axes: Axes, early: Mapping[Kind, Sequence[int]], *, flat: bool) -> None:
    for row, (kind, numbers) in enumerate(early.items()):
        axes.plot(
            numbers,
            [row] * len(numbers),
            "|",
            color=_ENDED_EARLY[kind],
            markersize=7,
            alpha=0.6 if flat else 1,
            rasterized=flat,
        )
    axes.set_yticks(range(len(early)), list(early))
    axes.set_ylim(len(early) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)


def importances_figure(importances: Mapping[str, float], metric: str, num_trials: int) -> Figure | None:
    """A bar per searched key: the share of the value's variance that it accounts for. None without keys."""
    if not importances:
        return None
    ranked = sorted(importances.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    figure = Figure(figsize=(5.2, 0.8 + 0.28 * len(ranked)), layout="constrained")
    axes = figure.add_subplot()
    shares = [share for _, share in ranked]
    rows = range(len(ranked))
    axes.barh(rows, shares, color=BLUE, height=0.65)
    for row, share in zip(rows, shares, strict=True):
        axes.annotate(f"{share:.2f}", (share, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(rows, [literal(short(key, 40)) for key, _ in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * max([*shares, 1e-9]))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("importance (share of the variance, fANOVA)")
    said = f"what {literal(metric)} depends on, from {num_trials:,} completed trials"
    said += f"; {len(ranked)} of {len(importances)} keys" if len(ranked) < len(importances) else ""
    headline(figure, said)
    return figure


def front_figure(
    trials: Sequence[Trial], front: Sequence[int], metrics: Sequence[str], modes: Sequence[Literal["min", "max"]]
) -> Figure | None:
    """Two metrics against each other; members of the Pareto front, named by their numbers, are joined.

    None for other than two metrics, or where no trial has both.
    """
    marks = [t for t in trials if len(t.values) == 2 and all(map(math.isfinite, t.values))]
    if len(metrics) != 2 or not marks:
        return None
    figure = Figure(figsize=(4.8, 3.8), layout="constrained")
    axes = figure.add_subplot()
    members = sorted((t for t in marks if t.number in set(front)), key=lambda t: t.values)
    for kind in _VALUED:
        found = [(t.values[0], t.values[1]) for t in marks if t.kind == kind]
        if found:
            _scatter(axes, found, kind, many=len(marks) > _MOST_VECTORS)
    if members:
        x, y = zip(*(t.values for t in members), strict=True)
        axes.plot(x, y, ":o", color=GREEN, markersize=4.5, linewidth=1.0, label="Pareto front", zorder=3)
        left, down = (mode == "min" for mode in modes)
        for trial in members if len(members) <= 12 else ():
            axes.annotate(
                str(trial.number),
                (trial.values[0], trial.values[1]),
                xytext=(-4 if left else 4, -4 if down else 4),
                textcoords="offset points",
                ha="right" if left else "left",
                va="top" if down else "bottom",
                fontsize=7,
                color=GREEN,
            )
    values = np.array([t.values for t in marks], dtype=np.float64)
    scaled(axes, literal(metrics[1]), values[:, 1])
    if values[:, 0].min() > 0 and values[:, 0].max() > 30 * values[:, 0].min():
        axes.set_xscale("log")
        axes.set_xlabel(f"{literal(metrics[0])} (log scale)")
    else:
        axes.set_xlabel(literal(metrics[0]))
        axes.xaxis.set_major_locator(MaxNLocator(6))
    _framed_legend(axes, "best")
    found_here = "1 trial" if len(members) == 1 else f"{len(members)} trials"
    headline(figure, f"{found_here} of which no other is better in both, of {len(marks):,} completed")
    return figure


def short(name: str, most: int = 16) -> str:
    """A name that fits: its beginning, and a mark that there is more."""
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
