"""`Outcome`: how a run ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loopwright.engine.history import Row

Status = Literal[
    "completed",
    "early_stopped",
    "gate_passed",
    "gate_failed",
    "budget_reached",
    "pruned",
    "diverged",
    "interrupted",
    "failed",
]
EXIT_CODES: Mapping[str, int] = {"diverged": 4, "interrupted": 75, "failed": 1}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: status and reason, the best and the last history row, the test with either weights.

    `value` is the last value of the monitor; a diverged run's is the worst there is (inf when minimising). `run` is the
    run's directory, None where nothing was recorded. `best`, `last` and `test` are None where there is no such thing.
    """

    status: Status
    reason: str
    monitor: str
    mode: Literal["min", "max"]
    best: Row | None = None
    last: Row | None = None
    test: Mapping[str, Mapping[str, float | None]] | None = None
    value: float | None = None
    epochs: int = 0
    steps: int = 0
    seconds: float = 0.0
    weights_sha256: str = ""
    gate_passed: bool | None = None
    curves: Mapping[str, list[float | None]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    run: str | None = None

    @property
    def exit_code(self) -> int:
        """0 done, 4 diverged, 75 interrupted after a checkpoint; a failed gate is an outcome, not an error."""
        return EXIT_CODES.get(self.status, 0)
