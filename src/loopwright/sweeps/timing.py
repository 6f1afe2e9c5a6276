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
from loopwright.engine.finite import Diverged
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
    epochs: int
    steps: int
    # Evaluations of the size of val: each validation, and the tests with the last and the best weights.
    evaluations: float
    # Seconds after which `stop.budget` ends the training.
    budget_seconds: float | None = None
    # The keys that may end it before its last epoch.
    may_stop: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The whole run, if no rule stops it early."""
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
        while loader is not None and state.epoch < train.epochs:
            for info in steps(
                built.task,
                state,
                loader,
                built.streams,
                lr=wanted.lr,
                clip_norm=train.clip_norm,
                measure_norm=wanted.measure_norm,
                accumulate=train.accumulate,
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


def _extent(built: Built) -> tuple[int, int]:
    """Epochs and steps of the whole run, as `stop.budget` allows."""
    train, budget = built.recipe.train, built.recipe.stop.budget
    loader = built.task.loader("train")
    per_epoch = len(loader) if loader is not None else 0
    epochs = train.epochs
    if budget is not None and budget.unit == "epochs":
        epochs = min(epochs, int(budget.amount))
    num_steps = epochs * per_epoch
    if budget is not None and budget.unit == "steps":
        num_steps = min(num_steps, int(budget.amount))
        epochs = min(epochs, math.ceil(num_steps / per_epoch) if per_epoch else 0)
    return epochs, num_steps


def _evaluations(built: Built, epochs: int, num_steps: int) -> float:
    if not num_steps:
        return 0.0
    every: Duration = built.recipe.train.validate_every
    val, test = built.task.loader("val"), built.task.loader("test")
    validations = 0 if val is None else math.ceil((epochs if every.unit == "epochs" else num_steps) / every.amount)
    tests = 0.0 if test is None else 2.0 if val is None else 2.0 * test.num_samples / val.num_samples
    return validations + tests


def _may_stop(recipe: Recipe) -> tuple[str, ...]:
    rules = {
        "stop.patience": recipe.stop.patience > 0 and not recipe.train.overfit,
        "stop.gate": bool(recipe.stop.gate),
    }
    return tuple(key for key, applies in rules.items() if applies)
