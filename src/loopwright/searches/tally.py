"""`Tally`: how many trials a study has, counted without looking at the finished ones again and again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Tally:
    """Trials by state. A finished trial never changes, so the finished ones at the beginning are counted once."""

    def __init__(self) -> None:
        self._settled: Counter[TrialState] = Counter()
        self._num_settled = 0
        self._rest: Sequence[FrozenTrial] = ()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Look at all trials of a study, in the order of their numbers."""
        index = self._num_settled
        while index < len(trials) and trials[index].state in _FINISHED:
            self._settled[trials[index].state] += 1
            index += 1
        self._num_settled, self._rest = index, trials[index:]

    def count(self, *states: TrialState) -> int:
        """How many trials are in one of the states."""
        return sum(self._settled[state] for state in states) + sum(trial.state in states for trial in self._rest)

    @property
    def done(self) -> int:
        """The trials that count."""
        return self.count(TrialState.COMPLETE, TrialState.PRUNED)

    @property
    def running(self) -> list[FrozenTrial]:
        return [trial for trial in self._rest if trial.state == TrialState.RUNNING]

    @property
    def waiting(self) -> int:
        """Trials that somebody has put into the storage to be run."""
        return self.count(TrialState.WAITING)
