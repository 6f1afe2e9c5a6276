"""The work of a search for `drive`: trials are started as jobs, and told what they came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from loopwright import clock
from loopwright.searches.asking import Asked, Asker
from loopwright.searches.directory import Slot, StudyDirectory
from loopwright.searches.progress import Best, Progress, Watcher
from loopwright.searches.proposals import note_constraint
from loopwright.searches.results import Ended, judge, recorded
from loopwright.searches.storage import attach
from loopwright.searches.study import Study
from loopwright.sweeps import attempts
from loopwright.sweeps.ending import FIRST_REST, LONGEST_REST
from loopwright.sweeps.launcher import Job, JobState

WORKER = "loopwright.searches.worker"
# Trials that fail one after the other: what is wrong with them is wrong with the recipe.
_FAILURES_IN_A_ROW = 5


@dataclass
class _Mine:
    """A trial that this coordinator looks after."""

    attempts_before: int = 0
    crashes: int = 0
    rest: float = FIRST_REST
    not_before: float = 0.0
    cancelled: bool = False
    ended: Ended | None = None


class Trials:
    """Runs a study to its number of trials, whoever else does too.

    A trial whose job is killed stays running in the storage and is started again under its id. Only after `retries`
    crashes, or where training it is an error, is it told as failed; failed trials do not count. One that a person took out
    of the queue is left to the next call. With `batch`, trials are told in the order in which they were asked for, once
    all of the batch have ended.
    """

    def __init__(
        self,
        study: Study,
        found: optuna.Study,
        directory: StudyDirectory,
        slot: Slot,
        watcher: Watcher,
        *,
        retries: int,
        workers: int | None = None,
        threads: int = 1,
        gpu: bool = False,
    ) -> None:
        self.study, self.found, self.directory, self.watcher = study, found, directory, watcher
        self.retries, self.threads, self.gpu = retries, threads, gpu
        self.workers = workers
        self.num_failed = 0
        self.crashed = False  # whether the last of the failed ones crashed
        self._asker = Asker(study, found, directory, slot)
        self._silent = attach(study, directory)
        self._best = Best(study, found)
        self._mine: dict[int, _Mine] = {}  # in the order in which they were asked for
        self._waiting: dict[int, None] = {}
        self._queued: frozenset[int] = frozenset()
        self._failures_in_a_row = 0
        self._dry = self._done = False

    def ready(self, room: int) -> Sequence[Job]:
        jobs: list[Job] = []
        if self.workers is not None:  # a cluster's queue has room for the whole study, proposed before its first result
            room = min(room, self.workers - self._num_under_way)
        while len(jobs) < room and (trial_id := self._next()) is not None:
            del self._waiting[trial_id]
            jobs.append(self._job(trial_id))
        self._done = all(mine.cancelled for mine in self._mine.values() if mine.ended is None)
        return jobs

    def ended(self, number: int, state: JobState) -> None:
        mine = self._mine.get(number)
        if mine is None:
            return  # left in a queue by an earlier command; whoever adopts the trial reads how it ended
        newer = attempts.read(self.directory.attempts_file(number))[mine.attempts_before :]
        ended = judge(newer, state, self.directory.log(number))
        if ended.kind == "crashed":
            mine.crashes += attempts.crashes(newer)
        if ended.kind == "crashed" and mine.crashes <= self.retries:
            self.watcher.again(number, ended.error)
            self._waiting = {number: None, **self._waiting}
        elif ended.kind == "again" and state.cancelled:
            mine.cancelled = True
        elif ended.kind == "again":
            mine.not_before, mine.rest = clock.monotonic() + mine.rest, min(2 * mine.rest, LONGEST_REST)
            self._waiting[number] = None
        else:
            mine.ended = ended
            self._tell_those_due()

    def watch(self, states: Mapping[int, JobState]) -> None:
        self._queued = frozenset(states)

    @property
    def cancelled(self) -> bool:
        """Whether a person took trials out of the launcher's queue."""
        return any(mine.cancelled for mine in self._mine.values())

    @property
    def _num_under_way(self) -> int:
        return sum(mine.ended is None and not mine.cancelled for mine in self._mine.values()) - len(self._waiting)

    @property
    def finished(self) -> bool:
        return self._done

    @property
    def stopping(self) -> bool:
        return False

    @property
    def given_up(self) -> bool:
        """Whether so many trials failed in a row that no more are asked for."""
        return self._failures_in_a_row >= _FAILURES_IN_A_ROW

    def _next(self) -> int | None:
        """The trial to start now: one that waits, else a new one."""
        while True:
            now = clock.monotonic()
            due = next((trial_id for trial_id in self._waiting if self._mine[trial_id].not_before <= now), None)
            if due is not None:
                return due
            if self._dry or self.given_up or (self.study.batch is not None and self._mine):
                return None
            asked = self._asker.ask(self._mine)
            self._dry = not asked
            for one in asked:
                self._take(one)
            self._tell_those_due()

    def _take(self, asked: Asked) -> None:
        """Look after a trial. An adopted one may have ended already, or still be in the launcher's queue."""
        mine = self._mine[asked.trial_id] = _Mine()
        if asked.error:
            mine.ended = Ended("failed", error=asked.error)
        elif asked.adopted:
            before = attempts.read(self.directory.attempts_file(asked.trial_id))
            mine.ended = recorded(before)
            mine.attempts_before = len(before) - bool(before and before[-1].end is None)
        if mine.ended is None and asked.trial_id not in self._queued:
            self._waiting[asked.trial_id] = None

    def _job(self, trial_id: int) -> Job:
        file = self.directory.attempts_file(trial_id)
        file.parent.mkdir(exist_ok=True)
        self._mine[trial_id].attempts_before = len(attempts.read(file))
        arguments = (str(self.directory.path), str(trial_id))
        return Job(trial_id, WORKER, arguments, self.directory.log(trial_id), threads=self.threads, gpu=self.gpu)

    def _tell_those_due(self) -> None:
        if self.study.batch is not None and any(mine.ended is None for mine in self._mine.values()):
            return
        for trial_id, mine in list(self._mine.items()):
            if mine.ended is not None:
                self._tell(trial_id, mine.ended)
                del self._mine[trial_id]
                self._dry = False

    def _tell(self, trial_id: int, ended: Ended) -> None:
        trial = optuna.Trial(self._silent, trial_id)
        for name, value in ended.attributes.items():
            trial.set_user_attr(name, value)
        if ended.gate_passed is not None:
            note_constraint(trial, ended.gate_passed)
        if ended.kind != "outcome":
            self.num_failed, self._failures_in_a_row = self.num_failed + 1, self._failures_in_a_row + 1
            self.crashed = ended.kind == "crashed"
            told = self.found.tell(trial, state=TrialState.FAIL)
        else:
            self._failures_in_a_row = 0
            if ended.values is None:
                told = self.found.tell(trial, state=TrialState.PRUNED)
            else:
                told = self.found.tell(trial, list(ended.values))
        self._best.add(told)
        best = self._best
        log = self.directory.log(trial_id)
        self.watcher.told(told, ended, Progress(best.done, self.study.trials, log, best.value, best.number))
