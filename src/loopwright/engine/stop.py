"""Stop rules: pure functions of the history. A rule answers with a `Stop`, or None to go on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from loopwright.engine.history import History, better
from loopwright.engine.outcome import Status


@dataclass(frozen=True, slots=True)
class Stop:
    """Why training ends here."""

    status: Status
    reason: str


StopRule = Callable[[History], Stop | None]


@dataclass(frozen=True, slots=True)
class Patience:
    """Stop after `patience` evaluations in a row without an improvement of at least `min_delta`; 0 never stops.

    Relative: improved when value < best - |best| x min_delta (mirrored for max). Counts evaluations, not epochs.
    """

    monitor: str
    mode: Literal["min", "max"]
    patience: int
    min_delta: float = 0.0
    relative: bool = False

    def __call__(self, history: History) -> Stop | None:
        if self.patience == 0:
            return None
        best, waited = math.nan, 0
        for value in history.column(self.monitor):
            if value is None:
                continue
            margin = self.min_delta * (abs(best) if self.relative else 1.0)
            bar = best - margin if self.mode == "min" else best + margin
            if not math.isnan(value) and (math.isnan(best) or better(value, bar, self.mode)):
                best, waited = value, 0
            else:
                waited += 1
        if waited >= self.patience:
            return Stop("early_stopped", f"{self.monitor} has not improved on {best:.6g} for {waited} evaluations")
        return None


@dataclass(frozen=True, slots=True)
class Gate:
    """Stop at once when every metric is strictly better than its threshold, `hold` evaluations in a row.

    A metric without a value (no check was possible) does not pass.
    """

    thresholds: Mapping[str, float]
    modes: Mapping[str, Literal["min", "max"]]
    hold: int = 1

    def passes(self, history: History) -> bool:
        # A row without any val_ value closed without an evaluation (train.validate_every) and says nothing.
        evaluated = [row for row in history if any(v is not None for k, v in row.items() if k.startswith("val_"))]
        recent = evaluated[-self.hold :]
        return len(recent) == self.hold and all(
            (value := row.get(name)) is not None and better(value, threshold, self.modes[name])
            for row in recent
            for name, threshold in self.thresholds.items()
        )

    def __call__(self, history: History) -> Stop | None:
        if not self.passes(history):
            return None
        return Stop("gate_passed", f"gate passed: {self.describe()}")

    def describe(self) -> str:
        signs = {"min": "<", "max": ">"}
        return ", ".join(f"{name} {signs[self.modes[name]]} {value:g}" for name, value in self.thresholds.items())


@dataclass(frozen=True, slots=True)
class Pruned:
    """Stop when `judge(history)` says so: the pruner of a search."""

    judge: Callable[[History], bool]

    def __call__(self, history: History) -> Stop | None:
        return Stop("pruned", "pruned by the search") if self.judge(history) else None


def first_stop(rules: tuple[StopRule, ...], history: History) -> Stop | None:
    """The answer of the first rule that stops."""
    return next((stop for rule in rules if (stop := rule(history)) is not None), None) if len(history) else None
