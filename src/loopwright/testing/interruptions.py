"""A training that is ended by a signal in the middle of an epoch and goes on afterwards."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable
from typing import Any

from loopwright.engine.hooks import Hook, Info
from loopwright.engine.outcome import Outcome

# start(resume=..., hooks=...) starts a training, or goes on with it.
Start = Callable[..., Outcome]


class Signal(Hook):
    """Sends this process a signal after a step, as a scheduler would."""

    def __init__(self, step: int, number: int = signal.SIGTERM) -> None:
        self.step, self.number = step, number

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            signal.raise_signal(self.number)


def starter(run: Callable[..., Outcome], **fixed: Any) -> Start:
    """A function that starts or resumes one training, as `interrupted_at` wants it."""

    def start(*, resume: bool = False, hooks: Iterable[Hook] = ()) -> Outcome:
        return run(resume=resume, hooks=hooks, **fixed)

    return start


def interrupted_at(start: Start, *steps: int) -> Outcome:
    """Start a training, end it by a signal after each of these steps, go on each time, and return the last outcome.

    Raises RuntimeError outside the main thread, where no signal arrives.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a training is interrupted by a signal, which only the main thread receives; call it there")
    for number, step in enumerate(steps):
        stopped = start(resume=number > 0, hooks=[Signal(step)])
        assert (stopped.status, stopped.steps) == ("interrupted", step), f"{stopped.status} at step {stopped.steps}"
    outcome = start(resume=True, hooks=())
    assert outcome.run == stopped.run, f"{outcome.run} is not the run that was interrupted, {stopped.run}"
    return outcome
