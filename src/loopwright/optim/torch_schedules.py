"""Any scheduler of torch.optim.lr_scheduler by its class name, as a function of the position."""

from __future__ import annotations

import inspect
from array import array
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch.optim import lr_scheduler

from loopwright.config.node import Keywords, Node, setting
from loopwright.config.registry import Choice, nearest
from loopwright.errors import ConfigError
from loopwright.optim.fused import QuietOptimizer
from loopwright.optim.schedules import Mode, Schedule, ScheduleConfig, Unit

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

    def build(self, total_steps: int | None, steps_per_epoch: int, base_lr: float, mode: Mode = "min") -> Schedule:
        return self._rates(self.length(total_steps, steps_per_epoch), base_lr)

    def _rates(self, total: int | None, base_lr: float) -> Schedule:
        scheduler = self._scheduler(max(total or 0, 1), base_lr)
        if self.name == "OneCycleLR" and total is None:
            total = scheduler.total_steps  # given in `args`: beyond it the class refuses to be stepped
        if self.name == "OneCycleLR" and scheduler.total_steps < total:
            raise ConfigError(
                f"schedule.args.total_steps is {scheduler.total_steps} but the run has {total} {self.every}s; "
                f"leave it out or give at least {total}"
            )
        scheduler.optimizer.step()  # torch warns when a scheduler runs before its optimizer
        rates: array[float] = array("d", [scheduler.get_last_lr()[0]])

        def schedule(position: int, values: Sequence[float] = ()) -> float:
            position = position if total is None else min(position, total)
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
