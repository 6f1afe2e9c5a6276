"""`launcher=local`: a process per run on this machine, some at a time; CPU threads and GPUs are shared out among them."""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from loopwright import beside
from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.errors import ConfigError, MachineError
from loopwright.sweeps.launcher import INTERRUPTED, Job, JobState, Launcher
from loopwright.sweeps.launchers import shares, warm
from loopwright.sweeps.launchers.starting import Fresh, Order, Starter
from loopwright.sweeps.settings import LauncherSettings

# Set to anything, it makes each run start in an interpreter of its own, where they would be forked from a warm one.
FRESH_VARIABLE = "LOOPWRIGHT_FRESH"


@register("launcher", "local")
class LocalSettings(LauncherSettings):
    """A process per run on this machine.

    `workers=null` is the CPU cores over the `threads` of a run; for runs on GPUs not more than the GPUs over `gpus`.
    Libraries get the cores over `workers` as their number of threads, where the environment does not set it.
    """

    name: Literal["local"] = "local"
    gpus: int | None = setting(
        None,
        "GPUs that one run sees, the least used first; null is 1 for a run that would use one where there is one, 0 hides "
        "them all",
        ge=0,
        trajectory=False,
    )

    def build(self, folder: Path, name: str) -> LocalLauncher:
        return LocalLauncher(self, lambda environment: _starter(environment, folder))


class LocalLauncher(Launcher):
    """`starter` makes what starts processes, under the environment of the first of them.

    `devices` and `cores` stand in for those of the machine.
    """

    def __init__(
        self,
        settings: LocalSettings,
        starter: Callable[[Mapping[str, str]], Starter],
        *,
        devices: Callable[[Mapping[str, str]], list[str]] = shares.visible_devices,
        cores: int | None = None,
    ) -> None:
        self._settings, self._make_starter = settings, starter
        self._cores = cores or shares.cores()
        self._find_devices = devices
        self._devices: list[str] | None = None
        self._starter: Starter | None = None
        self._threads = 1  # the most of any job so far
        self._on_gpus = False  # whether any job so far would use one
        self._waiting: deque[Job] = deque()
        self._running: dict[int, tuple[str, ...]] = {}  # the GPUs that each was given
        self._asked: set[int] = set()
        self._never_begun: list[int] = []

    @property
    def workers(self) -> int:
        """Runs at one time, as far as the jobs that came so far say."""
        if self._settings.workers is not None:
            return self._settings.workers
        by_cores = self._cores // self._threads
        each = self._gpus_each(self._on_gpus)
        return max(1, min(by_cores, len(self._found()) // each if each else by_cores))

    def room(self) -> int:
        return max(0, self.workers - len(self._running) - len(self._waiting))

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._threads = max(self._threads, job.threads)
            self._on_gpus |= job.gpu
            self._waiting.append(job)
        self._start()

    def poll(self) -> Mapping[int, JobState]:
        states = {number: JobState("ended", INTERRUPTED) for number in self._never_begun}
        self._never_begun.clear()
        if self._starter is not None:
            pids = {number: _where(self._starter.pid(number)) for number in self._running}
            for number, code in self._starter.ended().items():
                states[number] = JobState("ended", self._as_asked(number, code), pids[number])
                del self._running[number]
                self._asked.discard(number)
            for number in self._running:
                states[number] = JobState("running", None, _where(self._starter.pid(number)))
        self._start()
        for number in self._running.keys() - states.keys():
            states[number] = JobState("running")
        for job in self._waiting:
            states[job.number] = JobState("queued")
        return states

    def stop(self, numbers: Iterable[int]) -> None:
        wanted = set(numbers)
        self._never_begun += [job.number for job in self._waiting if job.number in wanted]
        self._waiting = deque(job for job in self._waiting if job.number not in wanted)
        for number in wanted & self._running.keys():
            assert self._starter is not None
            self._asked.add(number)
            self._starter.terminate(number)

    def close(self) -> None:
        """What still runs (its driver has failed) saves a checkpoint and ends; it is waited for."""
        self._waiting.clear()
        self._running.clear()
        if self._starter is not None:
            self._starter.close()
            self._starter = None

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.workers:
            job = self._waiting[0]
            used = Counter(name for given in self._running.values() for name in given)
            gpus = self._gpus_each(job.gpu)
            devices = shares.least_used(self._found(), used, gpus) if gpus else ()
            order = self._order(job, devices)
            if self._starter is None:
                self._starter = self._make_starter(order.environment)
            try:
                self._starter.start(order)
            except OSError as error:
                raise MachineError(f"no process can be started for a run: {error.strerror or error}") from None
            self._waiting.popleft()
            self._running[job.number] = devices

    def _order(self, job: Job, devices: tuple[str, ...]) -> Order:
        """The process of a job, with the threads and the GPUs that are its share."""
        more = shares.library_threads(max(job.threads, self._cores // self.workers), os.environ)
        if devices or self._settings.gpus == 0:
            more[shares.VISIBLE] = ",".join(devices)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        return Order(job.number, job.module, job.arguments, beside.environment(**more), job.log)

    def _gpus_each(self, gpu: bool) -> int:
        """How many GPUs a job gets. Raises ConfigError where the machine has fewer."""
        asked = self._settings.gpus
        if asked is None:
            return min(1, len(self._found())) if gpu else 0
        if asked > 0 and asked > len(self._found()):
            raise ConfigError(
                f"`launcher.gpus` is {asked}: this machine shows {len(self._found())} GPUs; ask for fewer"
            )
        return asked

    def _found(self) -> list[str]:
        if self._devices is None:
            self._devices = self._find_devices(os.environ)
        return self._devices

    def _as_asked(self, number: int, code: int | None) -> int | None:
        """A job that was asked to end before it could listen had nothing to save: it was interrupted, not killed."""
        return INTERRUPTED if number in self._asked and code == -signal.SIGTERM else code


def _starter(environment: Mapping[str, str], folder: Path) -> Starter:
    if not warm.possible() or os.environ.get(FRESH_VARIABLE):
        return Fresh()
    folder.mkdir(parents=True, exist_ok=True)
    return warm.Warm(environment, folder / "helper.log")


def _where(pid: int | None) -> str:
    return "" if pid is None else f"pid {pid}"
