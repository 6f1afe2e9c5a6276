"""What a person watching sees: a bar on a terminal, a line per epoch anywhere else."""

from __future__ import annotations

import importlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from loopwright.engine.hooks import Hook, Info

# Drawn at most this often, in seconds: ten times a second is as much as an eye follows.
_REDRAW_SECONDS = 0.1


class ProgressBar(Hook):
    """A tqdm bar over all optimizer steps: epoch, loss, the watched metrics, samples per second and the time left.

    Where nobody knows how many steps there will be, the steps done are shown without a bar.
    `clock` gives seconds. A step on which nothing is drawn costs 0.1 us.
    """

    optional = True

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._bar: Any = None
        self._due = 0.0
        self._watched = ""
        self._epoch_began = (0.0, 0)

    def on_start(self, info: Info) -> None:
        tqdm: Any = importlib.import_module("tqdm").tqdm  # 30 ms, not to be paid by runs without a bar
        without_thread = type("Bar", (tqdm,), {"monitor_interval": 0})  # every redraw is ours: nobody need watch
        self._bar = without_thread(
            total=info.total_steps,
            initial=info.step,
            file=self._stream or sys.stderr,
            unit="step",
            mininterval=0,
            miniters=1,
            dynamic_ncols=True,
            bar_format="{desc}  step {n_fmt} [{elapsed}]{postfix}"
            if info.total_steps is None
            else "{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}",
            desc=position(info),
        )
        self._epoch_began = (self._clock(), info.samples)
        self._due = self._clock() + _REDRAW_SECONDS

    def on_epoch_start(self, info: Info) -> None:
        self._epoch_began = (self._clock(), info.samples)

    def on_step_end(self, info: Info) -> None:
        now = self._clock()
        if now >= self._due:
            self._draw(info, now)

    def on_validation_end(self, info: Info) -> None:
        shown = {name: value for name, value in watched(info).items() if value is not None}
        self._watched = "  ".join(f"{name} {value:.4g}" for name, value in shown.items()) or self._watched

    def on_train_end(self, info: Info) -> None:
        self._close(info)

    def on_exception(self, info: Info) -> None:
        self._close(info)

    def _draw(self, info: Info, now: float) -> None:
        if self._bar is None:
            return
        self._due = now + _REDRAW_SECONDS
        began, samples_before = self._epoch_began
        facts = [] if info.loss is None else [f"loss {info.loss:.4g}"]
        if self._watched:
            facts.append(self._watched)
        if now > began and info.samples > samples_before:
            facts.append(f"{(info.samples - samples_before) / (now - began):,.0f} samples/s")
        self._bar.set_description_str(position(info), refresh=False)
        self._bar.set_postfix_str("  ".join(facts), refresh=False)
        self._bar.update(info.step - self._bar.n)

    def _close(self, info: Info) -> None:
        self._draw(info, self._clock())
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Lines(Hook):
    """A line per epoch through the logger `loopwright`.

    `epoch 3/50  loss 0.123  val_loss 0.14  val_recall_at_20 0.5131  1,234 samples/s`
    """

    def __init__(self, log: logging.Logger | None = None) -> None:
        self._log = log or logging.getLogger("loopwright")

    def on_validation_end(self, info: Info) -> None:
        if info.batch and info.row:  # within an epoch, whose end has a line of its own
            facts = [f"step {info.step}"]
            facts += [f"{name} {value:.4g}" for name, value in self._measured(info).items() if value is not None]
            self._log.info("%s", "  ".join(facts))

    def on_epoch_end(self, info: Info) -> None:
        row = info.row or {}
        shown = {"loss": row.get("train_loss"), **self._measured(info)}
        facts = [position(info)]
        if info.total_steps is None or info.epochs is None:
            facts.append(f"step {info.step}" + ("" if info.total_steps is None else f"/{info.total_steps}"))
        facts += [f"{name} {value:.4g}" for name, value in shown.items() if value is not None]
        speed = row.get("samples_per_second")
        if speed is not None:
            facts.append(f"{speed:,.0f} samples/s")
        self._log.info("%s", "  ".join(facts))

    @staticmethod
    def _measured(info: Info) -> dict[str, float | None]:
        return {"val_loss": (info.row or {}).get("val_loss"), **watched(info)}


def position(info: Info) -> str:
    """The epoch, and of how many where that is known."""
    return f"epoch {info.epoch}" if info.epochs is None else f"epoch {info.epoch}/{info.epochs}"


def watched(info: Info) -> dict[str, float | None]:
    """The monitored metric and those of the gate: names as in metrics.csv (without a prefix `val_` is meant), values."""
    row = info.row or {}
    gate = ((info.recipe or {}).get("stop") or {}).get("gate") or {}
    names = (name if name in row else f"val_{name.removeprefix('val_')}" for name in (info.monitor, *gate))
    return {name: row.get(name) for name in names}
