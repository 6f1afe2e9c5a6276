"""Hashes of weights: the content of a tree of tensors and plain values, independent of how a file stores it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from loopwright import scalars


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bits in sorted order, in hexadecimal."""
    return content_hash(weights)


def content_hash(tree: Any) -> str:
    """SHA-256 over a tree of mappings, sequences, plain values and tensors, keys in sorted order."""
    digest = hashlib.sha256()
    for path, leaf in _leaves(tree, ""):
        if isinstance(leaf, Tensor):
            tensor = leaf.detach().cpu().contiguous()
            digest.update(f"{path}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()) if tensor.numel() else b"")  # type: ignore[arg-type]
        else:
            digest.update(f"{path}={leaf!r};".encode())
    return digest.hexdigest()


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the real and complex weights that are not finite, read back once."""
    # A module's extra state may be a plain value.
    tensors = {n: w.detach() for n, w in weights.items() if isinstance(w, Tensor) and w.numel()}
    floats = {n: torch.view_as_real(w) if w.is_complex() else w for n, w in tensors.items() if not _is_whole(w)}
    if not floats:
        return []
    # A sum is finite unless a term is not (or it overflows, which float64 does not here): one pass, no mask.
    totals = torch.stack([w.sum(dtype=torch.float64) for w in floats.values()])
    finite = torch.isfinite(totals)
    return [] if bool(finite.all()) else [name for name, good in zip(floats, finite.tolist(), strict=True) if not good]


def _is_whole(values: Tensor) -> bool:
    return not (values.is_floating_point() or values.is_complex())


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key in _in_order(tree):
            yield from _leaves(tree[key], f"{path}/{key}")
    elif isinstance(tree, list | tuple):
        yield f"{path}#", len(tree)
        for index, value in enumerate(tree):
            yield from _leaves(value, f"{path}/{index}")
    elif isinstance(tree, set):
        yield path, _in_order(tree)  # by itself its order is another one in every process
    elif scalars.can_be_packed(tree):
        yield from _leaves(scalars.packed(tree), path)
    else:
        yield path, tree


def _in_order(keys: Iterable[Any]) -> list[Any]:
    try:
        return sorted(keys, key=lambda key: (type(key).__name__, key))
    except TypeError:  # of one type, and yet not to be ordered: tuples of this and that
        return sorted(keys, key=lambda key: (type(key).__name__, repr(key)))
