"""`WrappedTask`: a task around another one. Override what should differ; the rest is the inner task's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.engine.loss import Loss
from loopwright.engine.meter import Meter
from loopwright.engine.task import At, Loader, Metrics, Split, Sums, Task


class WrappedTask(Task):
    """Passes every call on to `task`."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.metrics, self.monitor, self.ties = task.metrics, task.monitor, task.ties
        self.loss_module = task.loss_module

    def build_model(self) -> nn.Module:
        return self.task.build_model()

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.task.groups(model)

    def loader(self, split: Split) -> Loader | None:
        return self.task.loader(split)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        return self.task.losses(model, batch, at)

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        return self.task.measure(model, batch, at)

    def evaluate(self, model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        return self.task.evaluate(model, split, at)

    def measure_all(self, model: nn.Module, loader: Loader, at: At) -> dict[str, float | None]:
        return self.task.measure_all(model, loader, at)

    def train_meters(self, device: torch.device) -> Mapping[str, Meter]:
        return self.task.train_meters(device)

    def sample_metrics(self) -> Metrics:
        return self.task.sample_metrics()

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        return self.task.finish(sums)

    def fingerprint(self) -> str:
        return self.task.fingerprint()

    def facts(self) -> Mapping[str, Any]:
        return self.task.facts()

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        return self.task.remarks(split, metrics)

    def checkpoint_values(
        self, history: Mapping[str, list[float | None]], train_losses: list[float | None]
    ) -> Mapping[str, Any]:
        return self.task.checkpoint_values(history, train_losses)

    def best_reachable(self, loader: Loader) -> Mapping[str, float]:
        return self.task.best_reachable(loader)

    def internals(self, model: nn.Module, batch: Any, at: At) -> Mapping[str, Tensor]:
        return self.task.internals(model, batch, at)

    def views(self, model: nn.Module, batch: Any, split: Split, at: At) -> Mapping[str, Tensor]:
        return self.task.views(model, batch, split, at)

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterable[Mapping[str, Any]]:
        return self.task.examples(model, split, device)
