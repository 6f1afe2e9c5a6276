"""What a trial's job came to: read from the lines that its processes left, and from how the last one ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loopwright.sweeps.attempts import Attempt
from loopwright.sweeps.ending import how_it_ended
from loopwright.sweeps.launcher import JobState


@dataclass(frozen=True, slots=True)
class Ended:
    """`outcome`: it was trained; `failed`: that is an error; `crashed`: its process died; `again`: it was interrupted, or
    another process works on it."""

    kind: Literal["outcome", "failed", "crashed", "again"]
    status: str = ""
    values: tuple[float, ...] | None = None
    runs: tuple[str, ...] = ()
    epochs: int = 0
    seconds: float = 0.0
    gate_passed: bool | None = None
    error: str = ""

    @property
    def attributes(self) -> dict[str, Any]:
        """What the storage keeps of it, beside the values."""
        kept: dict[str, Any] = {"status": self.status if self.kind == "outcome" else self.kind}
        if self.error:
            kept["error"] = self.error
        if self.kind == "outcome":
            kept |= {"epochs": self.epochs, "seconds": self.seconds}
        if self.runs:  # each attribute is a write: 2 ms in SQLite
            kept["runs"] = list(self.runs)
        if self.gate_passed is not None:
            kept["gate_passed"] = self.gate_passed
        return kept


def judge(newer: Sequence[Attempt], state: JobState, log: Path) -> Ended:
    """What a job came to that has ended; `newer` are the attempts that it began."""
    kind, error = how_it_ended(newer, state, log)
    if kind == "outcome":
        return outcome(next(attempt for attempt in reversed(newer) if attempt.end != "busy"))
    if kind == "busy" or kind == "interrupted":
        return Ended("again")
    return Ended(kind, error=error or "")


def outcome(attempt: Attempt) -> Ended:
    """What an attempt says that trained its trial to an outcome."""
    facts = attempt.facts
    values = facts.get("values")
    return Ended(
        "outcome",
        attempt.end or "",
        None if values is None else tuple(map(float, values)),
        tuple(facts.get("runs", ())),
        int(facts.get("epochs", 0)),
        float(facts.get("seconds", 0.0)),
        facts.get("gate_passed"),
    )


def recorded(attempts: Sequence[Attempt]) -> Ended | None:
    """The outcome that a trial's processes have left; None where it has to be trained."""
    last = attempts[-1] if attempts else None
    if last is None or last.end in (None, "busy", "interrupted", "failed"):
        return None
    return outcome(last)
