"""What a search shows of itself while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from loopwright.searches.results import Ended
from loopwright.searches.study import Study


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study has come when a trial is told; best is None without a feasible trial, or with several metrics."""

    done: int
    trials: int
    log: Path
    best: float | None = None
    best_number: int | None = None


class Watcher:
    """Is shown what happens; does nothing by itself."""

    def told(self, trial: FrozenTrial, ended: Ended, progress: Progress) -> None:
        """A trial has been told to the storage."""

    def again(self, trial_id: int, error: str) -> None:
        """A trial is started again after a crash."""


class Best:
    """The best feasible trial so far."""

    def __init__(self, study: Study, found: optuna.Study) -> None:
        self._study = study
        self.value: float | None = None
        self.number: int | None = None
        self.done = 0
        for trial in found.get_trials(deepcopy=False):
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """Take a finished trial into account."""
        self.done += trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if trial.state != TrialState.COMPLETE or len(self._study.metrics) > 1:
            return
        if self._study.gated and trial.user_attrs.get("gate_passed") is not True:
            return
        value, sign = trial.values[0], 1 if self._study.directions[0] == "min" else -1
        if self.value is None or sign * value < sign * self.value:
            self.value, self.number = value, trial.number
