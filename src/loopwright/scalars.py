"""NumPy scalars: as Python's own numbers where any number will do, and in a form that a checkpoint gives back exactly."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

KEY = "numpy_scalar"
_PYTHONS: dict[str, Any] = {"b": bool, "i": int, "u": int, "f": float, "c": complex, "U": str}
_KINDS = "biufcmMSU"


def is_scalar(value: Any) -> bool:
    """Whether a value is a scalar of NumPy, which is not imported to say so: where it is not, there is none."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.generic)


def as_plain(tree: Any) -> Any:
    """A tree whose NumPy numbers and texts are Python's; a date, which Python has no number for, stays."""
    if is_scalar(tree):
        python = _PYTHONS.get(tree.dtype.kind)
        return tree if python is None else python(tree)
    if isinstance(tree, Mapping):
        return {as_plain(key): as_plain(value) for key, value in tree.items()}
    # A named tuple takes its values one by one.
    return type(tree)(map(as_plain, tree)) if type(tree) in (list, tuple) else tree


def can_be_packed(value: Any) -> bool:
    """Whether a value is a scalar of NumPy itself, for which `packed` finds words."""
    return is_scalar(value) and value.dtype.kind in _KINDS and type(value) is value.dtype.type


def packed(tree: Any) -> Any:
    """A tree of dicts, lists and tuples whose NumPy scalars are small dicts: the type's name and the bytes."""
    if can_be_packed(tree):
        return _packed(tree)
    if isinstance(tree, dict):
        return type(tree)({key: packed(value) for key, value in tree.items()})
    return type(tree)(map(packed, tree)) if type(tree) in (list, tuple) else tree


def unpacked(tree: Any) -> Any:
    """Undo `packed`: the same types with the same bits."""
    if isinstance(tree, dict):
        if KEY in tree:
            return _unpacked(tree[KEY], tree["value"])
        return type(tree)({key: unpacked(value) for key, value in tree.items()})
    return type(tree)(map(unpacked, tree)) if type(tree) in (list, tuple) else tree


def _packed(scalar: Any) -> dict[str, Any]:
    import numpy as np

    dtype = scalar.dtype
    if dtype.kind in "SU":
        return {KEY: dtype.kind, "value": (bytes if dtype.kind == "S" else str)(scalar)}
    # `<i8` is one of two C types, and NumPy has a scalar type for each.
    name = dtype.str if np.dtype(dtype.str).type is type(scalar) else dtype.char
    data = bytearray(scalar.tobytes())
    if dtype.char in "gG" and np.finfo(np.longdouble).nmant == 63:
        size = np.dtype(np.longdouble).itemsize
        for start in range(0, len(data), size):  # of a long double 10 bytes count, the others hold whatever was there
            data[start + 10 : start + size] = bytes(size - 10)
    return {KEY: name, "value": bytes(data)}


def _unpacked(name: str, value: Any) -> Any:
    import numpy as np

    return np.dtype(name).type(value) if name in "SU" else np.frombuffer(value, np.dtype(name))[0]
