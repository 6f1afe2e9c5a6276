"""What result.json says, and reading it back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.building import Built
from loopwright.config.schema import prefixed
from loopwright.engine.outcome import Outcome
from loopwright.engine.plan import Plan
from loopwright.errors import RunError
from loopwright.record.read import read_result


def result(outcome: Outcome, built: Built) -> dict[str, Any]:
    """What result.json says."""
    facts: dict[str, Any] = {
        "status": outcome.status,
        "reason": outcome.reason,
        "name": built.recipe.name,
        "seed": built.recipe.seed,
        "recipe_id": built.recipe_id,
        "monitor": outcome.monitor,
        "mode": outcome.mode,
        "value": outcome.value,
        "best": outcome.best,
        "last": outcome.last,
        "test": outcome.test,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "elapsed_seconds": outcome.seconds,
        "weights_sha256": outcome.weights_sha256,
        "remarks": list(outcome.remarks),
    }
    if outcome.gate_passed is not None:
        facts["gate_passed"] = outcome.gate_passed
        if not outcome.gate_passed:
            facts["failure_reason"] = outcome.reason
            for metric in built.recipe.stop.gate or {}:
                facts[f"final_{metric.removeprefix('val_')}"] = (outcome.last or {}).get(prefixed(metric))
            facts["thresholds"] = dict(built.recipe.stop.gate or {})
    facts["curves"] = outcome.curves
    return facts


def outcome_of(path: Path) -> Outcome:
    """The recorded outcome of a run that has ended. Raises RunError."""
    facts = read_result(path)
    if facts is None:
        raise RunError(f"{path} has no result yet; it is unfinished, `loopwright resume` goes on with it")
    facts = _floats(facts)
    return Outcome(
        status=facts["status"],
        reason=facts["reason"],
        monitor=facts["monitor"],
        mode=facts["mode"],
        best=facts.get("best"),
        last=facts.get("last"),
        test=facts.get("test"),
        value=facts.get("value"),
        epochs=facts["epochs"],
        steps=facts["steps"],
        seconds=facts["elapsed_seconds"],
        weights_sha256=facts["weights_sha256"],
        gate_passed=facts.get("gate_passed"),
        curves=facts.get("curves", {}),
        remarks=tuple(facts.get("remarks", ())),
        run=str(path),
    )


def failure(built: Built, wanted: Plan, error: BaseException) -> Outcome:
    """The outcome of a run that the user's code, a bug, or a second Ctrl-C brought down."""
    history = built.state.history
    stopped = isinstance(error, KeyboardInterrupt)
    return Outcome(
        "interrupted" if stopped else "failed",
        "stopped at once; resume goes on from the newest checkpoint" if stopped else f"{type(error).__name__}: {error}",
        wanted.monitor,
        wanted.mode,
        last=history.last,
        epochs=built.state.epoch,
        steps=built.state.step,
        seconds=history.elapsed_seconds,
    )


def _floats(value: Any) -> Any:
    """Undo what strict JSON does to nan and inf."""
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, Mapping):
        return {key: item if key in ("reason", "name") else _floats(item) for key, item in value.items()}
    return [_floats(item) for item in value] if isinstance(value, list) else value
