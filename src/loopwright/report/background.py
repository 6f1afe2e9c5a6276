"""Drawing in a process of its own: a training never imports matplotlib, nor waits for a picture while it trains."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from loopwright import beside

log = logging.getLogger("loopwright")

_WAIT_SECONDS = 60.0
_drawing: list[Drawing] = []
_left_alone: list[Drawing] = []


class Drawing:
    """A process that draws a run."""

    def __init__(self, process: subprocess.Popen[bytes], run: Path) -> None:
        self._process, self.run = process, run
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

    One at a time for a run: what an earlier process of it draws is drawn before. Other runs are not waited for.
    """
    for drawing in _drawing:
        if drawing.run == run:
            drawing.wait(_WAIT_SECONDS)
    _drawing[:] = [drawing for drawing in _drawing if drawing.cpu_seconds() is None]
    arguments = [str(run), ",".join(families), *(["--each-epoch"] if each_epoch else [])]
    try:
        process = subprocess.Popen(
            beside.module("loopwright.report.draw", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=beside.environment(),
        )
    except OSError as error:
        log.warning("the figures could not be drawn: %s", error)
        return None
    _drawing.append(Drawing(process, run))
    return _drawing[-1]


@atexit.register
def wait() -> None:
    """Until every figure is drawn, or a minute has passed. They can always be drawn again: `loopwright figures RUN`.

    For the end of the program too, which a cluster's job does not outlive.
    """
    while _drawing:
        drawing = _drawing.pop()
        with suppress(KeyboardInterrupt):
            drawing.wait(_WAIT_SECONDS)


def leave() -> None:
    """Wait for no figure: after a signal, a scheduler grants seconds. What is being drawn goes on by itself."""
    _left_alone.extend(_drawing)
    _drawing.clear()
