"""The losses of the regression task: each a choice by name, a mean over the samples of a batch.

Letters of shapes: B samples, O outputs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import Tensor
from torch.nn import functional as F

from loopwright.config.node import Node
from loopwright.config.registry import register

Criterion = Callable[[Tensor, Tensor], Tensor]
Targets = Literal["real", "binary", "classes"]


class LossConfig(Node):
    """A choice of `task/loss`.

    `targets` says what the targets (B, O) are: `real` numbers, `binary` ones (0 and 1, the predictions logits), or
    `classes` (class numbers (B,), the predictions (B, C) logits of them).
    """

    targets: ClassVar[Targets] = "real"

    @abstractmethod
    def build(self) -> Criterion:
        """(predicted (B, O), target) -> the mean over the batch, a scalar with a gradient. A function or a module."""

    @model_serializer(mode="wrap")
    def _as_its_name(self, serialize: SerializerFunctionWrapHandler) -> Any:
        # A loss without keys is written as it is asked for, `loss: mse`.
        tree = serialize(self)
        return tree["name"] if set(tree) == {"name"} else tree


def mse(predicted: Tensor, target: Tensor) -> Tensor:
    """F.mse_loss to the bit; equal shapes pass by its broadcasting, whose views cost 16 us of a step's 530."""
    if predicted.shape != target.shape:
        return F.mse_loss(predicted, target)
    mean: Tensor = torch._C._nn.mse_loss(predicted, target, 1)  # type: ignore[arg-type]  # 1: the mean
    return mean


@register("task/loss", "mse")
class MSE(LossConfig):
    """The mean squared error."""

    name: Literal["mse"] = "mse"

    def build(self) -> Criterion:
        return mse


@register("task/loss", "l1")
class L1(LossConfig):
    """The mean absolute error."""

    name: Literal["l1"] = "l1"

    def build(self) -> Criterion:
        return F.l1_loss


@register("task/loss", "huber")
class Huber(LossConfig):
    """Quadratic up to an error of 1, linear from there on (Huber 1964)."""

    name: Literal["huber"] = "huber"

    def build(self) -> Criterion:
        return F.huber_loss


@register("task/loss", "bce_with_logits")
class BCEWithLogits(LossConfig):
    """Binary cross-entropy of logits."""

    targets: ClassVar[Targets] = "binary"

    name: Literal["bce_with_logits"] = "bce_with_logits"

    def build(self) -> Criterion:
        return F.binary_cross_entropy_with_logits


@register("task/loss", "cross_entropy")
class CrossEntropy(LossConfig):
    """Cross-entropy of the logits of all classes."""

    targets: ClassVar[Targets] = "classes"

    name: Literal["cross_entropy"] = "cross_entropy"

    def build(self) -> Criterion:
        return F.cross_entropy
