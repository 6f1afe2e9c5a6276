"""Learning rates as functions of the position in training: nothing is stepped, stored or replayed.

A schedule is a frozen configuration. `build` fixes the base rate and the length of the run and returns a `Schedule`,
the rate at a position, which counts finished steps (`every: step`) or finished epochs (`every: epoch`), from 0.
`plateau` reads the monitored values so far instead. So `schedule(position, values)` is the rate of what comes next.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from loopwright.config.node import Node, setting
from loopwright.config.registry import register

Unit = Literal["step", "epoch"]
Mode = Literal["min", "max"]
Share = Annotated[float, Field(ge=0, le=1)]


class Schedule(Protocol):
    """The rate at a position; `values` are the monitored values of the evaluations so far, oldest first."""

    def __call__(self, position: int, values: Sequence[float] = ()) -> float: ...


class ScheduleConfig(Node):
    """A schedule. Positions past the end of the run keep the last rate."""

    needs_metric: ClassVar[bool] = False
    every: Unit = setting("step", "whether the rate changes per step or per epoch")

    @property
    def depends_on_total(self) -> bool:
        """Whether the rates would differ in a longer run, so that going on with more epochs needs a warning."""
        return False

    @abstractmethod
    def lr(self, position: int, total: int, base_lr: float) -> float:
        """The rate at a position (from 0) of `total` steps or epochs, whichever `every` says."""

    def build(self, total_steps: int | None, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        """The schedule of one run. `mode` is the direction of the monitored metric. Raises ConfigError.

        `total_steps` is None where nobody knows it, which only a schedule is given that does not depend on the total.
        """
        total: Any = self.length(total_steps, steps_per_epoch)
        rate = self.lr

        def schedule(position: int, values: Sequence[float] = ()) -> float:
            return rate(position, total, base_lr)

        return schedule

    def length(self, total_steps: int | None, steps_per_epoch: int) -> int | None:
        """The length of the run in this schedule's unit; None where nobody knows."""
        return (
            total_steps if total_steps is None or self.every == "step" else -(-total_steps // max(1, steps_per_epoch))
        )


@register("schedule", "constant")
class Constant(ScheduleConfig):
    """The base rate throughout."""

    name: Literal["constant"] = "constant"
    every: Literal["step"] = setting("step", "always step: the rate never changes")

    def lr(self, position: int, total: int, base_lr: float) -> float:
        return base_lr


class _Warmup(ScheduleConfig):
    """position / W for W warm-up positions, then a decay from 1 to `floor` over the rest; shares of the base rate."""

    warmup: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)] = setting(
        0.1, "length of the warm-up: a share of the run (below 1), or a whole number of steps"
    )
    floor: Share = setting(0.0, "the last rate as a share of the base rate")

    @property
    def depends_on_total(self) -> bool:
        return True

    def warmup_length(self, total: int) -> int:
        """W = floor(warmup x total); the product is of decimals, since floor(0.29 x 100) in floats is 28."""
        return self.warmup if isinstance(self.warmup, int) else math.floor(Fraction(str(self.warmup)) * total)

    @abstractmethod
    def decay(self, progress: float) -> float:
        """From 1 at progress 0 to 0 at progress 1."""

    def lr(self, position: int, total: int, base_lr: float) -> float:
        warmup = self.warmup_length(total)
        if position < warmup:
            return base_lr * (position / warmup)
        progress = min(1.0, (position - warmup) / (total - warmup)) if total > warmup else 1.0
        return base_lr * (self.floor + (1 - self.floor) * self.decay(progress))


@register("schedule", "warmup_cosine")
class WarmupCosine(_Warmup):
    """Linear warm-up, then floor + (1 - floor)/2 x (1 + cos(pi (s - W)/(S - W)))."""

    name: Literal["warmup_cosine"] = "warmup_cosine"
    floor: Share = setting(0.1, "the last rate as a share of the base rate")

    def decay(self, progress: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * progress))


@register("schedule", "warmup_linear")
class WarmupLinear(_Warmup):
    """Linear warm-up, then a straight line to the floor."""

    name: Literal["warmup_linear"] = "warmup_linear"

    def decay(self, progress: float) -> float:
        return 1 - progress


@register("schedule", "step")
class Step(ScheduleConfig):
    """The base rate times gamma for every `size` positions finished (torch's StepLR)."""

    name: Literal["step"] = "step"
    every: Unit = setting("epoch", "whether `size` counts steps or epochs")
    size: int = setting(10, "positions between two drops", ge=1)
    gamma: float = setting(0.1, "factor of a drop", gt=0)

    def lr(self, position: int, total: int, base_lr: float) -> float:
        return base_lr * math.pow(self.gamma, position // self.size)


@register("schedule", "cosine")
class Cosine(ScheduleConfig):
    """Half a cosine from the base rate to the floor (torch's CosineAnnealingLR with T_max the whole run)."""

    name: Literal["cosine"] = "cosine"
    floor: Share = setting(0.0, "the last rate as a share of the base rate")

    @property
    def depends_on_total(self) -> bool:
        return True

    def lr(self, position: int, total: int, base_lr: float) -> float:
        progress = min(1.0, position / total) if total else 1.0
        return base_lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress)))


@register("schedule", "plateau")
class Plateau(ScheduleConfig):
    """The rate drops by `factor` when the monitored value has not improved for more than `patience` evaluations.

    The rule is torch's ReduceLROnPlateau (relative threshold), computed anew from the whole history each time: 1,000
    evaluations take 0.1 ms, and nothing has to be saved.
    """

    needs_metric: ClassVar[bool] = True
    name: Literal["plateau"] = "plateau"
    every: Literal["epoch"] = setting("epoch", "always epoch: the rate follows evaluations")
    factor: float = setting(0.1, "factor of a drop", gt=0, lt=1)
    patience: int = setting(10, "evaluations without improvement that are tolerated", ge=0)
    threshold: float = setting(1e-4, "relative improvement that counts", ge=0, lt=1)
    cooldown: int = setting(0, "evaluations after a drop during which none is counted as bad", ge=0)
    min_lr: float = setting(0.0, "the rate never drops below this", ge=0)

    def lr(self, position: int, total: int, base_lr: float) -> float:
        """The rate before any value is known."""
        return base_lr

    def lr_after(self, values: Sequence[float], base_lr: float, mode: Mode = "min") -> float:
        """The rate after these evaluations; a NaN is a bad one."""
        sign = 1.0 if mode == "min" else -1.0
        better_than = 1 - sign * self.threshold
        lr, best, bad, cooldown = base_lr, sign * math.inf, 0, 0
        for value in values:
            if sign * value < sign * (best * better_than):
                best, bad = value, 0
            else:
                bad += 1
            if cooldown > 0:
                cooldown, bad = cooldown - 1, 0
            if bad > self.patience:
                lower = max(lr * self.factor, self.min_lr)
                # torch's eps: a smaller change is not made.
                lr = lower if lr - lower > 1e-8 else lr
                cooldown, bad = self.cooldown, 0
        return lr

    def build(self, total_steps: int | None, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        def schedule(position: int, values: Sequence[float] = ()) -> float:
            return self.lr_after(values, base_lr, mode)

        return schedule
