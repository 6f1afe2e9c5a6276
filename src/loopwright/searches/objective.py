"""The value of a trial: its recipe trained with each seed, in order, below the trial's directory.

value        the metric's last value, averaged over the seeds
diverged     the worst value there is (inf when minimising), for every metric; the seeds after it are not run
pruned       told to the storage as pruned; the seeds after it are not run
gate         a trial passes it when every seed does. One that does not keeps its value and is infeasible
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner

from loopwright.config.schema import Recipe
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.engine.stop import Pruned
from loopwright.errors import RunError
from loopwright.experiment import run
from loopwright.searches.judging import Judge
from loopwright.searches.study import Study

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
        stops = () if isinstance(found.pruner, NopPruner) else (Pruned(Judge(study, found, trial_id, index)),)
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
