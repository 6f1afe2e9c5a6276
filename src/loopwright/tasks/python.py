"""The task behind `loopwright.fit`: the user's own module, loss function and data."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor, nn

from loopwright.config.node import Node, frozen, setting
from loopwright.config.registry import register
from loopwright.engine.loss import Loss
from loopwright.engine.meter import Meter
from loopwright.engine.task import At, Direction, Loader, Metrics, Split, Sums, Task, Totals, dealt
from loopwright.errors import ConfigError, RunError
from loopwright.streams import Streams, isolated
from loopwright.tasks.base import TaskConfig
from loopwright.tasks.batches import checked_count, first_dimension, inputs_and_target
from loopwright.tasks.losses import LossFunction, MeanLoss
from loopwright.tasks.measures import (
    Metric,
    SplitMetrics,
    TrainMeter,
    is_stateful,
    metric_named,
    sum_per_sample,
    widened,
)

log = logging.getLogger("loopwright")


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
    directions: Annotated[dict[str, Direction | None], AfterValidator(frozen)] = setting(
        {}, "own metrics, and which way each is better; null where nobody said"
    )
    whole_split_gib: float = setting(
        1.0,
        "GiB of predictions and targets that are kept to call a metric that returns one number with the whole split",
        trajectory=False,
        gt=0,
    )

    def metrics(self) -> Metrics:
        """The loss and the user's own metrics."""
        return {"loss": "min", **self.directions}

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> Task:
        """Only Python has the parts. Raises RunError saying how to go on."""
        raise RunError(
            "this run came from loopwright.fit and needs its module: call loopwright.fit(..., resume=True) with the same "
            "arguments from Python"
        )


class SupervisedTask(Task):
    """`loss(model(*inputs), target)`: a batch is a tensor (its own target) or a tuple whose last item is the target.

    A batch counts by the samples dealt to it; where they are not known, by `count(batch)` or by the first dimension that
    all its tensors share. A loss that says its own count counts by that.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        loss: LossFunction,
        loaders: Mapping[Split, Loader | None],
        metrics: Mapping[str, Metric],
        directions: Metrics,
        fingerprint: str,
        *,
        train_metrics: Mapping[str, Metric] | None = None,
        count: Callable[[Any], Any] | None = None,
        whole_split_gib: float = 1.0,
    ) -> None:
        self._make_model, self._loss, self._loaders = make_model, MeanLoss(loss), dict(loaders)
        # Copies of objects, whose state is the caller's.
        self._measures = {name: copy.deepcopy(one) if is_stateful(one) else one for name, one in metrics.items()}
        self._train_measures = dict(train_metrics or {})
        self._count, self._fingerprint, self._whole_split_gib = count, fingerprint, whole_split_gib
        self._said = False
        if self._loss.is_sum:
            log.warning(
                "`loss` returns the sum over a batch: its averages depend on the batch size, and train.accumulate does not "
                "train what the whole batch trains; use reduction='mean', or return (sum / n, n)"
            )
        self.metrics = {"loss": "min", **directions}
        self.loss_module = loss if isinstance(loss, nn.Module) else None
        if self.loss_module is not None and not self.loss_module.training:
            trained = [name for name, p in self.loss_module.named_parameters() if p.requires_grad]
            if trained:
                log.warning(
                    "`loss` was given in evaluation mode, and its parameters are trained with the model's (%d, the first is "
                    "%s): call loss.requires_grad_(False) to keep them as they are",
                    len(trained),
                    trained[0],
                )

    def build_model(self) -> nn.Module:
        return self._make_model()

    def loader(self, split: Split) -> Loader | None:
        return self._loaders.get(split)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        predicted, target, (mean, count, means) = self._forward(model, batch, at)
        parts = {name: _weighted(one, count) for name, one in means.items()}
        if self._train_measures:
            measured = self._measured_in_training(predicted, target, batch, at)
            _check_distinct(parts, self._train_measures, "train_metrics")
            parts |= measured
        yield Loss(mean, count, parts)

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        """The loss and its parts; the metrics are for `measure_all`."""
        return self._measured(model, batch, at)[2]

    def measure_all(self, model: nn.Module, loader: Loader, at: At) -> dict[str, float | None]:
        totals, metrics = Totals(), SplitMetrics(self._measures, at.device, self._whole_split_gib)
        for batch, at.num_samples in dealt(loader, 0):
            predicted, target, sums = self._measured(model, batch, at)
            totals.add(sums)
            if self._measures:
                metrics.update(predicted, target, self._samples(batch, at))
        of_loss = self.finish(totals.read())
        found = metrics.compute()
        _check_distinct(of_loss, found, "metrics")
        return {**of_loss, **found}

    def train_meters(self, device: torch.device) -> Mapping[str, Meter]:
        objects = {name: one for name, one in self._train_measures.items() if is_stateful(one)}
        return {name: TrainMeter(name, one, device) for name, one in objects.items()}

    def fingerprint(self) -> str:
        return self._fingerprint

    def _forward(
        self, model: nn.Module, batch: Any, at: At
    ) -> tuple[Any, Any, tuple[Tensor, Tensor | float, Mapping[str, Any]]]:
        """Prediction and target of a batch, and the loss of them: its mean, what it counts, the means of its parts."""
        inputs, target = inputs_and_target(batch)
        predicted = model(*inputs)
        mean, count, means = self._loss(predicted, target)
        if count is None:
            if at.micro and self._count is None and not self._said:
                self._say_what_is_accumulated()
            count = self._weight(batch, at)
        return predicted, target, (mean, count, means)

    def _measured(self, model: nn.Module, batch: Any, at: At) -> tuple[Any, Any, Sums]:
        predicted, target, (mean, count, means) = self._forward(model, batch, at)
        return predicted, target, {"loss": _weighted(mean, count)} | {n: _weighted(m, count) for n, m in means.items()}

    def _measured_in_training(self, predicted: Any, target: Any, batch: Any, at: At) -> dict[str, Any]:
        """Sums of what has a value per sample; objects are updated."""
        sums = {}
        for name, metric in self._train_measures.items():
            # What a metric draws must not shift what the rest of the step draws.
            with isolated(), torch.no_grad(), metric_named(name):
                if name in at.meters:
                    at.meters[name].update(predicted, target)
                    continue
                samples = self._samples(batch, at)
                found = sum_per_sample(name, metric(predicted, target), samples, squeezed=samples == 1)
            if found is None:
                raise ConfigError(
                    f"`train_metrics` {name!r} returned one number for a batch, which is no mean over the split; return a "
                    "value per sample, or give an object that is updated (torchmetrics)"
                )
            sums[name] = found
        return sums

    def _samples(self, batch: Any, at: At) -> Any:
        """The number of samples in a batch, None where nothing says it."""
        samples = first_dimension(batch) if at.num_samples is None else at.num_samples
        return self._counted(batch) if samples is None and self._count is not None else samples

    def _weight(self, batch: Any, at: At) -> Tensor | float:
        """What a batch counts in averages, where its loss does not say it. Raises ConfigError where nothing does."""
        weight: Tensor | float | None = self._samples(batch, at) if self._count is None else self._counted(batch)
        if weight is None:
            raise ConfigError(
                "the number of samples in a batch is not known: its loader does not deal them, and its tensors do not share "
                "their first dimension; give fit(count=lambda batch: ...), or let `loss` return (mean, count)"
            )
        return weight

    def _counted(self, batch: Any) -> Tensor | float:
        assert self._count is not None
        return checked_count(self._count(batch), "what `count` returned")

    def _say_what_is_accumulated(self) -> None:
        self._said = True
        if not self._loss.is_mean_over_samples:
            log.warning(
                "train.accumulate weighs the parts of a batch by their samples: that trains what the whole batch trains "
                "only where `loss` is a mean over samples; if it is another mean, return (mean, count)"
            )


def _check_distinct(parts: Mapping[str, Any], metrics: Mapping[str, Any], argument: str) -> None:
    """A part of the loss and a metric cannot share a column."""
    if both := parts.keys() & metrics.keys():
        raise ConfigError(f"`{argument}` has {min(both)!r}, which is a part that `loss` returns; give one another name")


def _weighted(mean: Tensor | float, count: Tensor | float) -> tuple[Tensor | float, Tensor | float]:
    """A mean as (sum, count). That of nothing, which may be NaN, is 0."""
    if isinstance(mean, Tensor):
        mean = widened(mean.detach())
    if isinstance(count, Tensor):
        return torch.where(count == 0, 0.0, mean * count), count
    return (mean * count, count) if count else (0.0, 0)
