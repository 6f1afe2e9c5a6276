"""`Tracker`: TensorBoard or W&B, fed from the record by a process beside the training."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from loopwright import beside, clock
from loopwright.engine.hooks import Hook, Info

log = logging.getLogger("loopwright")

# Where the trackers' own files are, below the run. They are made from the record and hold times: no comparison reads them.
FOLDER = "trackers"
_WAIT_SECONDS = 60.0
_WAIT_SECONDS_INTERRUPTED = 5.0  # schedulers grant about thirty between their signal and the kill
_LOOK_SECONDS = 0.02
_left_alone: list[subprocess.Popen[bytes]] = []


class Tracker(Hook):
    """Shows a run's record to a tracker while it trains (`loopwright.hooks.following`).

    The training gives it nothing and waits for nothing: the process reads `metrics.csv` as it grows. It starts once the
    record has been cut to the checkpoint that the run goes on from, and shows the whole of it anew, so no row is shown
    twice. What it has to say, a failure above all, becomes one warning at the next end of an epoch.
    """

    optional = True

    def __init__(self, name: str, run: Path) -> None:
        self.name = name
        self._run = run
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._silent = True

    def on_start(self, info: Info) -> None:
        if not installed(self.name):
            log.warning("%s is not installed, nothing is sent; pip install 'loopwright[%s]'", self.name, self.name)
            return
        (self._run / FOLDER).mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            beside.module("loopwright.hooks.following", self.name, str(self._run)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the training, which then says that it is over
            env=beside.environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        )
        os.set_blocking(_pipe(self._process.stdout).fileno(), False)

    def on_epoch_end(self, info: Info) -> None:
        self.look()

    def look(self) -> bool:
        """Pass on what the process says; whether it is still at work. Costs a few microseconds."""
        process = self._process
        if process is None:
            return False
        code = process.poll()
        with suppress(BlockingIOError):
            while piece := os.read(_pipe(process.stdout).fileno(), 4096):
                self._said += piece
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            self._silent = False
            log.warning("%s", line.decode(errors="replace"))
        if code is None:
            return True
        if code and self._silent:
            log.warning("%s failed and is switched off: its process ended with %d", self.name, code)
        self._forget()
        return False

    def end(self) -> None:
        """Say that the training is over."""
        if self._process is not None:
            # Written, not only closed: a worker that was forked holds the pipe open too.
            with suppress(OSError):
                os.write(_pipe(self._process.stdin).fileno(), b"\n")
            _pipe(self._process.stdin).close()

    def leave(self) -> None:
        """Let the process go on by itself."""
        if self._process is not None:
            log.warning("%s is still sending %s and goes on by itself", self.name, self._run)
            _left_alone.append(self._process)
            self._forget()

    def _forget(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                _pipe(pipe).close()
        self._process = None


def tracking(names: Iterable[str], run: Path | None) -> list[Tracker]:
    """A hook for each tracker of a recipe; none without a record, which they show."""
    wanted = list(dict.fromkeys(names))
    if run is None and wanted:
        log.warning(
            "`trackers` is [%s]: nothing is tracked, since record.save=false leaves no record", ", ".join(wanted)
        )
    return [] if run is None else [Tracker(name, run) for name in wanted]


def finish(trackers: Iterable[Tracker], interrupted: Callable[[], bool]) -> None:
    """Let trackers show the end of the record and wait for them: at most a minute, five seconds after a signal."""
    before = interrupted()
    until = clock.monotonic() + (_WAIT_SECONDS_INTERRUPTED if before else _WAIT_SECONDS)
    trackers = list(trackers)
    for tracker in trackers:
        tracker.end()
    for tracker in trackers:
        while tracker.look():
            if clock.monotonic() > until or (interrupted() and not before):
                tracker.leave()
                break
            time.sleep(_LOOK_SECONDS)


def installed(name: str) -> bool:
    """Whether a package is there: not a folder of that name, which is what W&B leaves where it has run."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
