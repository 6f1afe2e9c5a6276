"""`Entry`: how one point of a sweep stands. A line of the ledger, and what is counted of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from loopwright.sweeps.launcher import INTERRUPTED

# How a training can end for good; a test holds them against `engine.outcome.Status`.
OUTCOMES = (
    "completed",
    "early_stopped",
    "gate_passed",
    "gate_failed",
    "budget_reached",
    "pruned",
    "diverged",
)
STATUSES = ("waiting", "queued", "running", *OUTCOMES, "interrupted", "crashed", "failed")
MACHINE = 5  # the exit code of a process whose machine gave out: as good as killed


@dataclass(frozen=True, slots=True)
class Entry:
    """How a point stands. `best` is the monitor's best value on val, `test` the metrics of the best weights.

    `identity` and `run` are None before there is a run, `best`, `value`, `test`, `epochs` and `seconds` before it has
    ended. `attempts` counts the processes that worked on it, `error` is what went wrong, in one line.
    """

    point: int
    label: str
    overrides: tuple[str, ...]
    seed: int
    stage: str
    identity: str | None = None
    run: str | None = None
    attempts: int = 0
    status: str = "waiting"
    monitor: str | None = None
    mode: str | None = None
    best: float | None = None
    value: float | None = None
    test: Mapping[str, float | None] | None = None
    epochs: int | None = None
    seconds: float | None = None
    error: str | None = None
    where: str = ""
    log: str = ""

    @property
    def has_outcome(self) -> bool:
        return self.status in OUTCOMES

    @property
    def title(self) -> str:
        """What it is called in a line of its own."""
        return f"{self.label}, seed {self.seed}"


def as_plain(entry: Entry) -> dict[str, Any]:
    """A line as JSON values."""
    return {field.name: getattr(entry, field.name) for field in fields(entry)}


def to_number(value: Any) -> float | None:
    """A number of a JSON file, in which nan and inf are texts."""
    return float(value) if isinstance(value, str) else value


def counts(entries: Iterable[Entry]) -> dict[str, int]:
    """How many points stand how, in the order of a point's life."""
    counted = Counter(entry.status for entry in entries)
    return {status: counted[status] for status in STATUSES if counted[status]}


def exit_code(entries: Iterable[Entry], interrupted: bool = False) -> int:
    """0 when every point has an outcome, 75 interrupted, 1 some failed, 5 some crashed."""
    statuses = {entry.status for entry in entries}
    if interrupted:
        return INTERRUPTED
    if "failed" in statuses:
        return 1
    if "crashed" in statuses:
        return MACHINE
    return 0 if statuses <= set(OUTCOMES) else INTERRUPTED
