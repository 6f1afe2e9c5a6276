"""`Recorder`: what the engine asks of whoever keeps the record; and the one that keeps it in memory only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from loopwright.engine.history import Row
from loopwright.engine.state import TrainState, snapshot


class Recorder(Protocol):
    """Where rows, events and checkpoints go. The engine calls it in the order in which things happen."""

    run: str | None

    def event(self, kind: str, **facts: Any) -> None:
        """Something happened (`on_start`, `on_epoch_end`, ...)."""

    def step_rows(self, rows: Iterable[Mapping[str, float | None]]) -> None:
        """Rows of steps.csv, in order."""

    def epoch_row(self, row: Row) -> None:
        """A row of metrics.csv."""

    def due(self, state: TrainState) -> bool:
        """Whether a checkpoint is wanted at this step. Asked after every step, so it must be cheap."""

    def checkpoint(self, state: TrainState, tags: frozenset[str], *, now: bool) -> None:
        """The state may be saved here, and must be if `now`. `tags` (best, gate) are kept even when it is not."""

    def weights(self, tag: str) -> Mapping[str, Any] | None:
        """`TrainState.weights` at a tag, or None where there is none; there may be more in it."""

    def step_curve(self) -> list[float | None]:
        """The training loss of every recorded step."""


class MemoryRecorder:
    """Keeps what an Outcome needs and writes nothing (`record.save=false`)."""

    run: str | None = None

    def __init__(self, steps_every: int = 1) -> None:
        self._losses: list[float | None] = []
        self._weights: dict[str, Mapping[str, Any]] = {}

    def event(self, kind: str, **facts: Any) -> None:
        return None

    def step_rows(self, rows: Iterable[Mapping[str, float | None]]) -> None:
        self._losses.extend(row["loss"] for row in rows)

    def epoch_row(self, row: Row) -> None:
        return None

    def due(self, state: TrainState) -> bool:
        return False

    def checkpoint(self, state: TrainState, tags: frozenset[str], *, now: bool) -> None:
        for tag in tags:
            self._weights[tag] = snapshot(state.weights())

    def weights(self, tag: str) -> Mapping[str, Any] | None:
        return self._weights.get(tag)

    def step_curve(self) -> list[float | None]:
        return self._losses
