"""Hooks: observers with eight methods. They are shown what happens and change nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from loopwright import clock
from loopwright.config.durations import Duration
from loopwright.engine.compute import settings_kept
from loopwright.engine.kept import Watched
from loopwright.scalars import as_plain
from loopwright.streams import isolated

log = logging.getLogger("loopwright")

EVENTS = (
    "on_start",
    "on_epoch_start",
    "on_step_end",
    "on_validation_end",
    "on_epoch_end",
    "on_train_end",
    "on_test_end",
    "on_exception",
)


@dataclass(frozen=True, slots=True)
class Info:
    """What a hook is shown. Epochs and steps count from 1: the ones being worked on, or just finished.

    `row` is the history row on `on_validation_end` and `on_epoch_end`; `loss` the newest known training loss; `batch` and
    `samples` the batches and samples done in this epoch (of a stream, samples that it says); `outcome` the metrics of the
    test on `on_test_end` and the result on `on_train_end`. `epochs`, `steps_per_epoch` and `total_steps` are None where
    nobody knows, and rest on an estimate where the training data's length is one.
    """

    step: int
    epoch: int
    epochs: int | None
    steps_per_epoch: int | None
    samples: int
    elapsed_seconds: float
    monitor: str
    model: nn.Module
    run: str | None
    recipe: Mapping[str, Any] | None
    loss: float | None = None
    row: Mapping[str, float | None] | None = None
    outcome: Mapping[str, Any] | None = None
    error: BaseException | None = None
    batch: int = 0
    max_steps: int | None = None

    @property
    def total_steps(self) -> int | None:
        if self.max_steps is not None:
            return self.max_steps
        return None if self.epochs is None or self.steps_per_epoch is None else self.epochs * self.steps_per_epoch


class Hook:
    """An observer. Override what you want to see; an exception ends the training unless the hook is `optional`.

    >>> class Shout(Hook):
    ...     def on_epoch_end(self, info):
    ...         print(info.epoch, info.row["train_loss"])
    """

    optional: bool = False

    def on_start(self, info: Info) -> None:
        """The run begins or goes on; nothing has been trained in this process yet."""

    def on_epoch_start(self, info: Info) -> None:
        """An epoch begins (or goes on, after a resume in its middle)."""

    def on_step_end(self, info: Info) -> None:
        """An optimizer step is done."""

    def on_validation_end(self, info: Info) -> None:
        """The validation split has been measured."""

    def on_epoch_end(self, info: Info) -> None:
        """An epoch's row is in the history."""

    def on_train_end(self, info: Info) -> None:
        """Training is over; the tests follow."""

    def on_test_end(self, info: Info) -> None:
        """The test split has been measured with the last and the best weights."""

    def on_exception(self, info: Info) -> None:
        """Training failed with `info.error`, which is raised again."""


class every(Hook):  # noqa: N801 - reads as a verb: hooks=[every(10, capture)]
    """Show a hook each n-th step (`every(10, hook)`), or a step whenever some time has passed (`every("0.1 s", hook)`).

    All its other events reach it as they happen.
    """

    def __init__(self, often: int | str, hook: Hook) -> None:
        often = as_plain(often)
        self.often = Duration.parse(f"{often} steps" if isinstance(often, int) else often)
        if self.often.unit == "epochs":
            raise ValueError(f"every({often!r}, ...): give steps or seconds; on_epoch_end comes once per epoch anyway")
        self.hook, self.optional = hook, hook.optional
        self._last = -math.inf
        for event in EVENTS:
            setattr(self, event, getattr(hook, event))

    def due(self, step: int) -> bool:
        if self.often.unit == "steps":
            return step % int(self.often.amount) == 0
        now = clock.monotonic()
        if now - self._last < self.often.amount:
            return False
        self._last = now
        return True


class Hooks:
    """The hooks of a run: tells each of those that override an event, and keeps from training what they draw and set."""

    def __init__(self, hooks: Iterable[Hook]) -> None:
        hooks = list(hooks)
        self._of = {event: [h for h in hooks if _overrides(h, event)] for event in EVENTS}
        self._watched: Watched | None = None

    def wants(self, event: str) -> bool:
        return bool(self._of[event])

    def emit(self, event: str, info: Callable[[], Info]) -> None:
        """Show an event to everyone interested; `info` is only built where somebody is."""
        self._show(event, self._of[event], info)

    def emit_step(self, step: int, info: Callable[[], Info]) -> None:
        """Show `on_step_end` to those whose turn it is at this step."""
        listeners = self._of["on_step_end"]
        if listeners:
            self._show("on_step_end", [h for h in listeners if not isinstance(h, every) or h.due(step)], info)

    def _show(self, event: str, listeners: list[Hook], info: Callable[[], Info]) -> None:
        if not listeners:
            return
        shown = info()
        if event != "on_step_end" or self._watched is None or self._watched.roots != (shown.model,):
            self._watched = Watched(shown.model)
        with isolated(), settings_kept(), self._watched.kept(when_called=True):
            for hook in list(listeners):
                try:
                    getattr(hook, event)(shown)
                except Exception as error:
                    if not hook.optional:
                        raise
                    name = type(hook.hook if isinstance(hook, every) else hook).__name__
                    log.warning("%s failed in %s and is switched off: %s", name, event, error)
                    for others in self._of.values():
                        if hook in others:
                            others.remove(hook)


def _overrides(hook: Hook, event: str) -> bool:
    if isinstance(hook, every):
        return _overrides(hook.hook, event)
    return getattr(type(hook), event) is not getattr(Hook, event)
