"""`Overfit`: any task on its first few training samples, without dropout. Can it learn those?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Loader, Split, Sums, Task
from loopwright.models.dropout import without_dropout


class Overfit(Task):
    """Wraps a task: its first `num_samples` training samples are both train and val, and there is no test."""

    def __init__(self, task: Task, num_samples: int) -> None:
        self.task, self.num_samples = task, num_samples
        self.metrics, self.monitor = task.metrics, task.monitor

    def build_model(self) -> nn.Module:
        return without_dropout(self.task.build_model())

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.task.groups(model)

    def loader(self, split: Split) -> Loader | None:
        train = None if split == "test" else self.task.loader("train")
        return None if train is None else train.head(self.num_samples)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        return self.task.losses(model, batch, at)

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        return self.task.measure(model, batch, at)

    def finish(self, sums: Mapping[str, tuple[float, int]]) -> dict[str, float | None]:
        return self.task.finish(sums)

    def fingerprint(self) -> str:
        return self.task.fingerprint()

    def facts(self) -> Mapping[str, Any]:
        return self.task.facts()

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterable[Mapping[str, Any]]:
        return ()
