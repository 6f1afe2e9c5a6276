"""Ways to end a training before its time, and going on afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from loopwright.engine.hooks import EVENTS, Hook, Info
from loopwright.engine.outcome import Outcome

Start = Callable[..., Outcome]


class Stopped(Exception):
    """What `Fail` raises."""


class Signal(Hook):
    """Sends this process a signal after a step, as a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            signal.raise_signal(self.number)


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


def interrupted_at(start: Start, *steps: int) -> Outcome:
    """Start a training, end it by a signal after each of these steps, go on each time, and return the last outcome."""
    for number, step in enumerate(steps):
        stopped = start(resume=number > 0, hooks=[Signal(step)])
        assert (stopped.status, stopped.steps) == ("interrupted", step)
    outcome = start(resume=True, hooks=())
    assert outcome.run == stopped.run
    return outcome


def failed_at(start: Start, *places: tuple[str, int]) -> Outcome:
    """The same with an exception in the n-th occurrence of an event, after which nothing is saved any more."""
    for number, (event, occurrence) in enumerate(places):
        with pytest.raises(Stopped):
            start(resume=number > 0, hooks=[Fail(event, occurrence)])
    return start(resume=True, hooks=())


def starter(run: Callable[..., Outcome], **fixed: Any) -> Start:
    """A function that starts or resumes one training, as the functions above want it."""

    def start(*, resume: bool = False, hooks: Iterable[Hook] = ()) -> Outcome:
        return run(resume=resume, hooks=hooks, **fixed)

    return start
