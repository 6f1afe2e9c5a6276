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
    KeyboardInterrupt, SIGTERM twice ends the process. SIGUSR1 is a scheduler's warning: it asks for the checkpoint, may come
    as often as it likes, and the first SIGTERM after it is no second signal: a long save has until SIGKILL.

    One within another (a run that a sweep trains in its own process) tells the outer one: a signal in the last step of a
    run, which no longer changes how that ends, still ends the sweep.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._asked = False  # by another signal than a warning
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
        warning = getattr(signal, "SIGUSR1", None)
        first, asked = self.received is None, self._asked
        outer: Interrupt | None = self
        while outer is not None:
            outer.received = number
            outer._asked = outer._asked or number != warning
            outer = getattr(outer._before.get(number), "__self__", None)
            outer = outer if isinstance(outer, Interrupt) else None
        name = signal.Signals(number).name
        if first:
            log.warning("%s: a checkpoint follows at the next step; once more stops at once", name)
        elif asked and number != warning:
            signal.signal(number, self._before.get(number) or signal.SIG_DFL)
            os.kill(os.getpid(), number)
