"""Learning rates as functions of the position in training: nothing is stepped, stored or replayed.

A schedule is a frozen configuration. `build` fixes the base rate and the length of the run and returns a `Schedule`,
the rate at a position, which counts finished steps (`every: step`) or finished epochs (`every: epoch`), from 0.
`plateau` reads the monitored values so far instead. So `schedule(position, values)` is the rate of what comes next.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from array import array
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch.optim import lr_scheduler

from loopwright.config.node import Keywords, Node, setting
from loopwright.config.registry import Choice, nearest, register
from loopwright.errors import ConfigError
from loopwright.optim.fused import QuietOptimizer

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

    def build(self, total_steps: int, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        """The schedule of one run. `mode` is the direction of the monitored metric. Raises ConfigError."""
        total = self.length(total_steps, steps_per_epoch)
        rate = self.lr

        def schedule(position: int, values: Sequence[float] = ()) -> float:
            return rate(position, total, base_lr)

        return schedule

    def length(self, total_steps: int, steps_per_epoch: int) -> int:
        """The length of the run in this schedule's unit."""
        return total_steps if self.every == "step" else -(-total_steps // max(1, steps_per_epoch))


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

    def build(self, total_steps: int, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        def schedule(position: int, values: Sequence[float] = ()) -> float:
            return self.lr_after(values, base_lr, mode)

        return schedule


_REFUSED = {
    "LambdaLR": "it takes a Python function, which a recipe cannot hold; register a schedule of your own",
    "MultiplicativeLR": "it takes a Python function, which a recipe cannot hold; register a schedule of your own",
    "SequentialLR": "it takes scheduler objects, which a recipe cannot hold; register a schedule of your own",
    "ChainedScheduler": "it takes scheduler objects, which a recipe cannot hold; register a schedule of your own",
    "ReduceLROnPlateau": "it follows a metric; use schedule.name=plateau, which has the same rule",
}
_CLASSES: dict[str, type[Any]] = {
    name: getattr(lr_scheduler, name) for name in lr_scheduler.__all__ if name != "LRScheduler"
}
_SPELLING = {name.lower(): name for name in _CLASSES}
_NOT_IN_A_RECIPE = ("optimizer", "last_epoch", "scale_fn", "epochs", "steps_per_epoch")


class TorchSchedule(ScheduleConfig):
    """Any scheduler of torch.optim.lr_scheduler, with its keywords in `args`.

    Torch's schedulers are recursive, so the rates are those of the class itself, stepped on an empty optimizer and
    kept: a function of the position with torch's own bits. CyclicLR and OneCycleLR also move the momentum unless told
    not to; as a schedule here sets the rate only, they need `args.cycle_momentum: false`. The optimizer's rate is the
    default of CyclicLR's `base_lr` and OneCycleLR's `max_lr`, the length of the run that of `total_steps`.
    """

    name: str = setting(..., "name of a class in torch.optim.lr_scheduler")
    every: Unit = setting("epoch", "whether the scheduler is stepped per step or per epoch")
    args: Keywords = setting({}, "keywords of the class, other than the optimizer")

    @model_validator(mode="before")
    @classmethod
    def _own_unit(cls, tree: Any) -> Any:
        per_step = isinstance(tree, dict) and tree.get("name") in ("OneCycleLR", "CyclicLR")
        return {"every": "step", **tree} if per_step else tree

    @model_validator(mode="after")
    def _class_takes_it(self) -> Self:
        if self.name not in _CLASSES:
            _refuse(f"name is {self.name!r}; torch.optim.lr_scheduler spells it {_SPELLING[self.name.lower()]!r}")
        if self.name in _REFUSED:
            _refuse(f"name is {self.name!r}, which cannot be used: {_REFUSED[self.name]}")
        parameters = inspect.signature(_CLASSES[self.name]).parameters
        allowed = [key for key in parameters if key not in _NOT_IN_A_RECIPE]
        for key in self.args:
            if key not in allowed:
                _refuse(f"args.{key} is unknown to {self.name}; allowed: {', '.join(allowed)}{nearest(key, allowed)}")
        if "cycle_momentum" in parameters and self.args.get("cycle_momentum") is not False:
            _refuse(f"args.cycle_momentum must be false for {self.name}: a schedule sets the learning rate only")
        given = self._arguments(total=1, base_lr=1.0)
        missing = [k for k in allowed if parameters[k].default is inspect.Parameter.empty and k not in given]
        if missing:
            _refuse(f"args lacks {', '.join(missing)}, which {self.name} needs")
        try:
            self._rates(total=10, base_lr=1.0)(1)  # some values show only when a step is taken
        except ConfigError:  # the length of the run is judged in `build`
            pass
        except Exception as error:  # classes trip over odd values in their own ways (KeyError, IndexError, ...)
            _refuse(f"args is {self.args}, which {self.name} refuses: {error}")
        return self

    @property
    def depends_on_total(self) -> bool:
        return self.name == "OneCycleLR" and "total_steps" not in self.args

    def _arguments(self, total: int, base_lr: float) -> dict[str, Any]:
        known = {"OneCycleLR": {"max_lr": base_lr, "total_steps": total}, "CyclicLR": {"base_lr": base_lr}}
        return {**known.get(self.name, {}), **self.args}

    def _scheduler(self, total: int, base_lr: float) -> Any:
        return _CLASSES[self.name](_Rate(base_lr), **self._arguments(total, base_lr))

    def lr(self, position: int, total: int, base_lr: float) -> float:
        return self._rates(total, base_lr)(position)

    def build(self, total_steps: int, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        return self._rates(self.length(total_steps, steps_per_epoch), base_lr)

    def _rates(self, total: int, base_lr: float) -> Schedule:
        scheduler = self._scheduler(max(total, 1), base_lr)
        if self.name == "OneCycleLR" and scheduler.total_steps < total:
            raise ConfigError(
                f"schedule.args.total_steps is {scheduler.total_steps} but the run has {total} {self.every}s; "
                f"leave it out or give at least {total}"
            )
        scheduler.optimizer.step()  # torch warns when a scheduler runs before its optimizer
        rates: array[float] = array("d", [scheduler.get_last_lr()[0]])

        def schedule(position: int, values: Sequence[float] = ()) -> float:
            position = min(position, total)
            while len(rates) <= position:
                scheduler.step()
                rates.append(scheduler.get_last_lr()[0])
            return rates[position]

        return schedule


class _Rate(QuietOptimizer):
    """What torch's schedulers write to: a learning rate, and nothing to optimise."""

    def __init__(self, lr: float) -> None:
        super().__init__([torch.zeros(())], {"lr": lr})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing to do."""


def _refuse(message: str) -> None:
    raise PydanticCustomError("torch_schedule", "{message}", {"message": message.splitlines()[0]})


def _alias(name: str) -> type[Node] | None:
    """Also a name in the wrong case, so that the error can tell the right one."""
    return TorchSchedule if name.lower() in _SPELLING else None


SCHEDULE = Choice("schedule", ScheduleConfig, aliases=_alias, default="constant", also=_CLASSES)
