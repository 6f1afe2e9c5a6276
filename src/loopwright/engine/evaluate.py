"""`evaluate`: a split's metrics, without a trace in the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from loopwright.engine.task import At, Split, Task
from loopwright.scalars import as_plain
from loopwright.streams import Streams, isolated


def evaluate(
    task: Task, model: nn.Module, split: Split, streams: Streams, *, step: int, epoch: int, device: torch.device
) -> dict[str, float | None] | None:
    """Measure a split in inference mode; None where the task has no such split.

    What the model draws is addressed by (split, step): an evaluation repeated later gives the same numbers, and
    training never notices that there was one.
    """
    with isolated(), evaluating(model), torch.inference_mode():
        streams.pin("evaluate", split, step)
        try:
            return as_plain(task.evaluate(model, split, At(streams, step, epoch, device)))  # type: ignore[no-any-return]
        except Exception as error:
            error.add_note(f"while the {split} split was measured")
            raise


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode and every module of it back into its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
