"""Values: numbers, texts, collections, tensors and arrays."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from loopwright.content.moved import Moved
from loopwright.content.ownership import is_own_class, name_of
from loopwright.content.tree import Tree, canonical, digest
from loopwright.content.walk import Walk

# Longer texts and collections are held by a hash and their first values.
MOST_TEXT = 200
_MOST_ITEMS = 32
_MOST_VALUES = 16
_MOST_NAMED = 200
PLAIN = (bool, int, str)
_TENSORS = (Tensor, nn.Parameter, nn.Buffer, torch.nn.parameter.Buffer)


class Values(Walk):
    """Describes what holds numbers."""

    @abstractmethod
    def _class(self, cls: type) -> Tree:
        """The tree of a class."""

    @abstractmethod
    def _whole(self, name: str, value: Any) -> Tree:
        """The tree of an object that stands alone."""

    def _scalar(self, value: Any) -> Tree:
        if isinstance(value, bytes | bytearray):
            return {"bytes": len(value), "sha256": digest(bytes(value))}
        if isinstance(value, np.generic):
            return {"number": value.dtype.str, "value": str(value), "sha256": digest(value.tobytes())}
        return {"value": str(value) if isinstance(value, PurePath) else repr(value)}

    def _list(self, value: Any) -> Tree:
        with self._once(value) as again:
            if again:
                return again
            if len(value) <= _MOST_ITEMS:
                return [self._describe(item) for item in value]
            plain = self._plain_text(value)
            if plain is not None:
                shown = [item if type(item) in PLAIN else repr(item)[:MOST_TEXT] for item in value[:8]]
                return {"list": len(value), "shown": {"first": shown}, "sha256": digest(plain.encode())}
            content = hashlib.sha256()
            first = []
            for position, item in enumerate(value):
                tree, text = self._at_once(item)
                content.update(text.encode() + b",")
                if position < 2:
                    first.append(tree)
            return {"list": len(value), "shown": {"first": first}, "sha256": content.hexdigest()[:16]}

    def _plain_text(self, value: Any) -> str | None:
        """A long collection of plain values, nested or not, as JSON; None where it holds anything else."""
        try:
            text = json.dumps(value, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            return None
        self._count += len(value) if isinstance(value, list | tuple | dict) else 1
        return text

    def _set(self, value: Iterable[Any]) -> Tree:
        items = self._ordered(value)
        if len(items) <= _MOST_ITEMS:
            return {"set": [self._describe(item) for item in items]}
        content = hashlib.sha256()
        for item in items:
            content.update(self._at_once(item)[1].encode() + b",")
        return {"set": len(items), "sha256": content.hexdigest()[:16]}

    def _mapping(self, value: Mapping[Any, Any]) -> Tree:
        with self._once(value) as again:
            if again:
                return again
            if all(type(key) is str for key in value):
                plain = self._plain_text(dict(value)) if len(value) > _MOST_NAMED else None
                if plain is not None:
                    return {"mapping": len(value), "sha256": digest(plain.encode())}
                named = {}
                for key in sorted(value):
                    with self._at(key):
                        named[key] = (
                            self._at_once(value[key])[1] if len(value) > _MOST_NAMED else self._describe(value[key])
                        )
                if len(named) > _MOST_NAMED:
                    return {"mapping": len(named), "sha256": digest(canonical(named).encode())}
                return {"mapping": named}
            texts = {key: self._plain_text(key) for key in value}
            # Keys that are objects stay in the order in which they were put there.
            keys = list(value) if None in texts.values() else sorted(value, key=lambda key: str(texts[key]))
            if len(keys) <= _MOST_ITEMS:
                return {"mapping": [[self._describe(key), self._describe(value[key])] for key in keys]}
            pairs = [[self._at_once(part)[1] for part in (key, value[key])] for key in keys]
            return {"mapping": len(pairs), "sha256": digest(canonical(pairs).encode())}

    def _ordered(self, values: Iterable[Any]) -> list[Any]:
        """What has no order of its own, by what each is when nothing else is there."""
        return sorted(values, key=self._alone)

    def _alone(self, value: Any) -> str:
        plain = self._plain_text(value)
        if plain is not None or self._is_alone:  # within another one that is enough
            return plain or name_of(type(value))
        alone = type(self)(Moved(), hashed=self, source=False)
        alone._is_alone = True
        return canonical(alone._whole(self._path[0], value))

    def _tensor(self, value: Tensor) -> Tree:
        kind = str(value.dtype).removeprefix("torch.")
        if isinstance(value, UninitializedBuffer | UninitializedParameter):
            return {"tensor": "not initialised"}
        tree: dict[str, Any] = {"tensor": f"{kind}{list(value.shape)}"}
        hooks = [*(value._backward_hooks or {}).values()]
        hooks += [*(getattr(value, "_post_accumulate_grad_hooks", None) or {}).values()]
        hooks_tree = self.place(value, ".hooks", [self._describe(function) for function in hooks])
        if hooks_tree:
            tree["hooks"] = hooks_tree
        if type(value) not in _TENSORS:
            tree |= {"subclass": self._class(type(value)), "attributes": self._places(value, vars(value))}
        if isinstance(value, nn.Parameter):
            if id(value) in self._seen:  # tied: a step moves both
                return {"again": self._seen[id(value)]}
            self._see(value, "parameter")
            tree["requires_grad"] = value.requires_grad
            home = self._homes.setdefault(id(value), self._path[0])
            if home != self._path[0]:  # what training moves in one argument moves in the other
                tree["shared with"] = home
        if id(value) in self._weights or value.is_meta:
            return tree
        if value.layout is not torch.strided:
            dense = value.detach().cpu()
            parts = (
                (dense.coalesce().indices(), dense.coalesce().values())
                if value.layout is torch.sparse_coo
                else (dense.to_dense(),)
            )
            return {**tree, "layout": str(value.layout), "parts": [self._tensor(part) for part in parts]}
        return {**tree, **self._values(value, _version(value), lambda: _bytes_of(value), value.numel())}

    def _array(self, value: np.ndarray[Any, Any]) -> Tree:
        if isinstance(value, np.ma.MaskedArray):
            return {"masked": [self._array(np.asarray(value.data)), self._array(np.ma.getmaskarray(value))]}
        if value.dtype.hasobject:
            return {"array": f"{value.dtype}{list(value.shape)}", "items": self._list(value.reshape(-1).tolist())}
        # Of the same kind as a tensor, where there is such a tensor: it is the same data.
        kind = str(value.dtype) if value.dtype.names else value.dtype.name
        tree: dict[str, Any] = {"tensor": f"{kind}{list(value.shape)}"}
        if is_own_class(type(value)):
            tree |= {"subclass": self._class(type(value)), "attributes": self._places(value, vars(value))}
        return {**tree, **self._values(value, _checksum(value), lambda: np.ascontiguousarray(value), value.size)}

    def _values(self, value: Any, version: Any, data: Callable[[], Any], count: int) -> dict[str, Any]:
        known = self._digests.get(id(value))
        if known is None or known[0] is not value or known[1] != version:
            held = data()
            content = memoryview(held.reshape(-1).view(np.uint8)) if count else b""
            known = self._digests[id(value)] = (value, version, hashlib.sha256(content).hexdigest())
        tree: dict[str, Any] = {"sha256": known[2]}
        if 0 < count <= _MOST_VALUES:
            tree["shown"] = {"values": _listed(value)}
        return tree


def _version(tensor: Tensor) -> object:
    if tensor.requires_grad:
        return object()  # a fused optimizer step changes a parameter and does not count it: hashed each time
    try:
        return tensor._version
    except RuntimeError:  # a tensor of inference mode does not count its changes
        return None


def _bytes_of(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy()


def _checksum(array: np.ndarray[Any, Any]) -> int | None:
    """Says at a tenth of the cost of a hash whether training has changed an array, which counts no changes itself."""
    if not array.flags.writeable or not array.size:
        return None
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    whole = len(data) // 8 * 8
    return int(data[:whole].view(np.uint64).sum(dtype=np.uint64)) + int(data[whole:].sum(dtype=np.uint64))


def _listed(value: Any) -> Any:
    """The values of a small tensor or array, for people."""
    plain = value.detach().cpu().tolist() if isinstance(value, Tensor) else value.tolist()
    return _finite(json.loads(json.dumps(plain, default=str)))


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return repr(value) if isinstance(value, float) and not math.isfinite(value) else value


def long_text(text: str) -> dict[str, Any]:
    return {"text": text[:80], "length": len(text), "sha256": digest(text.encode(errors="surrogatepass"))}
