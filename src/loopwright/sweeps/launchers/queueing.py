"""`QueueLauncher`: what the launchers of clusters share. Jobs wait in a queue that outlives the process that filled it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from loopwright import clock
from loopwright.errors import UserError
from loopwright.sweeps.launcher import INTERRUPTED, Job, JobState, Launcher
from loopwright.sweeps.launchers.submission import Submission

log = logging.getLogger("loopwright")

Phase = Literal["queued", "running", "cancelled", "gone"]
# The phases of the tasks of a submission, by index; a task that the cluster does not know is missing.
Phases = Mapping[int, Phase]
_ROOM = 1_000_000
_PATIENCE_SECONDS = 120.0


class QueueLauncher(Launcher):
    """One submission is one array of the cluster's, of jobs that ask for the same.

    `settle_seconds` is how long the exit code of a task that the cluster has let go is waited for: a network file system
    may show it late.
    """

    outlives = True
    poll_seconds = 2.0
    kind: ClassVar[str]

    def __init__(self, folder: Path, name: str, *, settle_seconds: float = 10.0) -> None:
        self._folder, self._name, self._settle = folder, name, settle_seconds
        self._open = Submission.open_ones(folder, self.kind)
        self._last: dict[tuple[str, int], JobState] = {}
        self._missing: dict[tuple[str, int], float] = {}
        self._silent = False

    @abstractmethod
    def largest(self) -> int:
        """How many tasks one array may have."""

    @abstractmethod
    def script(self, submission: Submission, job: Job) -> str:
        """What the cluster runs for each task; every job of the submission asks for as much as `job`."""

    @abstractmethod
    def hand_in(self, submission: Submission, job: Job, running: Sequence[Submission]) -> str:
        """Give it to the cluster, beside those that run. Returns what the cluster calls it. Raises UserError."""

    @abstractmethod
    def look(self, submissions: Sequence[Submission]) -> Mapping[str, Phases] | None:
        """How the tasks stand, by the name of the submission; None while the cluster does not answer.

        One that the cluster knows gets its identifier, where its launcher was killed before it could note it.
        """

    @abstractmethod
    def withdraw(self, submission: Submission, indices: Sequence[int]) -> None:
        """Those that wait never start; those that run are asked to save a checkpoint and end."""

    def where(self, submission: Submission, index: int) -> str:
        """What the cluster calls a task."""
        return f"{self.kind} {submission.id}_{index}"

    def room(self) -> int:
        """The queue holds them all."""
        return _ROOM

    def submit(self, jobs: Sequence[Job]) -> None:
        for alike in _alike(jobs):
            largest = self.largest()
            for first in range(0, len(alike), largest):
                self._submit(alike[first : first + largest])

    def poll(self) -> Mapping[int, JobState]:
        if not self._open:
            return {}
        phases = self.look(self._open)
        if (phases is None) != self._silent:
            self._silent = phases is None
            if self._silent:
                log.warning("%s does not answer; what is in its queue goes on meanwhile", self.kind)
            else:
                log.info("%s answers again", self.kind)
        states: dict[int, JobState] = {}
        for submission in self._open:
            states |= self._poll_one(submission, None if phases is None else phases.get(submission.name, {}))
        self._open = [submission for submission in self._open if submission.alive]
        return states

    def stop(self, numbers: Iterable[int]) -> None:
        asked = set(numbers)
        for submission in self._open:
            indices = [index for index in sorted(submission.alive) if submission.numbers[index] in asked]
            if indices:
                submission.stop(indices)  # first: one that is about to start finds it
                self.withdraw(submission, indices)

    def _submit(self, jobs: Sequence[Job]) -> None:
        submission = Submission.create(self._folder, self.kind, self._name, jobs)
        try:
            submission.write(jobs, lambda made: self.script(made, jobs[0]))
            submission.handed_in(self.hand_in(submission, jobs[0], self._open))
        except UserError:
            submission.forget()
            raise
        self._open.append(submission)

    def _poll_one(self, submission: Submission, phases: Phases | None) -> dict[int, JobState]:
        states: dict[int, JobState] = {}
        silent = [] if phases is None else [i for i in submission.alive if phases.get(i) not in ("queued", "running")]
        codes = submission.codes(silent)
        if phases is not None and not submission.id and not phases and not codes:
            # Its launcher was killed before the cluster had it, or is about to hand it in: it is left where it lies.
            submission.alive.clear()
        for index in sorted(submission.alive):
            key = submission.name, index
            where = self.where(submission, index)
            if phases is None:
                state = self._last.get(key, JobState("queued", where=where))
            else:
                state = self._state(submission, index, phases.get(index), codes.get(index), where)
            if state.phase == "ended":
                submission.report(index)
                self._last.pop(key, None)
            else:
                self._last[key] = state
            states[submission.numbers[index]] = state
        return states

    def _state(self, submission: Submission, index: int, phase: Phase | None, code: int | None, where: str) -> JobState:
        if phase == "queued" or phase == "running":
            self._missing.pop((submission.name, index), None)
            return JobState(phase, where=where)
        stopped = submission.stopped(index)
        if (phase == "cancelled" or stopped) and (code is None or code < 0 or code == INTERRUPTED):
            return JobState("ended", INTERRUPTED, where, cancelled=not stopped)  # it did not crash
        since = self._missing.setdefault((submission.name, index), clock.monotonic())
        if code is None and clock.monotonic() - since < self._settle:
            return self._last.get((submission.name, index), JobState("running", where=where))
        return JobState("ended", code, where)


class Refused(Exception):
    """A command of the cluster's failed; its words are the message."""


def call(*words: str) -> str:
    """What a command of the cluster's prints. Raises Refused where it fails, UserError where there is no such command."""
    if shutil.which(words[0]) is None:
        kind = "slurm" if words[0].startswith("s") else "condor"
        raise UserError(
            f"`launcher` is {kind!r}, and there is no {words[0]} on this machine; give the command where jobs are submitted, "
            "or use launcher=local"
        )
    try:
        done = subprocess.run(
            words, env=_plain_environment(), capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Refused(f"{words[0]} did not answer within {_PATIENCE_SECONDS:.0f} s (timed out)") from None
    if done.returncode != 0:
        raise Refused(" ".join(done.stderr.split()) or f"{words[0]} exits with {done.returncode}")
    return done.stdout


def _plain_environment() -> dict[str, str]:
    """The environment without what narrows down, for a person's own eyes, which jobs are listed or cancelled."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}


def _alike(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs that ask for the same, in order."""
    for asked in dict.fromkeys((job.threads, job.gpu) for job in jobs):
        yield [job for job in jobs if (job.threads, job.gpu) == asked]
