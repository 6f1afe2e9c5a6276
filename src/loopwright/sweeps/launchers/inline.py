"""`launcher=inline`: the runs one after the other, in this process. No start-up cost, a debugger works, a crash ends all."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Literal

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.sweeps.launcher import JOB_VARIABLE, Job, JobState, Launcher
from loopwright.sweeps.launchers.process import call
from loopwright.sweeps.settings import LauncherSettings


@register("launcher", "inline")
class InlineSettings(LauncherSettings):
    """One run after the other, in this process."""

    name: Literal["inline"] = "inline"
    workers: int | None = setting(None, "runs at one time: there is one, `1` or null", ge=1, le=1, trajectory=False)

    def build(self, folder: Path, name: str) -> InlineLauncher:
        return InlineLauncher()


class InlineLauncher(Launcher):
    """Runs a job as it is submitted."""

    def __init__(self) -> None:
        self._ended: dict[int, JobState] = {}

    def room(self) -> int:
        return 0 if self._ended else 1

    def submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._ended[job.number] = JobState("ended", self._run(job), f"pid {os.getpid()}")

    def poll(self) -> Mapping[int, JobState]:
        ended, self._ended = self._ended, {}
        return ended

    def stop(self, numbers: Iterable[int]) -> None:
        """Nothing runs while anybody could ask."""

    def _run(self, job: Job) -> int:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            _as_found(),
            job.log.open("a", encoding="utf-8", errors="backslashreplace") as log,
            redirect_stdout(log),
            redirect_stderr(log),
        ):
            os.environ[JOB_VARIABLE] = f"pid {os.getpid()}"
            return call(job.module, job.arguments)


@contextmanager
def _as_found() -> Iterator[None]:
    """Leave the environment, the folder, the paths and the logger as they were; a job's logger writes into its log."""
    logger = logging.getLogger("loopwright")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    environment, folder, path, words = dict(os.environ), Path.cwd(), sys.path[:], sys.argv[:]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.path[:], sys.argv[:] = path, words
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
