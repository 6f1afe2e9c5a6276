"""`Overfit`: any task on its first few training samples, without dropout. Can it learn those?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from loopwright.engine.task import At, Loader, Split, Task
from loopwright.models.dropout import without_dropout
from loopwright.tasks.wrapped import WrappedTask


class Overfit(WrappedTask):
    """Wraps a task: its first `num_samples` training samples are both train and val, and there is no test."""

    def __init__(self, task: Task, num_samples: int) -> None:
        super().__init__(task)
        self.num_samples = num_samples

    def build_model(self) -> nn.Module:
        return without_dropout(self.task.build_model())

    def loader(self, split: Split) -> Loader | None:
        train = None if split == "test" else self.task.loader("train")
        return None if train is None else train.head(self.num_samples)

    def evaluate(self, model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        return Task.evaluate(self, model, split, at)  # over these few samples, not over the inner task's split

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        return []

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterable[Mapping[str, Any]]:
        return ()
