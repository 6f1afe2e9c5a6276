"""The task behind `loopwright.fit`: the user's own module, loss function and data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from loopwright.config.node import Node, frozen, setting
from loopwright.config.registry import register
from loopwright.data.loaders import num_rows
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Loader, Split, Sums, Task
from loopwright.errors import RunError
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig

LossFunction = Callable[[Any, Any], Tensor]
Metric = Callable[[Any, Any], Tensor | float]


@register("task", "python")
class PythonConfig(TaskConfig):
    """A training that came from Python: its parts are objects, which the run records by content beside its recipe.

    The keys are for people, and are how earlier builds knew the parts.
    """

    models: ClassVar[type[Node] | None] = None

    name: Literal["python"] = "python"
    model: str = setting(..., "hash of the module's structure", trajectory=False)
    initial_sha256: str = setting(..., "hash of the initial weights", trajectory=False)
    loss: str = setting(..., "the loss function's name", trajectory=False)
    directions: Annotated[dict[str, Direction], AfterValidator(frozen)] = setting(
        {}, "own metrics, and which way each is better"
    )

    def metrics(self) -> Mapping[str, Direction]:
        """The loss and the user's own metrics."""
        return {"loss": "min", **self.directions}

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> Task:
        """Only Python has the parts. Raises RunError saying how to go on."""
        raise RunError(
            "this run came from loopwright.fit and needs its module: call loopwright.fit(..., resume=True) with the same "
            "arguments from Python"
        )


class SupervisedTask(Task):
    """`loss(model(*inputs), target)`: a batch is a tensor (its own target) or a tuple whose last item is the target."""

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        loss: LossFunction,
        loaders: Mapping[Split, Loader | None],
        metrics: Mapping[str, Metric],
        directions: Mapping[str, Direction],
        fingerprint: str,
    ) -> None:
        self._make_model, self._loss, self._loaders = make_model, loss, dict(loaders)
        self._metric_functions, self._fingerprint = dict(metrics), fingerprint
        self.metrics = {"loss": "min", **directions}
        self.loss_module = loss if isinstance(loss, nn.Module) else None

    def build_model(self) -> nn.Module:
        return self._make_model()

    def loader(self, split: Split) -> Loader | None:
        return self._loaders.get(split)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        inputs, target = _pair(batch)
        yield Loss(self._loss(model(*inputs), target), _count(target))

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        inputs, target = _pair(batch)
        predicted, count = model(*inputs), _count(target)
        sums: dict[str, tuple[Tensor | float, int]] = {"loss": (self._loss(predicted, target) * count, count)}
        for name, metric in self._metric_functions.items():
            value = metric(predicted, target)
            # One value per sample is added up; a single one is the batch's mean.
            per_sample = isinstance(value, Tensor) and value.ndim == 1 and len(value) == count
            sums[name] = (value.sum() if per_sample else value * count, count)  # type: ignore[union-attr]
        return sums

    def fingerprint(self) -> str:
        return self._fingerprint


def _pair(batch: Any) -> tuple[tuple[Any, ...], Any]:
    if isinstance(batch, list | tuple):
        return (tuple(batch[:-1]), batch[-1]) if len(batch) > 1 else ((batch[0],), batch[0])
    return (batch,), batch


def _count(target: Any) -> int:
    return num_rows(target)
