"""`check_model`, `check_data`, `check_loss`: does a part keep what the task it stands in asks of it?

Letters of shapes: B samples, F features, O outputs, T tokens, W events of a window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.config.node import Node
from loopwright.engine.evaluate import evaluating
from loopwright.engine.weights import content_hash
from loopwright.models.base import SequenceModel, TokenModel, VectorModel
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.data import TokenData
from loopwright.tasks.regression.data import TableData
from loopwright.tasks.regression.losses import LossConfig
from loopwright.testing.samples import Classes
from loopwright.testing.tasks import check_task, close, held, task_config

_STREAMS = Streams(0)


def check_model(model: Node | None) -> None:
    """Raise AssertionError unless a vector, sequence or token model has the promised shapes, judges each sample by
    itself, and trains as `check_task` wants in the task it is for.

    A token model is checked for looking ahead, too: logits at t may not depend on tokens after t.
    """
    if isinstance(model, VectorModel):
        _check_module(_built(lambda: model.build(4, 2)), _normal(6, 4), (6, 2))
        check_task(task_config("regression", data={"name": "linear", "rows": 60, "features": 4}), model)
    elif isinstance(model, SequenceModel):
        _check_module(_built(lambda: model.build(3, 7)), _normal(6, 7, 3), (6, 3))
        check_task(task_config("set_prediction", data={"window": 7, "synthetic": {"rows": 60}}), model)
    elif isinstance(model, TokenModel):
        _check_token_module(_built(lambda: model.build(5, 8, {"next": 5, "class": 3})))
        check_task(task_config("regex", data={"samples": 120, "lengths": (1, 6)}), model)
    else:
        raise AssertionError(f"{type(model).__name__} derives from none of VectorModel, SequenceModel, TokenModel")


def check_data(data: Node) -> None:
    """Raise AssertionError unless a table loads as promised, twice the same, and a model trains on it as `check_task`
    wants. Token data of the autoencoder task are checked likewise."""
    if isinstance(data, TokenData):
        from loopwright.testing.autoencoders import check_token_data

        check_token_data(data)
        return
    held(isinstance(data, TableData), f"{type(data).__name__} derives neither from TableData nor from TokenData")
    assert isinstance(data, TableData)
    table, again = data.load(), data.load()
    x, y = np.asarray(table.x), np.asarray(table.y)
    shapes = f"x is {x.shape} and y {y.shape}"
    held(x.ndim == y.ndim == 2 and len(x) == len(y), f"{shapes}; they should be (N, F) and (N, O) with one N")
    finite = np.isfinite(x).all() and np.isfinite(y).all()
    held(bool(finite), "x or y holds a value that is not finite")
    same = np.array_equal(x, again.x) and np.array_equal(y, again.y) and table.fingerprint == again.fingerprint
    held(same, 'loading twice gives other data; draw them from Streams(self.seed).numpy("purpose")')
    check_task(task_config("regression", data=data))


def check_loss(loss: LossConfig) -> None:
    """Raise AssertionError unless a loss is the mean of its samples' losses, a scalar with a finite gradient, and a model
    trains with it as `check_task` wants."""
    held(isinstance(loss, LossConfig), f"{type(loss).__name__} does not derive from LossConfig")
    criterion = loss.build()
    raw_BO = _normal(6, 3).requires_grad_()
    target = {
        "real": lambda: _normal(6, 3, purpose="target"),
        "binary": lambda: (_normal(6, 3, purpose="target") > 0).float(),
        "classes": lambda: torch.arange(6) % 3,
    }[loss.targets]()
    mean = criterion(raw_BO, target)
    held(isinstance(mean, Tensor) and mean.ndim == 0, "the loss of a batch should be a scalar tensor, the mean over it")
    held(mean.requires_grad, "the loss has no gradient; is there a detach(), or a round trip by NumPy?")
    mean.backward()  # type: ignore[no-untyped-call]
    sound = raw_BO.grad is not None and bool(torch.isfinite(raw_BO.grad).all()) and bool(raw_BO.grad.any())
    held(sound, "the gradient of the loss is zero or not finite on ordinary numbers")
    raw_BO = raw_BO.detach()
    one_by_one = torch.stack([criterion(raw_BO[i : i + 1], target[i : i + 1]) for i in range(6)]).mean()
    held(
        close(mean, one_by_one),
        f"the loss of 6 samples is {mean:.6g}, the mean of their own losses {one_by_one:.6g}; make it a mean over samples",
    )
    features = {"rows": 60, "features": 4}
    if loss.targets == "classes":
        check_task(task_config("regression", data=Classes(), loss=loss))
    else:
        kind = "binary" if loss.targets == "binary" else "regression"
        check_task(task_config("regression", data={"name": "linear", "target": kind, **features}, loss=loss))


def _built(build: Any) -> nn.Module:
    with _STREAMS.fork("weights"):
        module = build()
    held(isinstance(module, nn.Module), f"build() should return an nn.Module, not {type(module).__name__}")
    with _STREAMS.fork("weights"):
        again = build()
    drawn = content_hash(module.state_dict()) == content_hash(again.state_dict())
    held(drawn, "building twice under one seed gives other weights; draw them from torch's global generator")
    return module  # type: ignore[no-any-return]


def _check_module(module: nn.Module, x: Tensor, shape: tuple[int, ...]) -> None:
    out = module(x, _STREAMS.generator)
    held(
        tuple(out.shape) == shape, f"in training an input {tuple(x.shape)} gives {tuple(out.shape)} instead of {shape}"
    )
    with evaluating(module), torch.no_grad():
        out, again, first = module(x), module(x), module(x[:1])
    held(
        tuple(out.shape) == shape,
        f"in evaluation an input {tuple(x.shape)} gives {tuple(out.shape)} instead of {shape}",
    )
    held(torch.equal(out, again), "in evaluation one input gives two outputs; no noise where `noise` is None")
    held(close(out[:1], first), "in evaluation a sample's output depends on the rest of its batch")


def _check_token_module(module: nn.Module) -> None:
    tokens_BT = torch.arange(24).view(3, 8) % 5
    other_BT = tokens_BT.clone()
    other_BT[:, 5:] = (other_BT[:, 5:] + 1) % 5
    with evaluating(module), torch.no_grad():
        out: Mapping[str, Tensor] = module(tokens_BT)
        other = module(other_BT)
    shapes = {name: tuple(logits.shape) for name, logits in out.items()}
    wanted = {"next": (3, 8, 5), "class": (3, 8, 3)}
    held(shapes == wanted, f"tokens (3, 8) give {shapes} instead of {wanted}")
    for name in out:
        ahead = close(out[name][:, :5], other[name][:, :5])
        held(ahead, f"logits of the head {name!r} depend on later tokens; a position may not look ahead")


def _normal(*shape: int, purpose: str = "x") -> Tensor:
    return torch.randn(shape, generator=_STREAMS.generator(purpose))
