"""`learning_rate`: the rate of the step to come, from a schedule and the state; never stored."""

from __future__ import annotations

from typing import Literal

from loopwright.engine.extent import Extent
from loopwright.engine.state import TrainState
from loopwright.engine.steps import LearningRate
from loopwright.errors import ConfigError
from loopwright.optim.schedules import ScheduleConfig


def learning_rate(
    schedule: ScheduleConfig,
    base_lr: float,
    *,
    extent: Extent,
    monitor: str,
    mode: Literal["min", "max"],
) -> LearningRate:
    """The learning rate as a function of a state: of its step, its epoch, or (plateau) the values in its history.

    Raises ConfigError where it depends on a total that nobody knows.
    """
    per_step = schedule.every == "step"
    total = extent.steps if per_step else extent.epochs
    if total is None and schedule.depends_on_total:
        asked = f"`schedule` is {getattr(schedule, 'name', type(schedule).__name__)}, which depends on the total"
        raise ConfigError(
            f"{asked}, and the training data have no length; give train.epoch_steps (steps of an epoch) or train.max_steps "
            "(steps of the run)"
            if extent.steps is None
            else f"{asked} of epochs, and the training data have no length; train.max_steps counts steps, so give "
            "train.epoch_steps beside it, or schedule.every=step"
        )
    # A schedule per epoch counts epochs, which are known where their steps are not.
    rate = schedule.build(
        total_steps=total, steps_per_epoch=(extent.steps_per_epoch or 1) if per_step else 1, base_lr=base_lr, mode=mode
    )
    if schedule.needs_metric:
        known: dict[int, float] = {}

        def after_evaluations(state: TrainState) -> float:
            rows = len(state.history)
            if rows not in known:
                known.clear()
                values = [value for value in state.history.column(monitor) if value is not None]
                known[rows] = rate(len(values), values)
            return known[rows]

        return after_evaluations
    if schedule.every == "step":
        return lambda state: rate(state.step)
    return lambda state: rate(state.epoch)
