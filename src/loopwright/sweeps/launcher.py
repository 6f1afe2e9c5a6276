"""`Launcher`: starts jobs somewhere, says how they stand, and stops them. One conformance suite holds for all."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

# Tells a job what its launcher calls it; every launcher sets it in the job's environment.
JOB_VARIABLE = "LOOPWRIGHT_JOB"
INTERRUPTED = 75  # what a job exits with that saved a checkpoint because it was asked to end


@dataclass(frozen=True, slots=True)
class Job:
    """One process to run: `python -m MODULE ARGUMENTS...`, where the module's `main(arguments)` returns the exit code.

    `number` names it among the jobs of its folder. Everything the job prints is appended to `log`. `threads` are the CPU
    threads it computes with, `gpu` is whether it would use a GPU.
    """

    number: int
    module: str
    arguments: tuple[str, ...]
    log: Path
    threads: int = 1
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands. `code` is the exit code of an ended one, -N where signal N killed it, None where nobody knows.

    `where` is what the launcher calls it: a process id, a job id of the cluster. `cancelled` is true for an ended one that
    a person took out of the cluster's queue: it is not started again by the command that watches it.
    """

    phase: Literal["queued", "running", "ended"]
    code: int | None = None
    where: str = ""
    cancelled: bool = False


class Launcher(ABC):
    """Starts jobs. Used by one thread; `close` when done.

    Where `outlives` is true (a cluster's queue), jobs go on when this process ends, and a launcher built anew on the same
    folder finds them again: `poll` names them too. Else the jobs save a checkpoint and end when this process ends, however
    it ends.
    """

    outlives: ClassVar[bool] = False
    # Seconds between two looks at the jobs.
    poll_seconds: ClassVar[float] = 0.05

    @abstractmethod
    def room(self) -> int:
        """How many more jobs it takes now. 0 while all workers are busy."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs, or put them into the queue. Raises LoopwrightError where the machine or the cluster refuses."""

    @abstractmethod
    def poll(self) -> Mapping[int, JobState]:
        """Every job that was submitted, by its number. One that has ended is named once, then forgotten."""

    @abstractmethod
    def stop(self, numbers: Iterable[int]) -> None:
        """Ask jobs to save a checkpoint and end (exit code 75); those that wait never start. Returns at once."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of what is held here. Jobs that outlive this process go on; others have ended by then."""


def label() -> str:
    """What the launcher calls the job that this process is; empty where no launcher started it."""
    return os.environ.get(JOB_VARIABLE, "")
