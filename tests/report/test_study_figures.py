"""Figures of a study: what is drawn is what was given, every kind of end shows, and many trials stay small files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from loopwright.report.parallel import Axis, parallel_figure
from loopwright.report.study import Kind, Trial, front_figure, history_figure, importances_figure
from loopwright.report.style import GREEN, applied, rendered
from loopwright.streams import Streams
from support.records import shows, texts

SPACE = {
    "optim.lr": Axis(1e-4, 1e-1, log=True),
    "model.hidden": Axis(choices=("[8]", "[16,16]", "[32]")),
    "train.batch_size": Axis(8.0, 72.0),
}


def trial(number: int, *values: float, kind: Kind = "completed", lr: float = 1e-2, hidden: str = "[8]") -> Trial:
    return Trial(number, kind, values, {"optim.lr": lr, "model.hidden": hidden, "train.batch_size": 40.0})


def drawn(make: Callable[..., Figure | None], *given: Any) -> Figure:
    with applied():
        figure = make(*given)
    assert figure is not None
    return figure


def svg(figure: Figure, path: Path) -> Path:
    with applied():
        path.write_bytes(rendered(figure, "svg"))
    return path


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


MIXED = [
    trial(0, 0.5),
    trial(1, 0.7),
    trial(2, 0.3),
    trial(3, kind="pruned"),
    trial(4, 0.1, kind="infeasible"),
    trial(5, kind="diverged"),
    trial(6, kind="failed"),
    trial(7, 0.4),
    trial(8, kind="pruned"),
]


def test_history_has_every_value_and_the_best_so_far(tmp_path: Path) -> None:
    figure = drawn(history_figure, MIXED[::-1], "val_loss", "min")
    axes, early = figure.axes
    assert line(axes, "best so far") == ([0, 2, 8], [0.5, 0.3, 0.3])  # no trial that failed the gate is a best one
    assert axes.get_ylabel() == "val_loss" and early.get_xlabel() == "trial"
    assert [label.get_text() for label in early.get_yticklabels()] == ["pruned", "diverged", "failed"]
    assert [np.asarray(one.get_xdata()).tolist() for one in early.get_lines()] == [[3, 8], [5], [6]]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("0.3, trial 2", (2, 0.3))]
    file = svg(figure, tmp_path / "h.svg")
    assert shows(file, [0, 1, 2, 7], [0.5, 0.7, 0.3, 0.4])
    said = {"completed", "gate not passed", "best so far", "5 of 9 trials completed, 2 pruned, 1 diverged, 1 failed"}
    assert said <= set(texts(file))


def test_history_that_is_maximised_climbs() -> None:
    axes, _ = drawn(history_figure, MIXED, "val_r2", "max").axes
    assert line(axes, "best so far") == ([0, 1, 8], [0.5, 0.7, 0.7])


def test_history_without_a_value_says_so_and_without_trials_is_none(tmp_path: Path) -> None:
    figure = drawn(history_figure, [trial(0, kind="failed"), trial(1, kind="failed")], "val_loss", "min")
    assert "no finite value" in texts(svg(figure, tmp_path / "h.svg"))
    assert history_figure([], "val_loss", "min") is None
    (axes,) = drawn(history_figure, [trial(0, 0.5)], "val_$x^2_loss", "min").axes  # no formula is made of a name
    assert axes.get_ylabel() == r"val_\$x^2_loss"


def test_an_axis_places_values_between_its_bounds() -> None:
    lr, hidden, batch = SPACE.values()
    assert [lr.place(value) for value in (1e-4, 10**-2.5, 1e-1)] == pytest.approx([0, 0.5, 1])
    assert [hidden.place(value) for value in ("[8]", "[16,16]", "[32]")] == [0, 0.5, 1]
    assert [batch.place(value) for value in (8, 24, 72)] == [0, 0.25, 1]
    assert math.isnan(hidden.place("[64]")) and math.isnan(lr.place(-1.0))
    assert Axis(3, 3).place(3) == Axis(choices=("a",)).place("a") == 0.5
    assert [name for _, name in sorted(lr.ticks())] == ["0.0001", "0.001", "0.01", "0.1"]
    assert [name for _, name in hidden.ticks()] == ["[8]", "[16,16]", "[32]"]
    assert sorted(batch.ticks())[0] == (0.0, "8") and sorted(batch.ticks())[-1] == (1.0, "72")
    assert Axis(3, 3).ticks() == [(0.5, "3")]
    many = Axis(choices=tuple(f"choice {number}" for number in range(40)))
    assert [name for _, name in many.ticks()] == ["choice 0", "choice 39"]


def test_parallel_draws_a_line_per_completed_trial_and_the_best_in_green(tmp_path: Path) -> None:
    trials = [
        trial(0, 0.4, lr=1e-4, hidden="[32]"),
        trial(1, 0.2, lr=1e-1, hidden="[16,16]"),
        trial(2, 0.3),
        trial(3, 0.1, kind="infeasible"),
        trial(4, kind="pruned"),
        Trial(5, "completed", (0.01,), {"optim.lr": 1e-2}),  # it lacks a key
    ]
    figure = drawn(parallel_figure, trials, SPACE, "val_loss", "min")
    axes = figure.axes[0]
    (lines,) = [one for one in axes.collections if isinstance(one, LineCollection)]
    heights = [np.asarray(path)[:, 1].tolist() for path in lines.get_segments()]
    assert heights == [pytest.approx([0, 1, 0.5, 1]), pytest.approx([2 / 3, 0, 0.5, 0.5])]  # the worst first
    (best,) = [one for one in axes.get_lines() if one.get_color() == GREEN]
    assert np.asarray(best.get_ydata()).tolist() == pytest.approx([1, 0.5, 0.5, 0])
    file = svg(figure, tmp_path / "p.svg")
    assert {"3 completed trials, by rank; green: the best (trial 1)", "val_loss", "(log)", "[16,16]", "best"} <= set(
        texts(file)
    )
    best_of = drawn(parallel_figure, trials, SPACE, "val_loss", "max")
    assert any("green: the best (trial 0)" in text for text in texts(svg(best_of, tmp_path / "q.svg")))


def test_parallel_needs_two_trials_and_a_key() -> None:
    assert parallel_figure([trial(0, 0.5), trial(1, kind="pruned")], SPACE, "val_loss", "min") is None
    assert parallel_figure([trial(0, 0.5), trial(1, 0.4)], {}, "val_loss", "min") is None


def test_importances_are_bars_from_the_largest_to_the_smallest(tmp_path: Path) -> None:
    shares = {"optim.lr": 0.2, "model.hidden": 0.7, "b": 0.05, "a": 0.05}
    figure = drawn(importances_figure, shares, "val_loss", 40)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.7, 0.2, 0.05, 0.05]  # type: ignore[attr-defined]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["model.hidden", "optim.lr", "a", "b"]
    assert {"0.70", "0.20", "what val_loss depends on, from 40 completed trials"} <= set(
        texts(svg(figure, tmp_path / "i.svg"))
    )
    assert importances_figure({}, "val_loss", 0) is None
    (axes,) = drawn(importances_figure, {"optim.lr": 0.0}, "val_loss", 40).axes
    assert axes.get_xlim()[1] > 0
    many = drawn(importances_figure, {f"key{number}": 0.01 for number in range(30)}, "val_loss", 40)
    assert any("15 of 30 keys" in text for text in texts(svg(many, tmp_path / "m.svg")))


def test_the_front_is_joined_and_its_members_are_named(tmp_path: Path) -> None:
    trials = [trial(0, 0.5, 0.5), trial(1, 0.4, 0.6), trial(2, 0.6, 0.9), trial(3, 0.2, 0.9, kind="infeasible")]
    figure = drawn(front_figure, [*trials, trial(4, kind="pruned")], [1, 2], ("val_loss", "val_r2"), ("min", "max"))
    (axes,) = figure.axes
    assert line(axes, "Pareto front") == ([0.4, 0.6], [0.6, 0.9])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("val_loss", "val_r2")
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert "2 trials of which no other is better in both, of 4 completed" in texts(svg(figure, tmp_path / "f.svg"))
    assert front_figure(trials, [1], ("val_loss",), ("min",)) is None
    assert front_figure([trial(0, kind="pruned")], [], ("val_loss", "val_r2"), ("min", "max")) is None
    wide = drawn(front_figure, [trial(0, 1.0, 1.0), trial(1, 100.0, 0.1)], [0, 1], ("a", "b"), ("min", "min"))
    assert wide.axes[0].get_xscale() == "log"


def many(count: int) -> Sequence[Trial]:
    draw = Streams(0).numpy("trials")
    kinds: list[Kind] = ["completed", "completed", "completed", "infeasible", "pruned"]
    found = []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        values = (float(draw.lognormal()), float(draw.normal())) if kind in ("completed", "infeasible") else ()
        hidden = SPACE["model.hidden"].choices[int(draw.integers(3))]
        found.append(trial(number, *values, kind=kind, lr=float(10 ** draw.uniform(-4, -1)), hidden=hidden))
    return found


def test_figures_of_many_trials_are_small_files(tmp_path: Path) -> None:
    trials = many(20_000)
    numbers = [one.number for one in trials if one.kind == "completed"][:200]
    figures = [
        drawn(history_figure, trials, "val_loss", "min"),
        drawn(parallel_figure, trials, SPACE, "val_loss", "min"),
        drawn(front_figure, trials, numbers, ("val_loss", "val_r2"), ("min", "max")),
    ]
    sizes = [svg(figure, tmp_path / "many.svg").stat().st_size for figure in figures]
    assert max(sizes) < 2**20, sizes
    said = texts(svg(figures[1], tmp_path / "many.svg"))
    assert any("12,000 completed trials" in text for text in said) and any(
        "400 of them are drawn" in text for text in said
    )


def test_nine_keys_are_drawn_at_most(tmp_path: Path) -> None:
    space = {f"key{number}": Axis() for number in range(12)}
    trials = [Trial(n, "completed", (float(n),), {key: 0.5 for key in space}) for n in range(3)]
    figure = drawn(parallel_figure, trials, space, "val_loss", "min")
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names == [*list(space)[:9], "val_loss"]
    assert any("9 of 12 keys, the most important" in text for text in texts(svg(figure, tmp_path / "p.svg")))


def test_the_same_trials_give_the_same_bytes() -> None:
    for make, given in (
        (history_figure, (MIXED, "val_loss", "min")),
        (parallel_figure, (MIXED, SPACE, "val_loss", "min")),
        (importances_figure, ({"a": 0.5, "b": 0.5}, "val_loss", 9)),
    ):
        with applied():
            images = [rendered(drawn(make, *given), "svg") for _ in range(2)]
        assert images[0] == images[1]
