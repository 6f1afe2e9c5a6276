"""`Judge`: the stop rule that reports a trial's epochs to the storage and asks the pruner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from loopwright.engine.history import History
from loopwright.searches.study import Study

# The trial's system attribute that keeps the step at which it was pruned, and what the pruner noted in saying so.
_PRUNED = "loopwright:pruned"


class Judge:
    """Reports the epochs of one seed and says whether its trial is to end. Steps count on from seed to seed.

    After a resume, epochs that were reported before go by in silence: each was judged when it was new. The newest one is
    judged again, to the same end, since the process may have been killed in between.
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
        return self._prunes(step)

    def _prunes(self, step: int) -> bool:
        trial = self._storage.get_trial(self.trial_id)
        before = trial.system_attrs.get(_PRUNED)
        if before is not None and before["step"] == step:
            noted: Mapping[str, Any] = before["noted"]
            pruned = True
        else:
            # With `batch`, who is faster must not matter: the others of the batch are not seen before all are told.
            seen = _Seen(self._storage, self.trial_id, running=self.study.batch is None)
            study = copy(self.found)
            study._storage = seen  # type: ignore[assignment]
            pruned, noted = bool(self.found.pruner.prune(study, trial)), seen.noted
            if pruned and noted:
                self._storage.set_trial_system_attr(self.trial_id, _PRUNED, {"step": step, "noted": noted})
        for key, value in noted.items():
            self._storage.set_trial_system_attr(self.trial_id, key, value)
        return pruned


class _Seen:
    """A storage as a pruner sees it. What it notes of the trial (successive halving counts rungs) is `noted`, not written.

    Without `running`, trials that have not ended are left out, the judged one excepted.
    """

    def __init__(self, storage: Any, trial_id: int, *, running: bool) -> None:
        self._storage, self._trial_id, self._running = storage, trial_id, running
        self.noted: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Sequence[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials: list[FrozenTrial] = self._storage.get_all_trials(study_id, deepcopy=deepcopy, states=states)
        if self._running:
            return trials
        return [trial for trial in trials if trial.state.is_finished() or trial._trial_id == self._trial_id]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self.noted[key] = value
