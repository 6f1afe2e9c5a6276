"""Prediction and target of different shapes, which torch broadcasts: a training on the wrong loss that nothing shows."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.errors import DataError
from loopwright.tasks.batches import unwrapped

log = logging.getLogger("loopwright")

_ELEMENTWISE: frozenset[Any] = frozenset(
    {
        *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.PoissonNLLLoss),
        *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss),
    }
)


def shape_check(loss: Any) -> Callable[[Any, Any], None]:
    """What looks at each (prediction, target) of a loss.

    Losses of torch that compare element by element refuse different shapes with a DataError. Of any other function nobody
    knows what it makes of them: one warning where exactly (N, 1) meets (N,).
    """
    loss = unwrapped(loss)
    while isinstance(loss, functools.partial):
        loss = loss.func
    kind = type(loss) if isinstance(loss, nn.Module) else loss
    try:
        known = kind in _ELEMENTWISE
    except TypeError:  # an object that cannot be hashed
        known = False
    return functools.partial(_refuse, kind.__name__) if known else _WarnOnce()


def _refuse(name: str, predicted: Any, target: Any) -> None:
    if not (isinstance(predicted, Tensor) and isinstance(target, Tensor)) or predicted.shape == target.shape:
        return
    raise DataError(
        f"`loss` is {name}, which compares element by element, and the model's output has the shape "
        f"{tuple(predicted.shape)}, the target {tuple(target.shape)}: torch would broadcast them; {_fix(predicted, target)}"
    )


class _WarnOnce:
    def __init__(self) -> None:
        self._said = False

    def __call__(self, predicted: Any, target: Any) -> None:
        if self._said or not (isinstance(predicted, Tensor) and isinstance(target, Tensor)):
            return
        if abs(predicted.ndim - target.ndim) != 1 or len(predicted) < 2 or not _differ_by_one(predicted, target):
            return
        if predicted.is_floating_point() and target.is_floating_point():
            self._said = True
            log.warning(
                "the model's output has the shape %s, the target %s: most losses broadcast them to (N, N) and train on "
                "something else; %s",
                tuple(predicted.shape),
                tuple(target.shape),
                _fix(predicted, target),
            )


def _differ_by_one(predicted: Tensor, target: Tensor) -> bool:
    """Whether one is (N, 1) and the other (N,)."""
    shapes = {tuple(predicted.shape), tuple(target.shape)}
    return shapes == {(len(predicted),), (len(predicted), 1)}


def _fix(predicted: Tensor, target: Tensor) -> str:
    if predicted.ndim and _differ_by_one(predicted, target):
        return "give target." + ("unsqueeze(1)" if predicted.ndim == 2 else "squeeze(1)")
    return "give both one shape"
