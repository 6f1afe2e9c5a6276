"""Which trials of a study count, which is the best, and what it says of the searched ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from loopwright.engine.task import Direction
from loopwright.searches.space import Entry

Kind = Literal["completed", "infeasible", "pruned", "diverged", "failed", "unfinished"]
_NEAR = 0.05  # of a range


def kind_of(trial: FrozenTrial, gated: bool) -> Kind:
    """How a trial counts. `infeasible` is one that did not pass the recipe's gate, `gated` whether it has one."""
    if trial.state == TrialState.PRUNED:
        return "pruned"
    if not trial.state.is_finished():
        return "unfinished"
    if trial.user_attrs.get("status") == "diverged":
        return "diverged"
    if trial.state == TrialState.FAIL or trial.values is None:
        return "failed"
    if not all(map(math.isfinite, trial.values)):
        return "diverged"
    return "infeasible" if gated and trial.user_attrs.get("gate_passed") is not True else "completed"


def ranked(trials: Sequence[FrozenTrial], direction: Direction) -> list[FrozenTrial]:
    """Trials by their first value, the best first, among equals the earlier."""
    sign = 1.0 if direction == "min" else -1.0
    return sorted(trials, key=lambda trial: (sign * trial.values[0], trial.number))


def front(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> list[FrozenTrial]:
    """The Pareto front: trials that no other one equals in all values and beats in one; by their first value.

    Of several with the same values the earliest is its member. Letters of shapes: N trials, M metrics, K members.
    """
    signs = np.array([1.0 if direction == "min" else -1.0 for direction in directions])
    points_NM = signs * np.array([trial.values for trial in trials]).reshape(len(trials), len(signs))
    # What dominates a point stands before it in this order.
    order = np.lexsort((np.array([trial.number for trial in trials]), *points_NM.T[::-1]))
    kept_KM = np.empty_like(points_NM)
    members: list[FrozenTrial] = []
    for index in order.tolist():
        point_M, size = points_NM[index], len(members)
        if not (kept_KM[:size] <= point_M).all(axis=1).any():
            kept_KM[size] = point_M
            members.append(trials[index])
    return members


def near_bounds(params: Mapping[str, Any], space: Mapping[str, Entry]) -> Iterator[str]:
    """A line for each numeric value within 5 % of a bound of its range, of a logarithmic range in the logarithm."""
    for key, entry in space.items():
        bounds = entry.bounds
        if bounds is None or bounds[0] == bounds[1] or key not in params:
            continue
        value, (low, high) = params[key], bounds
        scale = math.log if entry.log else float
        place = (scale(value) - scale(low)) / (scale(high) - scale(low))
        for name, bound, distance in (("lower", low, place), ("upper", high, 1 - place)):
            if distance <= _NEAR * (1 + 1e-9):
                where = "at" if value == bound else "within 5 % of"
                yield (
                    f"`{key}` is {value:.6g} in the best trial, {where} the {name} bound {bound:g} of its range; the best may "
                    f"lie beyond: widen `space.{key}` in a study of another name"
                )
