"""Batches of the user's own data: what in them is the target, and how many samples they hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from loopwright.errors import ConfigError
from loopwright.scalars import as_plain


def unwrapped(function: Any) -> Any:
    """A function or module without the wrapper of torch.compile; of a module's own method, the module."""
    function = getattr(function, "_orig_mod", function)
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, nn.Module) and function.__name__ in ("forward", "__call__") else function


def inputs_and_target(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """The inputs of the model and the target: of a tuple or list the last item, else the batch itself is both."""
    if isinstance(batch, list | tuple):
        return (tuple(batch[:-1]), batch[-1]) if len(batch) > 1 else ((batch[0],), batch[0])
    return (batch,), batch


def first_dimension(batch: Any) -> int | None:
    """The first dimension that all tensors of a batch share; None where they do not, or where it holds other objects.

    Plain numbers and texts beside the tensors (a name, a date) do not count.
    """
    sizes = set()
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor | np.ndarray):
            sizes.add(leaf.shape[0] if leaf.ndim else None)
        elif leaf is not None and not isinstance(as_plain(leaf), bool | int | float | complex | str | bytes):
            return None
    return sizes.pop() if len(sizes) == 1 else None


def checked_count(count: Any, source: str) -> Tensor | float:
    """A count as a number (a tensor stays on an accelerator). Raises ConfigError unless it is finite and at least 0."""
    if isinstance(count, Tensor):
        if count.numel() != 1:
            raise ConfigError(f"{source} is a tensor of shape {tuple(count.shape)}; it should be one number")
        if not count.is_cpu:
            return count.detach().reshape(())
        count = count.item()
    count = as_plain(count)
    if not isinstance(count, int | float) or isinstance(count, bool):
        raise ConfigError(f"{source} is a {type(count).__name__}; it should be a number of at least 0")
    if not math.isfinite(count) or count < 0:
        raise ConfigError(f"{source} is {count}; it should be a number of at least 0")
    return count
