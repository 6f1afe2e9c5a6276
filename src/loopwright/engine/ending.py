"""`ended`: the outcome of a training from where it stands."""

from __future__ import annotations

import math

from loopwright.engine.outcome import Outcome
from loopwright.engine.plan import Plan
from loopwright.engine.recorder import Recorder
from loopwright.engine.state import TrainState
from loopwright.engine.stop import Stop
from loopwright.engine.task import Task
from loopwright.engine.weights import weights_hash


def ended(stop: Stop, task: Task, state: TrainState, plan: Plan, recorder: Recorder, seconds: float) -> Outcome:
    """How a training ended, all but the test. A diverged one has the worst value there is."""
    last = state.history.last
    worst = math.inf if plan.mode == "min" else -math.inf
    curves: dict[str, list[float | None]] = {"train_loss": recorder.step_curve()}
    for name, direction in task.metrics.items():
        if direction is not None or f"val_{name}" == plan.monitor:
            curves[name] = state.history.column(f"val_{name}")
    return Outcome(
        status=stop.status,
        reason=stop.reason,
        monitor=plan.monitor,
        mode=plan.mode,
        best=state.history.best(plan.ranking),
        last=last,
        value=worst if stop.status == "diverged" else (last or {}).get(plan.monitor),
        epochs=state.epoch,
        steps=state.step,
        seconds=seconds,
        weights_sha256=weights_hash(state.named_weights()),
        gate_passed=None if plan.gate is None else stop.status == "gate_passed",
        curves=curves,
        run=recorder.run,
    )
