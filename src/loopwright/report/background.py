"""Drawing in a process of its own: a training never imports matplotlib, nor waits for a picture while it trains."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("loopwright")

_WAIT_SECONDS = 60.0
_drawing: list[Drawing] = []
_left_alone: list[Drawing] = []


class Drawing:
    """A process that draws."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._seconds = 0.0

    def cpu_seconds(self) -> float | None:
        """What it has cost, None while it is at work."""
        if self._process.returncode is None:
            try:
                pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has asked for its end (SIGCHLD is ignored, say)
                self._process.returncode = 0
                return self._seconds
            if pid == 0:
                return None
            self._process.returncode = os.waitstatus_to_exitcode(status)
            self._seconds = usage.ru_utime + usage.ru_stime
        return self._seconds

    def wait(self, seconds: float) -> None:
        """Until it has ended, or the time has passed."""
        until = time.monotonic() + seconds
        while self.cpu_seconds() is None and time.monotonic() < until:
            time.sleep(0.01)


def draw_later(run: Path, families: Sequence[str], *, each_epoch: bool = False) -> Drawing | None:
    """Start drawing a run's figures; None where no process can be started.

    One at a time: what an earlier process of this run draws is drawn before. `wait` is for the end of the program, which
    a cluster's job does not outlive.
    """
    if not _drawing:
        atexit.register(wait)
    wait()
    arguments = [str(run), ",".join(families), *(["--each-epoch"] if each_epoch else [])]
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        process = subprocess.Popen(
            # -P: a file `queue.py` where the person stands is not the module.
            [sys.executable, "-P", "-m", "loopwright.report.draw", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
    except OSError as error:
        log.warning("the figures could not be drawn: %s", error)
        return None
    _drawing.append(Drawing(process))
    return _drawing[-1]


def wait() -> None:
    """Until every figure is drawn, or a minute has passed. They can always be drawn again: `loopwright figures RUN`."""
    while _drawing:
        drawing = _drawing.pop()
        with suppress(KeyboardInterrupt):
            drawing.wait(_WAIT_SECONDS)


def leave() -> None:
    """Wait for no figure: after a signal, a scheduler grants seconds. What is being drawn goes on by itself."""
    _left_alone.extend(_drawing)
    _drawing.clear()
