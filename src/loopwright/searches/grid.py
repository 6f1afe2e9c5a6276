"""`ExactGrid`: every combination of a space without continuous keys, once, in a seeded order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from loopwright.streams import Streams

_ATTRIBUTE = "grid_id"


class ExactGrid(BaseSampler):
    """Gives each trial the next combination that no trial has, running and failed ones included.

    Optuna's own grid takes a trial's number for its place, which an enqueued or a failed trial shifts, and ends a study
    from inside `tell`, which only its own loop may.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], seed: int) -> None:
        self._values = {name: list(values[name]) for name in sorted(values)}
        self._seed = seed

    @property
    def size(self) -> int:
        return int(np.prod([len(values) for values in self._values.values()], dtype=object))

    def next_id(self, trials: Sequence[FrozenTrial]) -> int | None:
        """The first combination of the order that none of the trials has; None once every one has been given out."""
        taken = {trial.system_attrs.get(_ATTRIBUTE) for trial in trials}
        return next((index for index in self._order if index not in taken), None)

    @property
    def _order(self) -> Sequence[int]:
        return _permutation(self._seed, self.size)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if _ATTRIBUTE in trial.system_attrs or "fixed_params" in trial.system_attrs:
            return
        index = self.next_id(study.get_trials(deepcopy=False))
        assert index is not None, "asked for more trials than the grid has"
        study._storage.set_trial_system_attr(trial._trial_id, _ATTRIBUTE, index)
        trial.system_attrs[_ATTRIBUTE] = index

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # An enqueued trial that names some keys only gets the first value of the others.
        index = int(trial.system_attrs.get(_ATTRIBUTE, 0))
        for name, values in self._values.items():
            index, place = divmod(index, len(values))
            if name == param_name:
                return values[place]
        raise KeyError(param_name)


@lru_cache(maxsize=4)
def _permutation(seed: int, size: int) -> Sequence[int]:
    order: list[int] = Streams(seed).numpy("grid").permutation(size).tolist()
    return order
