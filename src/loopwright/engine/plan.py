"""`Plan`: what `fit` needs of a recipe, resolved against the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from loopwright.config.durations import Duration
from loopwright.engine.history import Ranking
from loopwright.engine.settings import TrainSettings
from loopwright.engine.steps import LearningRate
from loopwright.engine.stop import Gate, StopRule


@dataclass(frozen=True, slots=True)
class Plan:
    """What `fit` needs beside a task and a state: the recipe's values, resolved against the task."""

    train: TrainSettings
    lr: LearningRate
    ranking: Ranking
    stops: tuple[StopRule, ...] = ()
    gate: Gate | None = None
    budget: Duration | None = None
    measure_norm: bool = False
    recipe: Mapping[str, Any] | None = None

    @property
    def monitor(self) -> str:
        return self.ranking.monitor

    @property
    def mode(self) -> Literal["min", "max"]:
        return self.ranking.mode
