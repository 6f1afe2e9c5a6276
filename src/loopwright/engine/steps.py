"""`steps`: one run advancing one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from loopwright.engine.compute import device_of
from loopwright.engine.finite import Diverged, explain
from loopwright.engine.loss import Loss
from loopwright.engine.passes import Passes
from loopwright.engine.period import Scalar, StepInfo
from loopwright.engine.precision import Autocast, autocast
from loopwright.engine.state import NotFinite, TrainState
from loopwright.engine.task import At, Loader, Task
from loopwright.streams import Streams, pin_torch

LearningRate = Callable[[TrainState], float]


# Keys of the steps' addresses are hashed this many at a time: 1.2 us each instead of 4 between two kernels.
_BLOCK_KEYS = 64


def steps(
    task: Task,
    state: TrainState,
    loader: Loader | Passes,
    streams: Streams,
    *,
    lr: LearningRate,
    clip_norm: float | None = None,
    measure_norm: bool = False,
    accumulate: int = 1,
    epoch_steps: int | None = None,
) -> Iterator[StepInfo]:
    """Advance `state` to the end of the epoch it stands in, one step per item, from its place in the data on.

    An epoch is a pass over the loader, or `epoch_steps` steps of passes that follow one another. `Passes` in place of a
    loader go on with the pass that the epoch before has left open.

    Every step runs under randomness addressed by its number, so nothing that happens between two steps can shift it.
    Raises Diverged before an update with a non-finite loss (or gradient norm, where it is known), and RuntimeError
    where a task breaks an agreement (leaves grad mode, autocast or a reseeded generator behind a yield; yields nothing;
    accumulates with several losses); DataError where a pass yields nothing.
    """
    passes = loader if isinstance(loader, Passes) else Passes(loader)
    device = device_of(state.model)
    on_cpu = device.type == "cpu"
    # An accelerator whose updates can be masked is not waited for: its losses are checked when they are read back.
    check_now = on_cpu or not state.masks
    generator = torch.default_generator
    epoch = state.epoch + 1
    keys = _keys(streams, state.step + 1)
    cast = autocast(state.precision, device)
    ended = False
    while not ended:
        batch, num_samples = passes.take(state.pass_index, state.pass_batch)
        step = state.step + 1
        rate = lr(state)
        if rate != state.lr:
            state.set_lr(rate)
        pinned = pin_torch(next(keys))
        if accumulate > 1:
            updates = _accumulated(
                task, state, batch, accumulate, streams, step, epoch, device, check_now, clip_norm, measure_norm, cast
            )
        else:
            at = At(streams, step, epoch, device, 0, num_samples)
            updates = _updates(task, state, batch, at, check_now, clip_norm, measure_norm, cast)
        total: Scalar = 0.0
        parts: Mapping[str, tuple[Scalar, int]] | None
        count, parts, norm, group = 0, None, None, "main"
        try:
            for number, (loss, value, group_norm) in enumerate(updates):
                if generator.initial_seed() != pinned:
                    raise RuntimeError(
                        "task.losses() reseeded torch's global generator; draw from at.generator(purpose) instead, "
                        "or the noise of every step is the same"
                    )
                if number == 0:
                    total, count, parts, norm, group = value, loss.count, loss.parts, group_norm, loss.group
                    continue
                assert parts is not None
                if number == 1:
                    parts = {group: (total * count, count), **parts}
                total = total + value
                parts = {**parts, **loss.parts, loss.group: (value * loss.count, loss.count)}
                norm = _joined(norm, group_norm)
        except NotFinite as bad:
            updated = () if parts is None else {group, *parts}
            raise Diverged(explain(state, bad, step, epoch, updated, clips=clip_norm is not None)) from None
        if parts is None:
            raise RuntimeError("task.losses() yielded no loss for a batch; yield one Loss per update")
        if not on_cpu:
            parts = {name: (_detached(part), n) for name, (part, n) in parts.items()}
        else:
            parts = {name: (float(part), n) for name, (part, n) in parts.items()} if parts else parts
        # After the update, where the next batch was always fetched: a loader that draws sees the same order of things.
        more = passes.look_ahead()
        state.step = step
        state.batch += 1
        state.pass_index, state.pass_batch = (
            (state.pass_index, state.pass_batch + 1) if more else (state.pass_index + 1, 0)
        )
        ended = epoch_ended(state, epoch_steps)
        yield StepInfo(step, epoch, rate, total, count, parts, norm)


def epoch_ended(state: TrainState, epoch_steps: int | None) -> bool:
    """Whether the step that was just done is the last of its epoch."""
    return state.pass_batch == 0 if epoch_steps is None else state.batch >= epoch_steps


def _keys(streams: Streams, step: int) -> Iterator[int]:
    """The keys of the addresses ("step", step), ("step", step + 1), ..."""
    while True:
        yield from [streams.seed("step", s) for s in range(step, step + _BLOCK_KEYS)]
        step += _BLOCK_KEYS


def _updates(
    task: Task,
    state: TrainState,
    batch: Any,
    at: At,
    check_now: bool,
    clip_norm: float | None,
    measure_norm: bool,
    cast: Autocast | None,
) -> Iterator[tuple[Loss, Scalar, Tensor | None]]:
    """Run a task's losses for a batch, updating after each: (loss, its value, gradient norm)."""
    losses = task.losses(state.model, batch, at)
    if cast is not None:
        losses = cast.over(losses)
    try:
        for loss in losses:
            _check_modes()
            value = _finite_value(loss) if check_now else loss.mean.detach()
            norm = state.apply(loss, clip_norm=clip_norm, measure_norm=measure_norm)
            yield loss, value, norm
    finally:
        losses.close()  # type: ignore[attr-defined]


def _accumulated(
    task: Task,
    state: TrainState,
    batch: Any,
    num_parts: int,
    streams: Streams,
    step: int,
    epoch: int,
    device: torch.device,
    check_now: bool,
    clip_norm: float | None,
    measure_norm: bool,
    cast: Autocast | None,
) -> Iterator[tuple[Loss, Scalar, Tensor | None]]:
    """One update from several parts of a batch, each weighted by its count and drawing noise of its own."""
    pieces = split_batch(batch, num_parts)
    mean_sum: Scalar = 0.0
    parts: dict[str, tuple[Tensor, int]] = {}
    seen, norm, open_losses = 0, None, []
    counts: list[int] = []
    try:
        for micro, piece in enumerate(pieces):
            at = At(streams, step, epoch, device, micro)
            losses = task.losses(state.model, piece, at)
            if cast is not None:
                losses = cast.over(losses)
            open_losses.append(losses)
            loss = next(losses, None)
            if loss is None:
                return
            _check_modes()
            value = _finite_value(loss) if check_now else loss.mean.detach()
            counts.append(loss.count)
            seen += loss.count
            mean_sum = mean_sum + value * loss.count
            for name, (part, n) in loss.parts.items():
                held = parts.get(name)
                parts[name] = (part + held[0], n + held[1]) if held else (part, n)
            last = micro == len(pieces) - 1
            norm = state.apply(
                loss, clip_norm=clip_norm, measure_norm=measure_norm, weights=(seen, seen if last else seen + 1)
            )
        # Only the last part's code after the yield runs: it belongs to the update, and there was one.
        if next(open_losses[-1], None) is not None:
            raise RuntimeError("train.accumulate > 1 with a task that yields several losses; set train.accumulate=1")
        assert loss is not None
        yield Loss(loss.mean, seen, parts, loss.group), mean_sum / seen, norm
    finally:
        for losses in open_losses:
            losses.close()  # type: ignore[attr-defined]


def split_batch(batch: Any, num_parts: int) -> list[Any]:
    """Cut a batch (tensors in tuples, lists or dicts, samples first) into at most `num_parts` of equal size."""
    leaves, spec = tree_flatten(batch)
    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        raise RuntimeError(
            "train.accumulate > 1 needs batches of tensors in tuples, lists or dicts; set train.accumulate=1"
        )
    pieces = zip(*(leaf.chunk(num_parts) for leaf in leaves), strict=True)
    return [tree_unflatten(list(piece), spec) for piece in pieces]


def _finite_value(loss: Loss) -> float:
    """The loss as a float, checked."""
    value = loss.mean.item()
    if not math.isfinite(value):
        raise NotFinite("loss", value, loss.group, loss.parts)
    return value


def _check_modes() -> None:
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError("task.losses() yielded inside no_grad or inference_mode; close the block before the yield")
    if torch._C._is_any_autocast_enabled():
        raise RuntimeError("task.losses() yielded inside autocast; close the block before the yield")


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def _joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The norm of two groups' gradients taken together."""
    if a is None or b is None:
        return b if a is None else a
    joined = torch.hypot(a, b)
    return torch.hypot(a.double(), b.double()) if joined.is_cpu and not math.isfinite(joined.item()) else joined
