"""A study's figures: its trials and ranges as the plain values that `report` draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from matplotlib.figure import Figure
from optuna.trial import FrozenTrial

from loopwright.report.parallel import Axis, parallel_figure
from loopwright.report.study import Trial, front_figure, history_figure, importances_figure
from loopwright.searches.choosing import Kind
from loopwright.searches.importances import MOST
from loopwright.searches.space import Entry
from loopwright.searches.study import Study


def figures(
    study: Study,
    trials: Sequence[FrozenTrial],
    kinds: Mapping[int, Kind],
    front: Sequence[int],
    importances: Sequence[Mapping[str, float] | None],
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    """The names of the figures and what draws them. `kinds` by the id of the trial, `front` the numbers of its members."""
    shown = [_plain(trial, kind, study) for trial in trials if (kind := kinds[trial._trial_id]) != "unfinished"]
    for index, (metric, mode) in enumerate(zip(study.metrics, study.directions, strict=True)):
        suffix = f"-{metric}" if len(study.metrics) > 1 else ""
        single = [replace(trial, values=trial.values[index : index + 1]) for trial in shown]
        shares = importances[index]
        keys = list(study.space) if shares is None else list(shares)
        space = {key: _axis(study.space[key]) for key in keys}
        num_valued = sum(bool(trial.values) for trial in single)
        yield f"history{suffix}", partial(history_figure, single, metric, mode)
        yield f"parallel{suffix}", partial(parallel_figure, single, space, metric, mode)
        yield f"importances{suffix}", partial(importances_figure, shares or {}, metric, min(num_valued, MOST))
    yield "front", partial(front_figure, shown, front, study.metrics, study.directions)


def _plain(trial: FrozenTrial, kind: Kind, study: Study) -> Trial:
    assert kind != "unfinished"
    values = tuple(trial.values) if kind in ("completed", "infeasible") else ()
    params = {key: value if study.space[key].numeric else str(value) for key, value in trial.params.items()}
    return Trial(trial.number, kind, values, params)


def _axis(entry: Entry) -> Axis:
    if entry.bounds is None:
        return Axis(choices=tuple(map(str, entry.labels)))
    return Axis(*entry.bounds, log=entry.log)
