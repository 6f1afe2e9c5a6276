"""`Traced`: any task, with a hash of every step's batch, loss, gradients and weights. Finds the first tensor that differs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Task
from loopwright.engine.weights import content_hash
from loopwright.proof.verdict import Tensors
from loopwright.proof.witness import without_wrappers
from loopwright.tasks.wrapped import WrappedTask

# What a step is made of, in the order in which it comes about.
_STAGES = ("the weights before the first step", "the batch", "the loss", "the gradient", "the weights")
_BATCH, _LOSS, _GRADIENT, _WEIGHTS = 1, 2, 3, 4
Key = tuple[int, int]


@dataclass
class Trace:
    """Hashes by (step, stage): 16 bytes for each name, the names kept once a stage."""

    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    hashes: dict[Key, bytes] = field(default_factory=dict)

    def note(self, step: int, stage: int, values: Mapping[str, Any]) -> None:
        held = self.hashes.get(
            (step, stage), b""
        )  # a step of several parts or updates notes batches and losses in turn
        names = self.names.get(stage, ())
        if len(held) // 16 + len(values) > len(names):
            self.names[stage] = (*names, *values)
        self.hashes[step, stage] = held + b"".join(bytes.fromhex(content_hash(v))[:16] for v in values.values())


def first_difference(left: Trace, right: Trace) -> Tensors | None:
    """The first stage of the first step in which two traces differ, over the steps that both have."""
    for step, stage in sorted(left.hashes.keys() & right.hashes.keys()):
        a, b = left.hashes[step, stage], right.hashes[step, stage]
        if a == b:
            continue
        names = left.names[stage]
        if names != right.names[stage] or len(a) != len(b):
            which = tuple(dict.fromkeys((*names, *right.names[stage])))
        else:
            differ = (i for i in range(0, len(a), 16) if a[i : i + 16] != b[i : i + 16])
            which = tuple(dict.fromkeys(names[i // 16] for i in differ))
        where = _STAGES[0] if stage == 0 else f"{_STAGES[stage]} of step {step}"
        if stage == _WEIGHTS:
            where = f"the weights after step {step}"
        return Tensors(step, where, which)
    return None


class Traced(WrappedTask):
    """Wraps a task and notes what passes through it. Training is the same, slower by the hashing."""

    def __init__(self, task: Task, trace: Trace) -> None:
        super().__init__(task)
        self.trace = trace

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        trace, step = self.trace, at.step
        if not trace.hashes:
            trace.note(step - 1, 0, without_wrappers(model.state_dict()))
        trace.note(step, _BATCH, _by_position(batch))
        inner = self.task.losses(model, batch, at)
        try:
            for loss in inner:
                trace.note(step, _LOSS, {loss.group: loss.mean.detach()})
                yield loss
        finally:
            inner.close()  # type: ignore[attr-defined]
        # The last update is done: the gradients are those it used (clipped, where they are clipped).
        gradients = {name: p.grad for name, p in model.named_parameters()}
        trace.note(step, _GRADIENT, without_wrappers(gradients))
        trace.note(step, _WEIGHTS, without_wrappers(model.state_dict()))


def _by_position(batch: Any) -> dict[str, Any]:
    """A batch's parts by name or position, as plain values that can be hashed."""
    if isinstance(batch, Mapping):
        parts = {str(name): value for name, value in batch.items()}
    elif isinstance(batch, list | tuple):
        parts = {f"item {index}": value for index, value in enumerate(batch)}
    else:
        parts = {"batch": batch}
    return {name: tree_map(_plain, value) for name, value in parts.items()}


def _plain(leaf: Any) -> Any:
    """What a hash can be made of. Of an object that is neither a tensor nor a plain value only the type is known."""
    if isinstance(leaf, Tensor) or leaf is None or isinstance(leaf, str | bool | int | float | bytes):
        return leaf
    if isinstance(leaf, np.ndarray | np.generic):
        return [str(leaf.dtype), list(leaf.shape), hashlib.sha256(leaf.tobytes()).hexdigest()]
    return type(leaf).__qualname__
