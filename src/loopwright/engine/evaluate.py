"""`evaluate`: a split's metrics, without a trace in the training; and `measured`, how any measuring runs a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from weakref import WeakSet

import torch
from torch import nn

from loopwright.engine.kept import Watched
from loopwright.engine.task import At, Split, Task
from loopwright.scalars import as_plain
from loopwright.streams import Streams, isolated

log = logging.getLogger("loopwright")

T = TypeVar("T")

# What autograd says where something differentiates and nothing was recorded.
_SIGNS = (
    "does not require grad and does not have a grad_fn",
    "One of the differentiated Tensors does not require grad",
)
# Models that cannot be measured without grad, as far as this process knows.
_differentiating: WeakSet[nn.Module] = WeakSet()


def evaluate(
    task: Task, model: nn.Module, split: Split, streams: Streams, *, step: int, epoch: int, device: torch.device
) -> dict[str, float | None] | None:
    """Measure a split; None where the task has no such split.

    What the model draws is addressed by (split, step): an evaluation repeated later gives the same numbers, and
    training never notices that there was one.
    """

    def measure() -> dict[str, float | None] | None:
        streams.pin("evaluate", split, step)
        return as_plain(task.evaluate(model, split, At(streams, step, epoch, device)))  # type: ignore[no-any-return]

    with isolated():
        try:
            return measured(measure, model, task.loss_module)
        except Exception as error:
            error.add_note(f"while the {split} split was measured")
            raise


def measured(measure: Callable[[], T], model: nn.Module, loss: nn.Module | None = None) -> T:
    """What `measure` returns with the model in evaluation mode and without grad. Nothing of it stays in the modules.

    No inference mode: code that turns grad on for its forces may differentiate, and what a model keeps for later can
    enter a backward pass. Where code differentiates without turning grad on, it is measured again from the start with
    grad, and from then on at once.
    """
    modules = [model] if loss is None else [model, loss]
    watched = Watched(*modules)
    if model not in _differentiating:
        try:
            with watched.kept(), torch.no_grad():
                return _in_evaluation(modules, measure)
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _SIGNS):
                raise
        _differentiating.add(model)
        log.warning(
            "the model or the loss differentiates while it is measured, so evaluations run with grad, which takes the "
            "memory of a training step; `with torch.enable_grad():` around what differentiates avoids that"
        )
    with watched.kept(), torch.enable_grad():
        return _in_evaluation(modules, measure)


def _in_evaluation(modules: list[nn.Module], measure: Callable[[], T]) -> T:
    for module in modules:
        module.eval()
    return measure()


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
