"""What a task's configuration promises: which models fit it, what it measures, and how to build it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch

from loopwright.config.node import Node
from loopwright.engine.task import Metrics, Task
from loopwright.streams import Streams


class TaskConfig(Node):
    """The base of every task's configuration.

    `models` is the class a recipe's model must derive from (None: the task has no top-level model), `default_model` the
    registered one it takes when the recipe names none, `monitor` the metric that `best` follows by default, and `ties`
    those that decide, in their own direction, among equal values of the monitor.
    """

    models: ClassVar[type[Node] | None] = None
    default_model: ClassVar[str | None] = None
    monitor: ClassVar[str] = "loss"
    ties: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def metrics(self) -> Metrics:
        """The names that the task's `evaluate` returns, and which way each is better; None: neither (a count)."""

    def metrics_of(self, model: Node | None) -> Metrics:
        """The same for a given model, of which a task may ask what it measures of itself; by default nothing."""
        return self.metrics()

    @abstractmethod
    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> Task:
        """Read the data onto the device and make the task. Raises DataError."""
