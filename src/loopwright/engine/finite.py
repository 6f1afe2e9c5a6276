"""What is said when something stops being finite: the step, the part, the learning rate, the gradient norm, a remedy."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from loopwright.engine.precision import MOST_SKIPS
from loopwright.engine.state import NotFinite, TrainState
from loopwright.errors import LoopwrightError

_ADVICE = {
    "loss": "try a smaller optim.lr or train.clip_norm=1.0, and look for NaN in the data",
    "gradient": (
        "look for a sqrt, log, norm or division at 0 in the model or the loss (torch.autograd.detect_anomaly finds it), "
        "and try a smaller optim.lr"
    ),
    "weight": "try a smaller optim.lr or train.clip_norm=1.0",
    "metric": "look at how it is computed, or let stop.monitor follow another one",
}


class Diverged(LoopwrightError):
    """A loss, gradient, weight or monitored metric stopped being finite; training cannot go on from here."""

    exit_code = 4  # of a dry run; a training ends with an outcome


def diverged_message(what: str, value: float, step: int, epoch: int, lr: float | None, norm: str = "") -> str:
    """One line. `what` begins with its kind, which chooses the advice: loss, gradient, weight, metric."""
    rate = f" at lr {lr:g}" if lr is not None else ""
    kind = what.partition(" ")[0]
    return f"the {what} is {value} in step {step} of epoch {epoch}{rate}{norm}; {_ADVICE[kind]}"


def explain(
    state: TrainState, bad: NotFinite, step: int, epoch: int, updated: Container[str] = (), *, clips: bool = False
) -> str:
    """What a non-finite loss or gradient norm of a step comes from, as far as can be seen now that it has happened.

    A finite loss can have a gradient that is not; without clipping nobody has looked at it, the update has spoilt the
    weights, and the next loss only shows it. `updated` are the groups that this step had updated before. The norm before
    is named where the training `clips` by it: whether it is recorded beside that changes no word.
    """
    if bad.what == "scale":
        return (
            f"{MOST_SKIPS} updates in a row, up to step {step} of epoch {epoch}, were skipped because gradients overflow "
            f"fp16, though the loss scale is down to {bad.value:g}; try train.precision=bf16, or a smaller optim.lr"
        )
    if bad.what == "gradient":
        names = _names(state, bad.group)
        return diverged_message(
            f"gradient of {names or 'all parameters together'} (group {bad.group})", bad.value, step, epoch, state.lr
        )
    earlier = spoilt(state, step - 1, epoch, updated)
    if earlier is not None:
        return earlier
    parts = [name for name, (value, _) in bad.parts.items() if not math.isfinite(float(value))]
    what = f"loss ({', '.join([bad.group, *parts])})"
    norm = state.period.newest_norm if clips or state.scalers else None
    known = f" (gradient norm {norm[1]:.3g} in step {norm[0]})" if norm is not None else ""
    return diverged_message(what, bad.value, step, epoch, state.lr, known)


def spoilt(state: TrainState, step: int, epoch: int, updated: Container[str] = ()) -> str | None:
    """None where every weight is finite; else the first gradient or weight that is not, after `step` steps."""
    weights = state.not_finite()
    if not weights:
        return None
    for group in state.groups:
        names = _names(state, group)
        if names:
            value = next(_worst(p.grad) for p in state.groups[group] if p.grad is not None and _is_bad(p.grad))
            at = step + (group in updated)
            return diverged_message(f"gradient of {names} (group {group})", value, at, epoch, state.lr)
    value = _worst(state.named_weights()[weights[0]])
    return diverged_message(f"weight {listed(weights)}", value, step, epoch, state.lr)


def _names(state: TrainState, group: str) -> str:
    """The parameters of a group whose gradient is not finite."""
    mine = {id(p) for p in state.groups[group]}
    named = state.named_parameters()
    return listed([name for name, p in named if id(p) in mine and p.grad is not None and _is_bad(p.grad)])


def listed(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _is_bad(values: Tensor) -> bool:
    return not bool(torch.isfinite(_stored(values)).all())


def _stored(values: Tensor) -> Tensor:
    return values.coalesce().values() if values.is_sparse else values


def _worst(values: Tensor) -> float:
    """The first value that is not finite."""
    flat = _stored(values.detach()).reshape(-1)
    flat = torch.view_as_real(flat).reshape(-1) if flat.is_complex() else flat
    return float(flat[~torch.isfinite(flat)][0])


def not_finite_metric(row: Mapping[str, Any], monitor: str) -> tuple[str, float] | None:
    """A row's loss, or its monitored metric, where it is not finite. Other metrics may be NaN: nothing follows them."""
    for name in dict.fromkeys(("train_loss", "val_loss", monitor)):
        value = row.get(name)
        if value is not None and not math.isfinite(value):
            return f"{'loss' if name.endswith('_loss') else 'metric'} ({name})", value
    return None
