"""`steps`: one run advancing one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from loopwright.engine.compute import device_of
from loopwright.engine.finite import Diverged, explain
from loopwright.engine.loss import Loss
from loopwright.engine.passes import Passes
from loopwright.engine.period import Scalar, StepInfo, Update
from loopwright.engine.precision import Autocast, autocast
from loopwright.engine.state import NotFinite, TrainState, is_empty
from loopwright.engine.task import At, Loader, Task
from loopwright.errors import ConfigError
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
            losses = _accumulated(
                task,
                state,
                batch,
                num_samples,
                accumulate,
                streams,
                step,
                epoch,
                device,
                check_now,
                clip_norm,
                measure_norm,
                cast,
            )
        else:
            at = At(streams, step, epoch, device, 0, num_samples, state.meters)
            losses = _updates(task, state, batch, at, check_now, clip_norm, measure_norm, cast)
        updates: list[Update] = []
        norm: Tensor | None = None
        try:
            for loss, value, group_norm in losses:
                if generator.initial_seed() != pinned:
                    raise RuntimeError(
                        "task.losses() reseeded torch's global generator; draw from at.generator(purpose) instead, "
                        "or the noise of every step is the same"
                    )
                update = Update(loss.group, value, loss.count, loss.parts)
                if loss.parts or not on_cpu:  # let go of their graphs
                    update = update.read() if on_cpu else update.detached()
                updates.append(update)
                norm = group_norm if norm is None else _joined(norm, group_norm)
        except NotFinite as bad:
            updated = {update.group for update in updates}
            raise Diverged(explain(state, bad, step, epoch, updated, clips=clip_norm is not None)) from None
        if not updates:
            raise RuntimeError("task.losses() yielded no loss for a batch; yield one Loss per update")
        # After the update, where the next batch was always fetched: a loader that draws sees the same order of things.
        more = passes.look_ahead()
        state.step = step
        state.batch += 1
        state.pass_index, state.pass_batch = (
            (state.pass_index, state.pass_batch + 1) if more else (state.pass_index + 1, 0)
        )
        ended = epoch_ended(state, epoch_steps)
        yield StepInfo(step, epoch, rate, updates, norm)


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
    num_samples: int | None,
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
    mean_sum: Scalar = 0.0
    parts: dict[str, tuple[Scalar, Scalar]] = {}
    seen: Tensor | float = 0
    open_losses: list[Any] = []
    try:
        for micro, (piece, size) in enumerate(split_batch(batch, num_parts, num_samples)):
            at = At(streams, step, epoch, device, micro, size, state.meters)
            losses = task.losses(state.model, piece, at)
            if cast is not None:
                losses = cast.over(losses)
            open_losses.append(losses)
            loss = next(losses, None)
            if loss is None:
                return
            _check_modes()
            if isinstance(loss.count, Tensor):
                loss = loss._replace(count=loss.count.item())
            value = _finite_value(loss) if check_now else loss.mean.detach()
            seen = seen + loss.count
            if not is_empty(loss):
                mean_sum = mean_sum + value * loss.count
            for name, (part, n) in loss.parts.items():
                held = parts.get(name)
                parts[name] = (part + held[0], n + held[1]) if held else (part, n)
            state.add(loss, first=micro == 0)
        assert loss is not None
        whole = Loss(torch.as_tensor(mean_sum / seen if seen else math.nan), seen, parts, loss.group)
        norm = state.update(whole, clip_norm=clip_norm, measure_norm=measure_norm)
        # Only the last part's code after the yield runs: it belongs to the update, and there was one.
        if next(open_losses[-1], None) is not None:
            raise RuntimeError("train.accumulate > 1 with a task that yields several losses; set train.accumulate=1")
        yield whole, mean_sum / seen if seen else math.nan, norm
    finally:
        for losses in open_losses:
            losses.close()


def split_batch(batch: Any, num_parts: int, num_samples: int | None = None) -> list[tuple[Any, int]]:
    """Cut a batch into at most `num_parts` of equal size: (part, its number of samples).

    Every tensor in it (tuples, lists and dicts are opened) must have the samples first: `num_samples` of them where
    that is known, else all equally many. Raises ConfigError, since anything else would be cut across.
    """
    leaves, spec = tree_flatten(batch)
    found = [tuple(leaf.shape) if isinstance(leaf, Tensor) else type(leaf).__name__ for leaf in leaves]
    sizes = {shape[0] if isinstance(shape, tuple) and shape else None for shape in found}
    if num_samples is None and len(sizes) == 1:
        (num_samples,) = sizes
    if num_samples is None or sizes != {num_samples}:
        dealt = "samples first" if num_samples is None else f"its {num_samples} samples first"
        shown = ", ".join(dict.fromkeys(str(one) for one in found[:6])) or "nothing"
        raise ConfigError(
            f"`train.accumulate` is {num_parts}, which cuts a batch along the first dimension: every tensor of it needs "
            f"{dealt}, and this one holds {shown}; use train.accumulate=1 and a smaller batch"
        )
    pieces = zip(*(leaf.chunk(num_parts) for leaf in leaves), strict=True)
    return [(tree_unflatten(list(piece), spec), len(piece[0])) for piece in pieces]


def _finite_value(loss: Loss) -> float:
    """The loss as a float, checked: only one of nothing may be NaN."""
    value = loss.mean.item()
    if not math.isfinite(value) and loss.count != 0:
        raise NotFinite("loss", value, loss.group, loss.parts)
    return value


def _check_modes() -> None:
    if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        raise RuntimeError("task.losses() yielded inside no_grad or inference_mode; close the block before the yield")
    if torch._C._is_any_autocast_enabled():
        raise RuntimeError("task.losses() yielded inside autocast; close the block before the yield")


def _joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The norm of two groups' gradients taken together."""
    if a is None or b is None:
        return b if a is None else a
    joined = torch.hypot(a, b)
    return torch.hypot(a.double(), b.double()) if joined.is_cpu and not math.isfinite(joined.item()) else joined
