"""`TimingProbe`: says early that a run will take long, and where and how it could go on faster."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Callable

from loopwright.engine.hooks import Hook, Info

log = logging.getLogger("loopwright")

ADVICE = "move to a bigger machine (a rented GPU, RunPod for one)"
_EPOCHS = 2


class TimingProbe(Hook):
    """After the second whole epoch of this process, warn once if the run is projected to exceed `minutes`.

    The projection is the time of those two epochs / 2 x the epochs asked for (where only steps are known, their share of
    the steps); there is none where neither is known. An epoch that a resume entered in its middle does not count. `clock`
    gives seconds.
    """

    def __init__(
        self, minutes: float = 20.0, advice: str = ADVICE, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.minutes = minutes
        self.advice = advice
        self._clock = clock
        self._began: float | None = None
        self._first_step = 0
        self._epochs_seen = 0

    def on_epoch_start(self, info: Info) -> None:
        if self._began is None and info.batch == 0:
            self._began, self._first_step = self._clock(), info.step

    def on_epoch_end(self, info: Info) -> None:
        if self._began is None or self._epochs_seen == _EPOCHS:
            return
        self._epochs_seen += 1
        if self._epochs_seen < _EPOCHS:
            return
        if info.epochs is not None:
            times, whole = info.epochs / _EPOCHS, f"{info.epochs} epochs"
        elif info.total_steps is not None:
            times, whole = info.total_steps / max(1, info.step - self._first_step), f"{info.total_steps} steps"
        else:
            return
        projected = (self._clock() - self._began) * times / 60.0
        if projected > self.minutes:
            log.warning(
                "this run is projected to take %.0f minutes (%s), above %g; %s and go on there with: %s",
                projected,
                whole,
                self.minutes,
                self.advice,
                f"loopwright resume {shlex.quote(info.run)}"
                if info.run
                else "the same command (it has no record to resume)",
            )
