"""Metrics of the user's own: a value per sample, one over the whole split, or an object that is updated and computed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from loopwright.engine.task import Direction, Totals
from loopwright.errors import ConfigError
from loopwright.scalars import as_plain
from loopwright.tasks.losses import RESERVED

Metric = Callable[[Any, Any], Any]
_MOST_COLUMNS = 1_000
_GIB = 2**30


class whole_split:  # noqa: N801 - reads as a verb: metrics={"f1": whole_split(f1)}
    """A metric that is called once, with all predictions and targets of a split: `whole_split(function)`.

    It gets tensors with the samples first, or lists of them where lengths differ. It returns a number, several (columns
    `name_0`, ...) or a mapping (columns `name_key`).

    >>> whole_split(lambda predicted, target: (predicted - target).square().mean().sqrt())(X, X).item()
    0.0
    """

    def __init__(self, function: Metric) -> None:
        if not callable(function):
            raise ConfigError(f"whole_split() got {function!r}; it should be a function of (predictions, targets)")
        self.function = function

    def __call__(self, predicted: Any, target: Any) -> Any:
        return self.function(predicted, target)


def is_stateful(metric: Any) -> bool:
    """Whether a metric is an object with `update`, `compute` and `reset`, as those of torchmetrics are."""
    return all(callable(getattr(metric, name, None)) for name in ("update", "compute", "reset"))


def is_collection(metric: Any) -> bool:
    """Whether it holds several of them by name, as a MetricCollection of torchmetrics does."""
    return is_stateful(metric) and isinstance(metric, nn.ModuleDict)


def measured(given: Any, argument: str) -> tuple[dict[str, Metric], dict[str, Direction | None]]:
    """The metrics that an argument of `fit` names, and the directions of their columns, None where nobody said.

    A direction stands beside the metric, `(metric, "max")`, or is what an object says of itself (`higher_is_better`).
    Raises ConfigError with a line for every problem.
    """
    if given is None:
        return {}, {}
    if is_collection(given):
        given = dict(given.items())
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"`{argument}` is a {type(given).__name__}; it should be a mapping of names to functions or objects of torchmetrics"
        )
    metrics: dict[str, Metric] = {}
    directions: dict[str, Direction | None] = {}
    problems = []
    for name, value in given.items():
        metric, direction = value if type(value) is tuple and len(value) == 2 else (value, None)
        if direction not in (None, "min", "max"):
            problems.append(f"`{argument}` has {name!r} with the direction {direction!r}; it should be 'min' or 'max'")
        if not isinstance(name, str) or name in RESERVED:
            problems.append(f"`{argument}` has {name!r}, which is a column already; give it another name")
        if isinstance(metric, type) or not (callable(metric) or is_stateful(metric)):
            problems.append(
                f"`{argument}` has {name!r}: {metric!r}; it should be a function of (prediction, target), or an object of "
                "torchmetrics (update, compute, reset)"
            )
        elif argument == "train_metrics" and isinstance(metric, whole_split):
            problems.append(
                f"`train_metrics` has {name!r}, which wants the whole split; while training there is none: return a value "
                "per sample, or give an object that is updated (torchmetrics)"
            )
        elif argument == "train_metrics" and is_stateful(metric) and not _can_be_saved(metric):
            problems.append(
                f"`train_metrics` has {name!r}, whose state no checkpoint can hold; give it state_dict() and load_state_dict()"
            )
        elif is_collection(metric):
            held = {f"{name}_{key}": one for key, one in metric.items()}
            directions |= {key: direction or _own_direction(one) for key, one in held.items()}
            # In training each by itself: the states that a collection shares between its metrics are not in its state dict.
            metrics |= held if argument == "train_metrics" else {name: metric}
        else:
            metrics[name] = metric
            directions[name] = direction or _own_direction(metric)
    if problems:
        raise ConfigError(problems)
    return metrics, directions


def _can_be_saved(metric: Any) -> bool:
    return all(callable(getattr(metric, name, None)) for name in ("state_dict", "load_state_dict"))


def _own_direction(metric: Any) -> Direction | None:
    higher = getattr(metric, "higher_is_better", None) if is_stateful(metric) else None
    return None if higher is None else "max" if higher else "min"


def columns(name: str, value: Any) -> dict[str, float]:
    """The columns of a metric's value: one for a number, `name_0`, ... for several, `name_key` for a mapping."""
    if isinstance(value, Mapping):
        return {column: each for key, one in value.items() for column, each in columns(f"{name}_{key}", one).items()}
    if value is None:
        raise ConfigError(f"`metrics` {name!r} returned None; a `return` may be missing")
    try:
        numbers = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        numbers = numbers.astype(np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"`metrics` {name!r} returned {value!r:.100}; it should return numbers") from None
    if numbers.size == 1:
        return {name: float(numbers.item())}
    if numbers.size > _MOST_COLUMNS:
        raise ConfigError(
            f"`metrics` {name!r} returned an array of shape {numbers.shape}, more than {_MOST_COLUMNS:,} columns"
        )
    return {"_".join((name, *map(str, place))): float(one) for place, one in np.ndenumerate(numbers)}


class SplitMetrics:
    """The metrics of one evaluation: takes in batch after batch, then gives every column.

    Whether a function gives a value per sample or one number shows at the first batch. One number is no mean over
    samples, so the function is called again with the whole split; `max_gib` bounds what is kept for that.
    """

    def __init__(self, metrics: Mapping[str, Metric], device: torch.device, max_gib: float) -> None:
        self._metrics, self._max_bytes = metrics, max_gib * _GIB
        self._objects = {name: one for name, one in metrics.items() if is_stateful(one)}
        for one in self._objects.values():
            on_device(one, device)
            cast(Any, one).reset()
        self._kinds: dict[str, Literal["samples", "split"]] = {
            name: "split" for name, one in metrics.items() if isinstance(one, whole_split)
        }
        self._totals = Totals()
        self._first: dict[str, Any] = {}
        self._kept: list[tuple[Any, Any, int | None]] = []
        self._whole: tuple[Any, Any] | None = None
        self._bytes = 0
        self._batches = 0

    def update(self, predicted: Any, target: Any, num_samples: int | None) -> None:
        """Take in a batch. Raises ConfigError where a function returns what is neither kind, or too much is to be kept."""
        predicted, target = tree_map(_detached, (predicted, target))
        self._batches += 1
        for name, metric in self._metrics.items():
            if name in self._objects:
                with metric_named(name):
                    cast(Any, metric).update(predicted, target)
            elif not isinstance(metric, whole_split) and (self._kinds.get(name) != "split"):
                self._update_function(name, metric, predicted, target, num_samples)
        if "split" in self._kinds.values():
            self._kept.append((predicted, target, num_samples))
            self._bytes += sum(leaf.nbytes for leaf in tree_leaves((predicted, target)) if hasattr(leaf, "nbytes"))
            self._check_size()

    def _update_function(self, name: str, metric: Metric, predicted: Any, target: Any, num_samples: int | None) -> None:
        try:
            value = metric(predicted, target)
        except Exception as error:
            error.add_note(f"in the metric {name!r}")
            if self._batches > 1:
                raise
            self._kinds[name], self._first[name] = "split", error  # of a part it may not be defined
            return
        squeezed = num_samples == 1 and self._kinds.get(name) == "samples"
        per_sample = sum_per_sample(name, value, num_samples, squeezed=squeezed)
        kind: Literal["samples", "split"] = "split" if per_sample is None else "samples"
        if self._kinds.setdefault(name, kind) != kind:
            raise ConfigError(
                f"`metrics` {name!r} returned a value per sample for one batch and one number for another; return one kind"
            )
        if per_sample is not None:
            self._totals.add({name: per_sample})
        else:
            self._first[name] = value

    def _check_size(self) -> None:
        implied = [name for name in self._first if self._kinds[name] == "split"]
        if implied and self._batches > 1 and self._bytes > self._max_bytes:
            raise ConfigError(
                f"`metrics` {implied[0]!r} returns one number for a batch, so it is called with the whole split, whose "
                f"predictions and targets take more than `whole_split_gib`={self._max_bytes / _GIB:g}; return a value "
                "per sample, give an object that is updated (torchmetrics), mark it with loopwright.whole_split, or "
                "raise the key"
            )

    def compute(self) -> dict[str, float | None]:
        """Every column, in the order of the metrics."""
        means = self._totals.read()
        found: dict[str, float | None] = {}
        for name in self._metrics if self._batches else ():
            value = self._value(name, means)
            if both := found.keys() & value.keys():
                raise ConfigError(
                    f"`metrics` {name!r} has the column {min(both)!r}, as another one has; give it another name"
                )
            found |= value
        return found

    def _value(self, name: str, means: Mapping[str, tuple[Any, float]]) -> Mapping[str, float | None]:
        metric: Any = self._metrics[name]
        if name in self._objects:
            with metric_named(name):
                value = columns(name, metric.compute())
                metric.reset()
            return value
        if self._kinds.get(name) == "samples":
            total, count = means[name]
            return {name: total / count if count else None}
        if self._batches == 1 and name in self._first:
            if isinstance(self._first[name], Exception):
                raise self._first[name]
            return columns(name, self._first[name])
        joined = self._joined()
        if not isinstance(metric, whole_split):
            self._check_joined(name, joined)
        with metric_named(name):
            return columns(name, metric(*joined))

    def _joined(self) -> tuple[Any, Any]:
        if self._whole is None:
            predicted, target, sizes = zip(*self._kept, strict=True)
            self._whole = join(predicted, sizes), join(target, sizes)
        return self._whole

    def _check_joined(self, name: str, joined: tuple[Any, Any]) -> None:
        total = sum(size or 0 for _, _, size in self._kept)
        if not all(_is_one(one, total) for one in joined):
            shapes = [getattr(leaf, "shape", None) for kept in self._kept[:2] for leaf in tree_leaves(kept[:2])]
            shown = ", ".join(dict.fromkeys(str(tuple(shape)) for shape in shapes if shape is not None)) or "objects"
            raise ConfigError(
                f"`metrics` {name!r} returns one number for a batch, and batches cannot be put together to one tensor "
                f"({shown}); mark it with loopwright.whole_split, which is given lists, return a value per sample, or give "
                "an object that is updated (torchmetrics)"
            )


def sum_per_sample(
    name: str, value: Any, num_samples: int | None, *, squeezed: bool = False
) -> tuple[Tensor | float, int] | None:
    """(sum, count) of a value per sample; None for one number. Raises ConfigError for any other shape.

    `squeezed`: one number is the value of the only sample.
    """
    value = as_plain(value)
    if isinstance(value, np.ndarray | list | tuple):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError):
            raise ConfigError(f"`metrics` {name!r} returned {value!r:.100}; it should return numbers") from None
    if squeezed and isinstance(value, int | float):
        return float(value), 1
    if not isinstance(value, Tensor) or (value.ndim == 0 and not squeezed):
        return None
    if value.ndim == 0 or (num_samples is not None and len(value) == num_samples):
        return (value.double() if value.dtype is torch.bool else widened(value)).sum(), value.numel()
    if value.numel() == 1:
        return None
    wanted = "the number of samples is not known" if num_samples is None else f"the batch has {num_samples} samples"
    raise ConfigError(
        f"`metrics` {name!r} returned a tensor of shape {tuple(value.shape)}, and {wanted}; return a value per sample "
        "(samples first) or one number, or mark it with loopwright.whole_split"
    )


def join(pieces: Sequence[Any], sizes: Sequence[int | None]) -> Any:
    """The batches of a split put together.

    Tensors with the samples first become one, or a list of samples where their other dimensions differ. A list with an
    entry per sample goes on as one list; dicts, tuples and other lists are opened. What else there is becomes a list with
    an entry per batch.
    """
    first = pieces[0]
    if all(isinstance(piece, Tensor) for piece in pieces):
        if not all(_has_samples_first(piece, size) for piece, size in zip(pieces, sizes, strict=True)):
            return list(pieces)
        alike = len({(piece.shape[1:], piece.dtype) for piece in pieces}) == 1
        return torch.cat(list(pieces)) if alike else [sample for piece in pieces for sample in piece]
    if isinstance(first, Mapping) and all(isinstance(p, Mapping) and p.keys() == first.keys() for p in pieces):
        return {key: join([piece[key] for piece in pieces], sizes) for key in first}
    if isinstance(first, list | tuple) and all(type(piece) is type(first) for piece in pieces):
        if isinstance(first, list) and not _is_structure(pieces, sizes):
            return [sample for piece in pieces for sample in piece]
        if len({len(piece) for piece in pieces}) == 1:
            parts = [join([piece[place] for piece in pieces], sizes) for place in range(len(first))]
            return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return list(pieces)


def _is_structure(pieces: Sequence[list[Any]], sizes: Sequence[int | None]) -> bool:
    """Whether lists hold several tensors of all samples, rather than an entry for each sample. Raises ConfigError."""
    pairs = list(zip(pieces, sizes, strict=True))
    of_samples = all(size is None or len(piece) == size for piece, size in pairs)
    of_outputs = all(_has_samples_first(item, size) for piece, size in pairs for item in piece)
    if of_samples and of_outputs:
        raise ConfigError(
            f"a metric of the whole split is given a list of {len(pieces[0])} tensors for {sizes[0]} samples, each with as "
            "many rows: an entry per sample, or several outputs; let several outputs be a tuple, or take another batch size"
        )
    return of_outputs or (not of_samples and len({*map(len, pieces)}) == 1)


def _is_one(tree: Any, num_samples: int) -> bool:
    """Whether what `join` made of batches are tensors of all samples, nested or not."""
    if isinstance(tree, Mapping):
        return all(_is_one(one, num_samples) for one in tree.values())
    if isinstance(tree, list | tuple):
        return all(_is_one(one, num_samples) for one in tree)
    return isinstance(tree, Tensor) and tree.ndim > 0 and len(tree) == num_samples


def _has_samples_first(item: Any, size: int | None) -> bool:
    return isinstance(item, Tensor) and item.ndim > 0 and size is not None and len(item) == size


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


@contextmanager
def metric_named(name: str) -> Iterator[None]:
    """A block whose errors say of which metric they are."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in the metric {name!r}")
        raise


def widened(value: Tensor) -> Tensor:
    """A tensor in which sums have room: half precision becomes float32."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def on_device(metric: Any, device: torch.device) -> None:
    """Move a metric that can be moved."""
    if callable(getattr(metric, "to", None)):
        metric.to(device)


class TrainMeter:
    """A metric that is updated with every training batch. Its state is in the checkpoint (see `Meter`)."""

    def __init__(self, name: str, metric: Any, device: torch.device) -> None:
        self.name, self._metric, self._seen, self._device = name, copy.deepcopy(metric), 0, device
        on_device(self._metric, device)
        self._metric.reset()

    def update(self, predicted: Any, target: Any) -> None:
        self._metric.update(*tree_map(_detached, (predicted, target)))
        self._seen += 1

    def compute(self) -> dict[str, float]:
        return columns(self.name, self._metric.compute()) if self._seen else {}

    def reset(self) -> None:
        self._metric.reset()
        self._seen = 0

    def state_dict(self) -> dict[str, Any]:
        if not isinstance(self._metric, nn.Module):
            return {"batches": self._seen, "state": dict(self._metric.state_dict())}
        parts = {path: _plain_attributes(part) for path, part in self._metric.named_modules()}
        return {"batches": self._seen, "state": parts}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        self._seen = saved["batches"]
        if not isinstance(self._metric, nn.Module):
            self._metric.load_state_dict(saved["state"])
            return
        for path, part in self._metric.named_modules():
            for name, value in saved["state"].get(path, {}).items():
                held = part._buffers if name in part._buffers else vars(part)
                held[name] = tree_map(lambda one: one.clone() if isinstance(one, Tensor) else one, value)
        on_device(self._metric, self._device)


def _plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The state of one part of a metric: tensors, lists of them, and numbers.

    torchmetrics' own state dict leaves out what is not declared as a state (the largest value so far), and what is wrapped.
    """
    held = {**vars(module), **module._buffers}
    return {name: list(value) if type(value) is list else value for name, value in held.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    return type(value) in (bool, int, float, Tensor) or (
        type(value) is list and all(type(one) in (bool, int, float, Tensor) for one in value)
    )
