"""`Overfit`: any task on its first few training samples, without dropout. Can it learn those?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.engine.task import At, Loader, Split, Task, dealt, num_batches
from loopwright.models.dropout import without_dropout
from loopwright.tasks.wrapped import WrappedTask


class Overfit(WrappedTask):
    """Wraps a task: its first `num_samples` training samples are both train and val, and there is no test.

    A task that judges a split otherwise than sample by sample (by generating) is measured by its samples here, so `best`
    may follow another metric: its own monitor where that is one of samples, else the loss. An epoch keeps about as many
    steps as it has without this switch, so that epochs last as long: it goes over the few samples again and again. Where
    that number is not known, a pass over them is one.
    """

    def __init__(self, task: Task, num_samples: int) -> None:
        super().__init__(task)
        self.num_samples = num_samples
        self.metrics = task.sample_metrics()
        self.monitor = task.monitor if task.monitor in self.metrics else "loss"
        self.ties = tuple(name for name in task.ties if name in self.metrics)

    def build_model(self) -> nn.Module:
        return without_dropout(self.task.build_model())

    def loader(self, split: Split) -> Loader | None:
        train = None if split == "test" else self.task.loader("train")
        if train is None:
            return None
        head = train.head(self.num_samples)
        if split != "train" or num_batches(head) == 0:
            return head
        return Repeated(head, -(-(num_batches(train) or 1) // (num_batches(head) or 1)))

    def evaluate(self, model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        return Task.evaluate(self, model, split, at)  # over these few samples, not over the inner task's split

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """How close the few samples were learnt to the best that they allow, where that is known."""
        loader = self.loader(split)
        known = {} if loader is None else self.task.best_reachable(loader)
        shown = [(name, metrics.get(name), best) for name, best in known.items()]
        return [
            f"{name} is {value:.4f}; the best that these {self.num_samples} samples allow is {best:.4f}"
            for name, value, best in shown
            if value is not None
        ]

    def views(self, model: nn.Module, batch: Any, split: Split, at: At) -> Mapping[str, Tensor]:
        return self.task.views(model, batch, "train", at)

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterable[Mapping[str, Any]]:
        return ()


class Repeated:
    """A loader whose pass is `times` passes of another one."""

    def __init__(self, loader: Loader, times: int) -> None:
        self.loader, self.times = loader, times

    @property
    def num_samples(self) -> int | None:
        each = self.loader.num_samples
        return None if each is None else self.times * each

    def __len__(self) -> int:
        return self.times * len(self.loader)

    def head(self, num_samples: int) -> Loader:
        """The first samples of the loader itself, once."""
        return self.loader.head(num_samples)

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        """The batches of epoch `index` (from 0), from batch `start` on."""
        return (batch for batch, _ in self.dealt(index, start))

    def dealt(self, index: int, start: int = 0) -> Iterator[tuple[Any, int | None]]:
        """The same batches, each with the number of samples dealt to it."""
        each = num_batches(self.loader)
        skipped, start = (0, start) if each is None else divmod(start, each)
        for number in range(skipped, self.times):
            yield from dealt(self.loader, index * self.times + number, start)
            start = 0
