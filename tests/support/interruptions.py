"""Ways to end a training before its time, and going on afterwards; those by signal are part of the installed package."""

from __future__ import annotations

import pytest

from loopwright.engine.hooks import EVENTS, Hook, Info
from loopwright.engine.outcome import Outcome
from loopwright.testing.interruptions import Signal, Start, interrupted_at, starter

__all__ = ["Fail", "Signal", "Start", "Stopped", "failed_at", "interrupted_at", "starter"]


class Stopped(Exception):
    """What `Fail` raises."""


class Fail(Hook):
    """Raises in the n-th occurrence of an event (in this process)."""

    def __init__(self, event: str, occurrence: int) -> None:
        assert event in EVENTS
        self.left = occurrence
        self.event = event

    def _seen(self, event: str) -> None:
        self.left -= event == self.event
        if event == self.event and self.left == 0:
            raise Stopped(event)

    def on_epoch_start(self, info: Info) -> None:
        self._seen("on_epoch_start")

    def on_step_end(self, info: Info) -> None:
        self._seen("on_step_end")

    def on_validation_end(self, info: Info) -> None:
        self._seen("on_validation_end")

    def on_epoch_end(self, info: Info) -> None:
        self._seen("on_epoch_end")

    def on_train_end(self, info: Info) -> None:
        self._seen("on_train_end")

    def on_test_end(self, info: Info) -> None:
        self._seen("on_test_end")


def failed_at(start: Start, *places: tuple[str, int]) -> Outcome:
    """Like `interrupted_at`, by an exception in the n-th occurrence of an event, after which nothing is saved any more."""
    for number, (event, occurrence) in enumerate(places):
        with pytest.raises(Stopped):
            start(resume=number > 0, hooks=[Fail(event, occurrence)])
    return start(resume=True, hooks=())
