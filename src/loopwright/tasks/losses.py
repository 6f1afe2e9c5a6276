"""What the user's loss function returns: a mean, over how much it is one, and its parts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss

from loopwright.errors import ConfigError
from loopwright.scalars import as_plain
from loopwright.tasks.batches import checked_count, unwrapped
from loopwright.tasks.shapes import shape_check

LossFunction = Callable[[Any, Any], Any]
_Weighing = Callable[[Any, Any], Tensor | int]
# Columns of the tables, which no part of a loss may take.
RESERVED = frozenset({"step", "epoch", "loss", "lr", "grad_norm", "grad_norm_max", "skipped_updates"})


class LossValue(NamedTuple):
    """The mean over a batch, what it was divided by (None: the loss does not say), and the means of its parts."""

    mean: Tensor
    count: Tensor | float | None  # type: ignore[assignment]  # hides tuple.count
    parts: Mapping[str, Any] = {}


class MeanLoss:
    """A loss function of (prediction, target), asked for its mean and its count.

    It returns a mean, `(mean, count)`, `(mean, {"part": mean})` or `(mean, count, {"part": mean})`. Of torch's cross
    entropies the count is known: the targets that are not ignored, by the weights of their classes.
    """

    def __init__(self, function: LossFunction) -> None:
        self.function = function
        self._weighing = _class_weighing(function)
        self._check_shapes = shape_check(function)

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether it is known to be a mean over the samples, or to say its count; of a function nobody knows."""
        function = unwrapped(self.function)
        torchs = isinstance(function, _Loss) and type(function).__module__ == _Loss.__module__
        return self._weighing is not None or (torchs and not self.is_sum)

    @property
    def is_sum(self) -> bool:
        """Whether it is one of torch's, told to add up."""
        function = unwrapped(self.function)
        if isinstance(function, functools.partial):
            return function.keywords.get("reduction") == "sum"
        return isinstance(function, _Loss) and function.reduction == "sum"

    def __call__(self, predicted: Any, target: Any) -> LossValue:
        """Raises ConfigError where it returns something else, DataError where it would broadcast."""
        self._check_shapes(predicted, target)
        returned = self.function(predicted, target)
        count: Tensor | float | None = None
        parts: Mapping[str, Any] = {}
        if type(returned) is tuple and 2 <= len(returned) <= 3:
            returned, *more = returned
            if isinstance(more[-1], Mapping):
                parts = more.pop()
                if wrong := RESERVED & parts.keys():
                    raise ConfigError(
                        f"`loss` returned a part {sorted(wrong)[0]!r}, which is a column already; rename it"
                    )
                parts = {name: _checked_part(name, part) for name, part in parts.items()}
            if more:
                count = checked_count(more[0], "the count that `loss` returned")
        elif self._weighing is not None:
            count = checked_count(self._weighing(predicted, target), "the count of `loss`")
        if not isinstance(returned, Tensor) or returned.numel() != 1:
            what = (
                f"a tensor of shape {tuple(returned.shape)}" if isinstance(returned, Tensor) else repr(type(returned))
            )
            raise ConfigError(
                f"`loss` returned {what}; it should return the mean over the batch as a tensor of one number, or "
                "(mean, count), (mean, {'part': mean}), (mean, count, {'part': mean})"
            )
        return LossValue(returned.reshape(()) if returned.ndim else returned, count, parts)


def _checked_part(name: str, part: Any) -> Tensor | float:
    part = as_plain(part)
    if isinstance(part, Tensor) and part.numel() == 1:
        return part.detach().reshape(())
    if isinstance(part, int | float):
        return part
    what = f"a tensor of shape {tuple(part.shape)}" if isinstance(part, Tensor) else repr(part)[:100]
    raise ConfigError(f"`loss` returned the part {name!r} as {what}; it should be its mean over the batch, one number")


def _class_weighing(loss: LossFunction) -> _Weighing | None:
    """What the mean of torch's cross entropy or NLL is divided by; None for any other loss."""
    loss = unwrapped(loss)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss):
        torchs = nn.CrossEntropyLoss if isinstance(loss, nn.CrossEntropyLoss) else nn.NLLLoss
        if type(loss).forward is not torchs.forward or loss.reduction != "mean":
            return None
        module = loss
        return lambda predicted, target: _weight(predicted, target, module.weight, module.ignore_index)
    options: dict[str, Any] = {}
    while isinstance(loss, functools.partial) and not loss.args:
        options, loss = loss.keywords | options, loss.func
    if loss not in (F.cross_entropy, F.nll_loss) or options.get("reduction", "mean") != "mean":
        return None
    return lambda predicted, target: _weight(
        predicted, target, options.get("weight"), options.get("ignore_index", -100)
    )


def _weight(predicted: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor | int:
    if target.is_floating_point():  # probabilities of the classes: the mean is one over the places, weights or not
        classes = predicted.shape[1 if predicted.ndim > 1 else 0]
        return torch.tensor(predicted.numel() / classes)
    if weight is None and target.is_cpu:
        return int(np.count_nonzero(target.numpy() != ignore_index))  # 3 us, where torch takes 20
    counted = target != ignore_index
    if weight is None:
        return counted.sum()
    weights = weight.detach()[target.masked_fill(~counted, 0).long()]
    return torch.where(counted, weights, 0).sum(dtype=None if weights.device.type == "mps" else torch.float64)
