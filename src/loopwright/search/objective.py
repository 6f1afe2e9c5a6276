"""The value of a trial: its recipe trained with each seed, in order, below the trial's directory.

value        the metric's last value, averaged over the seeds
diverged     the worst value there is (inf when minimising), for every metric; the seeds after it are not run
pruned       told to the storage as pruned; the seeds after it are not run
gate         a trial passes it when every seed does. One that does not keeps its value and is infeasible
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner

from loopwright.config.schema import Recipe
from loopwright.engine.history import History
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.engine.stop import Pruned
from loopwright.errors import RunError
from loopwright.experiment import run
from loopwright.search.study import Study

# The worst of the seeds' statuses is the trial's.
_WORST_FIRST = (
    "interrupted",
    "diverged",
    "pruned",
    "gate_failed",
    "budget_reached",
    "early_stopped",
    "completed",
    "gate_passed",
)


def train_trial(
    study: Study,
    found: optuna.Study,
    trial_id: int,
    recipe: Recipe,
    overrides: Sequence[str],
    folder: Path,
    hooks: Sequence[Hook] = (),
) -> dict[str, Any]:
    """Train a trial, or go on with it, and say how it went: status, values, runs, epochs, seconds, gate_passed."""
    outcomes: list[Outcome] = []
    for index, seed in enumerate(study.seeds):
        one = recipe.model_copy(update={"seed": seed, "seeds": None})
        stops = () if isinstance(found.pruner, NopPruner) else (Pruned(_Judge(study, found, trial_id, index)),)
        outcomes.append(run(one, out=folder, resume=True, overrides=overrides, hooks=hooks, stops=stops))
        if outcomes[-1].status in ("interrupted", "diverged", "pruned"):
            break
    return facts(study, outcomes)


def facts(study: Study, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What a trial's runs amount to. Raises RunError where a metric has no value."""
    status = min((outcome.status for outcome in outcomes), key=_WORST_FIRST.index)
    values = (
        None
        if status in ("interrupted", "pruned")
        else [_value(study, index, status, outcomes) for index in range(len(study.metrics))]
    )
    gates = [outcome.gate_passed for outcome in outcomes]
    return {
        "status": status,
        "values": values,
        "runs": [outcome.run for outcome in outcomes if outcome.run is not None],
        "epochs": sum(outcome.epochs for outcome in outcomes),
        "seconds": math.fsum(outcome.seconds for outcome in outcomes),
        **({"gate_passed": all(gates) and len(gates) == len(study.seeds)} if study.gated else {}),
    }


def _value(study: Study, index: int, status: str, outcomes: Sequence[Outcome]) -> float:
    if status == "diverged":
        return study.worst(index)
    metric = study.metrics[index]
    values = [(outcome.last or {}).get(metric) for outcome in outcomes]
    if any(value is None for value in values):
        raise RunError(f"{metric} has no value at the end of the training; search for a metric that is measured there")
    mean = math.fsum(value for value in values if value is not None) / len(values)
    return mean if math.isfinite(mean) else study.worst(index)


class _Judge:
    """Reports a seed's epochs to the storage and asks the pruner. Steps count on from seed to seed.

    After a resume, epochs that were reported before go by in silence: each was judged when it was new. The newest one is
    judged again, since the process may have been killed in between.
    """

    def __init__(self, study: Study, found: optuna.Study, trial_id: int, seed_index: int) -> None:
        self.study, self.found, self.trial_id = study, found, trial_id
        self.first = seed_index * study.epochs_per_seed
        self._storage = found._storage
        reported: Mapping[int, float] = self._storage.get_trial(trial_id).intermediate_values
        self._newest = max(reported, default=0)

    def __call__(self, history: History) -> bool:
        row = history.last or {}
        value, step = row.get(self.study.metrics[0]), self.first + int(row.get("epoch") or 0)
        if value is None or step < self._newest:
            return False
        if step > self._newest:
            self._storage.set_trial_intermediate_value(self.trial_id, step, value)
            self._newest = step
        self.found._thread_local.cached_all_trials = None
        return bool(self.found.pruner.prune(self.found, self._storage.get_trial(self.trial_id)))
