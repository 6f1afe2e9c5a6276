"""Which trials a coordinator looks after next: those that a dead one has left, else new ones."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial

from loopwright.searches.directory import Slot, StudyDirectory
from loopwright.searches.grid import ExactGrid
from loopwright.searches.proposals import complete, distributions
from loopwright.searches.samplers import GridSettings
from loopwright.searches.storage import alone
from loopwright.searches.study import Study
from loopwright.searches.tally import Tally

# The trial's user attribute that says who looks after it, and of which batch it is.
COORDINATOR = "coordinator"


class Batch(NamedTuple):
    """Trials that are asked for together: the number of the first, and how many there are to be."""

    first: int
    size: int


@dataclass(frozen=True, slots=True)
class Owner:
    """The attribute `coordinator`: a coordinator's name, and with `batch` the trial's batch."""

    name: str
    batch: Batch | None = None

    def __str__(self) -> str:
        return self.name if self.batch is None else f"{self.name}#{self.batch.first}+{self.batch.size}"

    @classmethod
    def of(cls, trial: FrozenTrial) -> Owner:
        """A trial's owner; one without a name where the process was killed before it could say."""
        name, _, batch = str(trial.user_attrs.get(COORDINATOR, "")).partition("#")
        first, _, size = batch.partition("+")
        return cls(name, Batch(int(first), int(size)) if size else None)


@dataclass(frozen=True, slots=True)
class Asked:
    """A trial to run. `error` is what keeps it from being run."""

    trial_id: int
    adopted: bool = False
    error: str = ""


class Asker:
    """Asks for trials, never for more than the study is to have, whoever else asks."""

    def __init__(self, study: Study, found: optuna.Study, directory: StudyDirectory, slot: Slot) -> None:
        self.study, self.found, self.directory, self.slot = study, found, directory, slot
        self._distributions = distributions(study.space)
        self._tally = Tally()

    def ask(self, mine: Container[int]) -> list[Asked]:
        """What to run next beside the trials that are looked after already (`mine`); nothing where there is no more.

        One trial, or with `batch` as many. Trials of a dead coordinator come first, and the rest of a batch whose asking
        was killed.
        """
        with alone(self.study, self.directory):
            trials = self.found.get_trials(deepcopy=False)
            self._tally.update(trials)
            orphans = [trial for trial in self._orphans() if trial._trial_id not in mine]
            asked = [self._adopt(trial) for trial in orphans]
            left = self.study.trials - self._tally.done - len(self._tally.running)
            if orphans:
                batch, size = _unfinished(orphans, trials)
            elif self.study.batch is not None:
                size = min(self.study.batch, left)
                batch = Batch(len(trials), size)
            else:
                batch, size = None, 1
            for _ in range(min(size, left)):
                if self._exhausted() and not self._tally.waiting:
                    break
                asked.append(self._new(batch))
        return asked

    def _new(self, batch: Batch | None) -> Asked:
        trial = self.found.ask()
        self.directory.attempts_file(trial._trial_id).unlink(missing_ok=True)  # of a storage that somebody has removed
        trial.set_user_attr(COORDINATOR, str(Owner(self.slot.name, batch)))
        try:
            for name, distribution in self._distributions.items():
                trial._suggest(name, distribution)
        except ValueError as error:  # an enqueued value that is none of its key's choices
            return Asked(trial._trial_id, error=str(error))
        return Asked(trial._trial_id)

    def _adopt(self, trial: FrozenTrial) -> Asked:
        owner = Owner.of(trial)
        if owner.name != self.slot.name:
            mine = str(Owner(self.slot.name, owner.batch))
            self.found._storage.set_trial_user_attr(trial._trial_id, COORDINATOR, mine)
        try:
            complete(self.found, trial._trial_id, self._distributions)
        except ValueError as error:
            return Asked(trial._trial_id, error=str(error))
        return Asked(trial._trial_id, adopted=True)

    def _orphans(self) -> Iterator[FrozenTrial]:
        """Running trials that no other coordinator looks after, in the order of their numbers."""
        lives: dict[str, bool] = {"": False, self.slot.name: False}
        for trial in self._tally.running:
            name = Owner.of(trial).name
            if name not in lives:
                lives[name] = self.directory.lives(name)
            if not lives[name]:
                yield trial

    def _exhausted(self) -> bool:
        """Whether a grid has given out every combination; other samplers never have."""
        study = self.study
        if not isinstance(study.sampler, GridSettings):
            return False
        grid = ExactGrid({key: entry.values for key, entry in study.space.items()}, study.sampler.seed)
        return grid.next_id(self.found.get_trials(deepcopy=False)) is None


def _unfinished(orphans: Sequence[FrozenTrial], trials: Sequence[FrozenTrial]) -> tuple[Batch | None, int]:
    """The batch of adopted trials and how many of it were never asked for: its asking was killed."""
    batches = {Owner.of(trial).batch for trial in orphans}
    batch = batches.pop() if len(batches) == 1 else None
    if batch is None:
        return None, 0
    return batch, batch.size - sum(Owner.of(trial).batch == batch for trial in trials[batch.first :])
