"""What a process that trains prints while it does: the log on stderr, and a progress bar or a line per epoch."""

from __future__ import annotations

import logging
import sys
from typing import Any

from loopwright.engine.hooks import Hook, every
from loopwright.hooks.progress import Lines, ProgressBar


def start_logging() -> None:
    """The library logs; the command shows it on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine())
    logger = logging.getLogger("loopwright")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def observers(console_every: int) -> list[Hook]:
    """A progress bar on a terminal, else a line per epoch."""
    if console_every == 0:
        return []
    if sys.stderr.isatty():
        return [every("0.1 s", ProgressBar())]
    return [_EveryEpochs(console_every, Lines())]


class _EveryEpochs(Hook):
    """Passes on each n-th epoch's end."""

    def __init__(self, epochs: int, hook: Hook) -> None:
        self.epochs, self.hook = epochs, hook
        self.on_validation_end = hook.on_validation_end  # type: ignore[method-assign]

    def on_epoch_end(self, info: Any) -> None:
        if info.epoch % self.epochs == 0 or info.epoch == info.epochs or info.step == info.total_steps:
            self.hook.on_epoch_end(info)
