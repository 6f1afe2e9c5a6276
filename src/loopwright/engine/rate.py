"""`learning_rate`: the rate of the step to come, from a schedule and the state; never stored."""

from __future__ import annotations

from typing import Literal

from loopwright.engine.state import TrainState
from loopwright.engine.steps import LearningRate
from loopwright.optim.schedules import ScheduleConfig


def learning_rate(
    schedule: ScheduleConfig,
    base_lr: float,
    *,
    total_steps: int,
    steps_per_epoch: int,
    monitor: str,
    mode: Literal["min", "max"],
) -> LearningRate:
    """The learning rate as a function of a state: of its step, its epoch, or (plateau) the values in its history."""
    rate = schedule.build(total_steps=total_steps, steps_per_epoch=steps_per_epoch, base_lr=base_lr, mode=mode)
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
