"""Drawing in a process of its own: a training never imports matplotlib, nor waits for a picture while it trains."""

from __future__ import annotations

import atexit
import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("loopwright")

_WAIT_SECONDS = 60.0
_drawing: list[subprocess.Popen[bytes]] = []


def draw_later(run: Path) -> None:
    """Start drawing a run's figures; `wait` is for the end of the program, which a cluster's job does not outlive."""
    if not _drawing:
        atexit.register(wait)
    try:
        _drawing.append(
            subprocess.Popen(
                [sys.executable, "-m", "loopwright.report.draw", str(run)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    except OSError as error:
        log.warning("the figures could not be drawn: %s", error)
    _drawing[:] = [process for process in _drawing if process.poll() is None]


def wait() -> None:
    """Until every figure is drawn, or a minute has passed. They can always be drawn again: `loopwright figures RUN`."""
    while _drawing:
        process = _drawing.pop()
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(_WAIT_SECONDS)
