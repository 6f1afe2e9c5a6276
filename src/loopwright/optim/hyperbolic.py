"""The hyperbolic schedules, whose early rates hardly depend on the length of the run.

h(x) = sqrt((N - x)/U x (2 - (N + x)/U)) for x from 0 to N <= U. As (U h)^2 = (U - x)^2 - (U - N)^2, h is a branch of a
hyperbola, and with U fixed its slope at the start changes little with N (Kim, HyperbolicLR, arXiv:2407.15200).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.errors import ConfigError
from loopwright.optim.schedules import Mode, Schedule, ScheduleConfig, Unit


def h(x: float, length: float, upper_bound: float) -> float:
    """sqrt((N - x)/U x (2 - (N + x)/U)), for 0 <= x <= N <= U: from h(0) <= 1 down to 0 at x = N."""
    return math.sqrt((length - x) / upper_bound * (2 - (length + x) / upper_bound))


class _Hyperbolic(ScheduleConfig):
    """What both have in common: N = `max_iter`, U = `upper_bound`, lr_inf = `infimum`."""

    every: Unit = setting("epoch", "whether max_iter and upper_bound count steps or epochs")
    upper_bound: float = setting(1000.0, "U: no run will ever be longer than this", gt=0)
    max_iter: int | None = setting(None, "N: where the rate is lowest; null for the length of the run", ge=1)
    infimum: float = setting(1e-6, "lr_inf: the rate that would be reached at N = U", gt=0)

    @model_validator(mode="after")
    def _bound_above_length(self) -> Self:
        if self.max_iter is not None and self.upper_bound < self.max_iter:
            raise PydanticCustomError(
                "upper_bound",
                "upper_bound is {bound}, below max_iter {length}; give at least {length}",
                {"bound": self.upper_bound, "length": self.max_iter},
            )
        return self

    @property
    def depends_on_total(self) -> bool:
        return self.max_iter is None

    @abstractmethod
    def scale(self, base_lr: float, drop: float) -> float:
        """The rate where h has changed by `drop` = h(x) - h(0), which is 0 at the start and at least -1."""

    def lr(self, position: int, total: int, base_lr: float) -> float:
        length = self.max_iter or max(total, 1)
        return self.scale(base_lr, h(min(position, length), length, self.upper_bound) - h(0, length, self.upper_bound))

    def build(self, total_steps: int | None, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        length = self.max_iter or self.length(total_steps, steps_per_epoch) or 0
        problems = []
        if self.upper_bound < length:
            problems.append(
                f"schedule.upper_bound is {self.upper_bound:g}, below the run's {length} {self.every}s; "
                f"give at least {length}"
            )
        if self.infimum >= base_lr:
            problems.append(f"schedule.infimum is {self.infimum:g}; give a rate below optim.lr, which is {base_lr:g}")
        if problems:
            raise ConfigError(problems)
        return super().build(total_steps, steps_per_epoch, base_lr, mode)


@register("schedule", "hyperbolic")
class Hyperbolic(_Hyperbolic):
    """lr0 + (lr0 - lr_inf)(h(x) - h(0))."""

    name: Literal["hyperbolic"] = "hyperbolic"

    def scale(self, base_lr: float, drop: float) -> float:
        return base_lr + (base_lr - self.infimum) * drop


@register("schedule", "exp_hyperbolic")
class ExpHyperbolic(_Hyperbolic):
    """lr0 (lr0/lr_inf)^(h(x) - h(0))."""

    name: Literal["exp_hyperbolic"] = "exp_hyperbolic"

    def scale(self, base_lr: float, drop: float) -> float:
        return base_lr * math.pow(base_lr / self.infimum, drop)
