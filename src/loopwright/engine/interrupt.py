"""Signals: the first one asks for a checkpoint at the next step boundary, the second one is taken at its word."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

log = logging.getLogger("loopwright")

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupt:
    """Catches SIGINT, SIGTERM and SIGUSR1 while training, in the main thread only, and puts the old handlers back.

    Calling it tells whether a signal has come. A second signal gets the handler that was there before: Ctrl-C twice is a
    KeyboardInterrupt, SIGTERM twice ends the process. SIGUSR1 (a scheduler's warning) may come as often as it likes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = number
        name = signal.Signals(number).name
        if first:
            log.warning("%s: a checkpoint follows at the next step; once more stops at once", name)
        elif number != getattr(signal, "SIGUSR1", None):
            signal.signal(number, self._before.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)
