"""One recipe, several seeds: a run directory each, and the mean of their final values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loopwright.config.schema import Recipe
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.experiment import run


@dataclass(frozen=True, slots=True)
class SeedsOutcome:
    """How the seeds of a recipe ended. `value` is the mean of their final values; the worst there is once one has diverged.

    Runs that failed their gate do not count, unless all did, nor do those without a value.
    """

    runs: tuple[Outcome, ...]

    @property
    def value(self) -> float | None:
        values = [outcome.value for outcome in self.counted if outcome.value is not None]
        if values and all(map(math.isfinite, values)):
            return math.fsum(values) / len(values)
        return next((value for value in values if not math.isfinite(value)), None)

    @property
    def counted(self) -> tuple[Outcome, ...]:
        """The runs behind `value`."""
        valued = tuple(outcome for outcome in self.runs if outcome.value is not None)
        return tuple(outcome for outcome in valued if outcome.status != "gate_failed") or valued

    @property
    def status(self) -> str:
        """The status of the worst seed."""
        return max(self.runs, key=lambda outcome: outcome.exit_code).status

    @property
    def exit_code(self) -> int:
        return max(outcome.exit_code for outcome in self.runs)


def run_seeds(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    hooks: Iterable[Hook] = (),
) -> Outcome | SeedsOutcome:
    """Train a recipe once per seed, one after the other. After a diverged or interrupted seed the rest are not run."""
    if recipe.seeds is None:
        return run(recipe, out=out, resume=resume, overrides=overrides, hooks=hooks)
    outcomes: list[Outcome] = []
    for seed in recipe.seeds:
        one = recipe.model_copy(update={"seed": seed, "seeds": None})
        outcomes.append(run(one, out=out, resume=resume, overrides=overrides, hooks=hooks))
        if outcomes[-1].status in ("diverged", "interrupted"):
            break
    return SeedsOutcome(tuple(outcomes))
