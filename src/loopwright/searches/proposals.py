"""Asking for a trial: its sampler, made for this trial alone, and its values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study as OptunaStudy
from optuna.trial import FrozenTrial, Trial, TrialState

from loopwright.searches.samplers import quietly
from loopwright.searches.space import Entry
from loopwright.searches.study import Study
from loopwright.streams import Streams

# Optuna from 5.0 on is told a trial's constraints; before, its samplers ask for them.
_TOLD = hasattr(Trial, "set_constraint")


class PerTrial(BaseSampler):
    """A study's sampler. Made anew for each trial, with a seed of the trial's own, it has no state to lose."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._streams = Streams(study.sampler.seed)
        self._constraints = {} if _TOLD or not study.gated else {"constraints_func": constraints_of}
        self._made: tuple[int, BaseSampler] | None = None

    def of(self, trial: FrozenTrial) -> BaseSampler:
        """The sampler of one trial."""
        if self._made is None or self._made[0] != trial.number:
            seed = self._streams.seed("sampler", trial.number) % 2**32
            with quietly():
                self._made = trial.number, self._study.sampler.build(seed, self._study.space, self._constraints)
        return self._made[1]

    def before_trial(self, study: OptunaStudy, trial: FrozenTrial) -> None:
        self._made = None
        self.of(trial).before_trial(study, trial)

    def infer_relative_search_space(self, study: OptunaStudy, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: OptunaStudy, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with quietly():
            return self.of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: OptunaStudy, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.of(trial).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: OptunaStudy, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.of(trial).after_trial(study, trial, state, values)


class NoProposals(RandomSampler):
    """For processes that only report: attaching to a trial with it draws nothing and stores nothing."""


def constraints_of(trial: FrozenTrial) -> Sequence[float]:
    """Above 0 for a trial whose gate was not passed."""
    return (float(trial.user_attrs.get("gate_passed") is not True),)


def note_constraint(trial: Trial, passed: bool) -> None:
    """Tell Optuna whether a trial's gate was passed, before its value."""
    if _TOLD:
        trial.set_constraint("gate", float(not passed))


def distribution(entry: Entry) -> BaseDistribution:
    """What Optuna draws a key's values from."""
    if entry.choices is not None:
        return CategoricalDistribution(entry.labels)
    assert entry.low is not None
    if entry.type == "int":
        return IntDistribution(int(entry.low), int(entry.top), log=entry.log, step=int(entry.step or 1))
    return FloatDistribution(float(entry.low), float(entry.top), log=entry.log, step=entry.step)


def distributions(space: Mapping[str, Entry]) -> dict[str, BaseDistribution]:
    """A study's distributions, by key."""
    return {key: distribution(entry) for key, entry in space.items()}


def complete(study: OptunaStudy, trial_id: int, asked: Mapping[str, BaseDistribution]) -> FrozenTrial:
    """A trial with all its values. One whose asking was killed halfway gets those that it would have had."""
    frozen = study._storage.get_trial(trial_id)
    if asked.keys() <= frozen.params.keys():
        return frozen
    trial = Trial(study, trial_id)
    # Drawn again from the first one on: the draws follow each other.
    trial._cached_frozen_trial.params, trial._cached_frozen_trial.distributions = {}, {}
    for name, kind in asked.items():
        trial._suggest(name, kind)
    return study._storage.get_trial(trial_id)
