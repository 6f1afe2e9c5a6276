"""How long a run will take, from a few seconds of it: really trained, in memory, with one evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from loopwright import clock
from loopwright.building import Built, build, plan
from loopwright.config.durations import Duration
from loopwright.config.schema import Recipe
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.evaluate import evaluate
from loopwright.engine.extent import extent
from loopwright.engine.finite import Diverged
from loopwright.engine.passes import Passes
from loopwright.engine.plan import Plan
from loopwright.engine.steps import steps
from loopwright.streams import isolated

# How long the steps after the first are timed. That one is left out where there are others: libraries set up in it.
PROBE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured of one run, in seconds, and how much of it the whole run has."""

    device: str
    build_seconds: float
    steps_timed: int
    step_seconds: float
    evaluation_seconds: float
    # None where nobody knows.
    epochs: int | None
    steps: int | None
    # Evaluations of the size of val: each validation, and the tests with the last and the best weights.
    evaluations: float
    # Seconds after which `stop.budget` ends the training.
    budget_seconds: float | None = None
    # The keys that may end it before its last epoch.
    may_stop: tuple[str, ...] = ()

    @property
    def seconds(self) -> float | None:
        """The whole run, if no rule stops it early; None where nobody knows how many steps it has."""
        if self.steps is None:
            return None
        training = self.steps * self.step_seconds + self.evaluations * self.evaluation_seconds
        return self.build_seconds + min(training, self.budget_seconds or math.inf)


def probe(recipe: Recipe, seconds: float = PROBE_SECONDS, now: Callable[[], float] = clock.monotonic) -> Timing:
    """Train for about this long and project the rest. Writes nothing. Raises whatever the training would raise."""
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic):
        began = now()
        built = build(recipe, device)
        wanted = plan(built)
        build_seconds = now() - began
        with built.memory_explained("while a run was timed", "try train.accumulate=2 or a smaller batch"):
            timed, step_seconds = _steps(built, wanted, seconds, now)
            evaluation_seconds = _evaluation(built, now)
    epochs, num_steps = _extent(built)
    budget = recipe.stop.budget
    return Timing(
        str(device),
        build_seconds,
        timed,
        step_seconds,
        evaluation_seconds,
        epochs,
        num_steps,
        _evaluations(built, epochs, num_steps),
        budget.amount if budget is not None and budget.unit == "seconds" else None,
        _may_stop(recipe),
    )


def _steps(built: Built, wanted: Plan, seconds: float, now: Callable[[], float]) -> tuple[int, float]:
    """Steps timed, and the seconds of each."""
    state, train = built.state, built.recipe.train
    loader = built.task.loader("train")
    done, first, began = 0, 0.0, now()
    try:
        passes = None if loader is None else Passes(loader)
        while passes is not None and state.epoch < train.epochs:
            for info in steps(
                built.task,
                state,
                passes,
                built.streams,
                lr=wanted.lr,
                clip_norm=train.clip_norm,
                measure_norm=wanted.measure_norm,
                accumulate=train.accumulate,
                epoch_steps=train.epoch_steps,
            ):
                _ = info.loss  # waits for the device
                done += 1
                if done == 1:
                    first = now() - began
                    began += first
                elif now() - began >= seconds:
                    return done - 1, (now() - began) / (done - 1)
            state.epoch, state.batch = state.epoch + 1, 0
    except Diverged:
        pass  # the steps until then took as long as others
    return (done - 1, (now() - began) / (done - 1)) if done > 1 else (done, first)


def _evaluation(built: Built, now: Callable[[], float]) -> float:
    """Seconds of a validation; of a test where there is no val."""
    state = built.state
    for split in ("val", "test"):
        if built.task.loader(split) is not None:
            began = now()
            evaluate(
                built.task, state.model, split, built.streams, step=state.step, epoch=state.epoch, device=built.device
            )
            return now() - began
    return 0.0


def _extent(built: Built) -> tuple[int | None, int | None]:
    """Epochs and steps of the whole run, as `stop.budget` allows; None where nobody knows."""
    budget = built.recipe.stop.budget
    per_epoch, epochs, num_steps = extent(built.recipe.train, built.task.loader("train"))
    if budget is not None and budget.unit == "epochs":
        epochs = _less(epochs, int(budget.amount))
        num_steps = num_steps if per_epoch is None else _less(num_steps, epochs * per_epoch)
    if budget is not None and budget.unit == "steps":
        num_steps = _less(num_steps, int(budget.amount))
        epochs = epochs if per_epoch is None else _less(epochs, math.ceil(num_steps / per_epoch) if per_epoch else 0)
    return epochs, num_steps


def _less(known: int | None, bound: int) -> int:
    return bound if known is None else min(known, bound)


def _evaluations(built: Built, epochs: int | None, num_steps: int | None) -> float:
    if not num_steps:
        return 0.0
    every: Duration = built.recipe.train.validate_every
    val, test = built.task.loader("val"), built.task.loader("test")
    often = epochs or 1 if every.unit == "epochs" else num_steps
    validations = 0 if val is None else math.ceil(often / every.amount)
    if test is None:
        return validations
    measured, held = None if val is None else val.num_samples, test.num_samples
    return validations + (2.0 * held / measured if measured and held is not None else 2.0)


def _may_stop(recipe: Recipe) -> tuple[str, ...]:
    rules = {
        "stop.patience": recipe.stop.patience > 0 and not recipe.train.overfit,
        "stop.gate": bool(recipe.stop.gate),
    }
    return tuple(key for key, applies in rules.items() if applies)
