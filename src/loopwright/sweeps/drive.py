"""The one loop that starts jobs, looks after them, and stops: sweeps and searches say what there is to do."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from loopwright.engine.interrupt import Interrupt
from loopwright.sweeps.launcher import INTERRUPTED, Job, JobState, Launcher
from loopwright.sweeps.launchers.process import CTRL_C

# How a process ends that is asked to before it has set up what saves a checkpoint; None where nobody knows.
_BY_REQUEST = (-signal.SIGTERM, -signal.SIGINT, CTRL_C, None)


class Work(Protocol):
    """What there is to do: the points of a sweep, the trials of a study."""

    def ready(self, room: int) -> Sequence[Job]:
        """Up to `room` jobs to start now; none while there is nothing to start yet."""

    def ended(self, number: int, state: JobState) -> None:
        """A job has ended. It may be handed out again by `ready`."""

    def watch(self, states: Mapping[int, JobState]) -> None:
        """How every job stands, at each look; for the ledger and the person who watches."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left to start, nor worth waiting for."""

    @property
    def stopping(self) -> bool:
        """Whether the jobs that still run are to save a checkpoint and end (one failed and that ends it all)."""


def drive(work: Work, launcher: Launcher, *, wait: bool = True) -> bool:
    """Do the work. Returns whether it was interrupted (Ctrl-C, SIGTERM, SIGUSR1): the same command goes on then.

    Jobs that do not outlive this process are asked to save a checkpoint, and waited for. `wait=False` returns as soon as
    everything that can be submitted is.
    """
    alive: set[int] = set()
    asked: set[int] = set()
    with Interrupt() as interrupt:
        while True:
            states = launcher.poll()
            alive |= states.keys()
            for number, state in states.items():
                if state.phase == "ended":
                    if (number in asked or interrupt()) and state.code in _BY_REQUEST:
                        state = replace(state, code=INTERRUPTED)
                    alive.discard(number)
                    asked.discard(number)
                    work.ended(number, state)
            work.watch({number: state for number, state in states.items() if state.phase != "ended"})
            interrupted = interrupt()
            if interrupted and launcher.outlives:
                return True
            if interrupted or work.stopping:
                launcher.stop(alive - asked)
                asked |= alive
                if not alive:
                    return interrupted
            elif work.finished and not alive:
                return False
            elif room := launcher.room():
                jobs = work.ready(room)
                launcher.submit(jobs)
                alive |= {job.number for job in jobs}
                if jobs:
                    continue  # a launcher that runs them here has done so: look at once
                if not wait:
                    return False
            time.sleep(launcher.poll_seconds)
