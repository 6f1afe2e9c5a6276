"""Sweeps for tests: plans made by hand, launchers that do as they are told, tasks that count their steps or fail."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from loopwright.api import compose
from loopwright.config.node import setting
from loopwright.engine.loss import Loss
from loopwright.engine.task import At
from loopwright.streams import Streams
from loopwright.sweeps.launcher import Job, JobState, Launcher
from loopwright.sweeps.launchers.inline import InlineLauncher
from loopwright.sweeps.plan import Confirm, Plan, Point, Stage
from loopwright.sweeps.settings import LauncherSettings
from support.cli import TINY
from support.tasks import Config, Noisy

# Where each executed step is written down as `SEED STEP`, and how long a step takes; without them a run is as any other.
STEPS_VARIABLE = "LOOPWRIGHT_TEST_STEPS"
SECONDS_VARIABLE = "LOOPWRIGHT_TEST_STEP_SECONDS"
# The seeds whose training fails.
BROKEN_VARIABLE = "LOOPWRIGHT_TEST_BROKEN"


class Counted(Noisy):
    """Appends a line to a file at each step."""

    def __init__(self, batch_size: int, streams: Streams) -> None:
        super().__init__(batch_size, streams)
        self.seed = streams.root

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        note = os.environ.get(STEPS_VARIABLE)
        if note is not None:
            time.sleep(float(os.environ.get(SECONDS_VARIABLE, "0")))
            with open(note, "ab", buffering=0) as file:  # one write: a killed process leaves whole lines
                file.write(f"{self.seed} {at.step}\n".encode())
        yield from super().losses(model, batch, at)


class CountedConfig(Config):
    task = Counted


class Broken(Noisy):
    """Raises in the first step of a seed that the variable names; `-7` sends SIGTERM in the second step of seed 7."""

    def __init__(self, batch_size: int, streams: Streams) -> None:
        super().__init__(batch_size, streams)
        self.seed = streams.root

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        named = os.environ.get(BROKEN_VARIABLE, "").split(",")
        if str(self.seed) in named:
            raise ArithmeticError(f"seed {self.seed} does not add up")
        if f"-{self.seed}" in named and at.step == 2:
            signal.raise_signal(signal.SIGTERM)
        yield from super().losses(model, batch, at)


class BrokenConfig(Config):
    task = Broken


def counted(file: Path) -> Counter[tuple[int, int]]:
    """How often each (seed, step) was executed."""
    lines = file.read_text().splitlines() if file.exists() else []
    return Counter((int(seed), int(step)) for seed, step in (line.split() for line in lines))


def points(
    *overrides: str, rates: Sequence[float] = (0.1, 0.01), seeds: Sequence[int] = (1,), stage: Stage = "sweep"
) -> tuple[Point, ...]:
    """Points of the tiny recipe, trained in this process: learning rates by seeds."""
    return tuple(
        Point(
            compose(*TINY, "launcher=inline", *overrides, f"optim.lr={rate}", f"seed={seed}"),
            (f"optim.lr={rate}",),
            stage=stage,
        )
        for rate in rates
        for seed in seeds
    )


def plan(*overrides: str, confirm: Confirm | None = None, name: str = "", **given: Any) -> Plan:
    """A plan of such points; with `confirm` they are a screening."""
    return Plan(points(*overrides, stage="screen" if confirm else "sweep", **given), name, confirm)


def broken(*seeds: int) -> Plan:
    """Trainings of `Broken`, one per seed, in this process."""
    recipe = compose(
        *("experiment=null", "task.name=support.sweeps:BrokenConfig", "name=broken", "train.batch_size=4"),
        *("train.epochs=1", "launcher=inline", "device=cpu", "plots=none", "record.code=false"),
    )
    return Plan(tuple(Point(recipe.model_copy(update={"seed": seed})) for seed in seeds))


class Scripted(Launcher):
    """Runs jobs in this process as they are submitted; before that, a job may come to one of the ends in its script.

    An end is an exit code (the process dies before it has begun), or a function of the job, which may return one.
    `started` are the numbers in the order in which they were handed out.
    """

    poll_seconds = 0.001

    def __init__(self, scripts: Mapping[int, Iterable[Any]] | None = None) -> None:
        self.scripts = {number: list(ends) for number, ends in (scripts or {}).items()}
        self.started: list[int] = []
        self._ended: dict[int, JobState] = {}

    def room(self) -> int:
        return 0 if self._ended else 1

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.started.append(job.number)
            script = self.scripts.get(job.number, [])
            end = script.pop(0) if script else None
            if callable(end):
                end = end(job)
            code = end if isinstance(end, int) else run_job(job)
            self._ended[job.number] = JobState("ended", code, f"pid {os.getpid()}")

    def poll(self) -> Mapping[int, JobState]:
        ended, self._ended = self._ended, {}
        return ended

    def stop(self, numbers: Iterable[int]) -> None:
        """None runs while anybody could ask."""


def run_job(job: Job) -> int:
    """A job in this process, which is left as it was."""
    launcher = InlineLauncher()
    launcher.submit([job])
    code = launcher.poll()[job.number].code
    assert code is not None
    return code


class QueueSettings(LauncherSettings):
    """`launcher.name=support.sweeps:QueueSettings`: a cluster in a folder, whose jobs outlive whoever handed them in."""

    outlives: ClassVar[bool] = True
    name: str = setting(..., "import path", trajectory=False)

    def build(self, folder: Path, name: str) -> Launcher:
        return Queue(folder)


class Queue(Launcher):
    """Its jobs lie in a file. While there is a file `go` the cluster works: it runs one of them at each look."""

    outlives = True
    poll_seconds = 0.001

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def room(self) -> int:
        return 1000

    def submit(self, jobs: Sequence[Job]) -> None:
        self._write({**self.queued(), **{str(j.number): [j.module, list(j.arguments), str(j.log)] for j in jobs}})

    def poll(self) -> Mapping[int, JobState]:
        queued = self.queued()
        states = {int(number): JobState("queued", where=f"queue {number}") for number in queued}
        if queued and (self.folder / "go").exists():
            number = next(iter(queued))
            module, arguments, log = queued.pop(number)
            code = run_job(Job(int(number), module, tuple(arguments), Path(log)))
            self._write(queued)
            states[int(number)] = JobState("ended", code, f"queue {number}")
        return states

    def stop(self, numbers: Iterable[int]) -> None:
        self._write({number: job for number, job in self.queued().items() if int(number) not in set(numbers)})

    def queued(self) -> dict[str, Any]:
        file = self.folder / "queue.json"
        found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
        return found

    def _write(self, queued: Mapping[str, Any]) -> None:
        (self.folder / "queue.json").write_text(json.dumps(queued))
