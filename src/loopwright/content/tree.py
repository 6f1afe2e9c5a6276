"""Trees that describe objects: their text, their hash, and in what two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

Tree = Any
# Stands for what is not there.
ABSENT = object()
# What is for people alone.
_SHOWN = frozenset({"shown"})
# What is compared within one minor version of Python only: bytecode, and the methods that classes are given.
_CODE = frozenset({"shown", "code", "methods", "imports"})
_MOST_SHOWN = 60
_MOST_LINES = 5


def canonical(tree: Tree, *, code: bool = True) -> str:
    """One text for what a tree says; without `code`, for what it says under any version of Python."""
    return json.dumps(_without(tree, _SHOWN if code else _CODE), sort_keys=True, separators=(",", ":"))


def digest(data: bytes | memoryview) -> str:
    """SHA-256, 16 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()[:16]


def same(a: Tree, b: Tree) -> bool:
    """Whether two trees say the same, code left out: it is filled in when a tree is whole."""
    return a is b or _without(a, _CODE) == _without(b, _CODE)


def differences(recorded: Tree, now: Tree, *, code: bool = True) -> list[str]:
    """A phrase for each thing that is not as recorded: "`weight` was [1.0, 50.0], is now None"."""
    found = list(dict.fromkeys(_differing(recorded, now, "", _SHOWN if code else _CODE)))
    return found[:_MOST_LINES] + ([f"and {len(found) - _MOST_LINES} more"] if len(found) > _MOST_LINES else [])


def _without(tree: Tree, keys: frozenset[str]) -> Tree:
    if isinstance(tree, dict):
        return {key: _without(value, keys) for key, value in tree.items() if key not in keys}
    return [_without(item, keys) for item in tree] if isinstance(tree, list) else tree


def _differing(a: Tree, b: Tree, path: str, left_out: frozenset[str]) -> Iterator[str]:
    if _without(a, left_out) == _without(b, left_out) and type(a) is type(b):
        return
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b) and any(isinstance(item, dict) for item in a):
        for position, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differing(one, other, f"{path}[{position}]", left_out)
    elif isinstance(a, dict) and isinstance(b, dict) and _kind(a) == _kind(b) and not _another_class(a, b):
        yield from _differing_nodes(a, b, path, left_out)
    else:
        yield f"{_place(path)}was {_short(a)}, is now {_short(b)}"


def _differing_nodes(a: dict[str, Tree], b: dict[str, Tree], path: str, left_out: frozenset[str]) -> Iterator[str]:
    """In what two trees of one kind differ."""
    keys = sorted({*a, *b} - left_out)
    if a.get("requires_grad") != b.get("requires_grad"):
        below = f"{path}.requires_grad" if path else "requires_grad"
        yield f"{_place(below)}was {a.get('requires_grad')}, is now {b.get('requires_grad')}"
    if "sha256" in a:  # of values that are too many to be looked at one by one
        if any(a.get(key) != b.get(key) for key in keys if key != "requires_grad"):
            shown = _short(a), _short(b)
            other = "has other content" if shown[0] == shown[1] else f"was {shown[0]}, is now {shown[1]}"
            yield f"{_place(path) or 'it '}{other}"
        return
    if a.get("code") != b.get("code") and "code" in keys:
        yield _other_code(a, b, path)
    for key in keys:
        left, right = a.get(key, ABSENT), b.get(key, ABSENT)
        if key == "code" or _without(left, left_out) == _without(right, left_out):
            continue
        if key in _BY_NAME and all(isinstance(side, dict) or side is ABSENT for side in (left, right)):
            one, other = ({} if side is ABSENT else side for side in (left, right))
            for name in sorted({*one, *other}):
                below = f"{path}.{name}" if path else name
                yield from _differing(one.get(name, ABSENT), other.get(name, ABSENT), below, left_out)
        elif key in _BY_PLACE and isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
            for one, other in zip(left, right, strict=True):
                name = (one.get("shown") or {}).get("name", "")
                below = f"{path}.{name}" if path else name
                yield from _differing(one.get("value"), other.get("value"), below, left_out)
        elif isinstance(left, dict | list) and isinstance(right, dict | list):
            below = f"{path}.{key}" if key in _SAID else path
            yield from _differing(left, right, below.removeprefix("."), left_out)
        else:
            yield f"{_place(f'{path}.{key}' if path else key)}was {_short(left)}, is now {_short(right)}"


def _kind(tree: dict[str, Tree]) -> tuple[str, str] | None:
    """What a node stands for; of objects, functions and classes also which, of collections how they are held."""
    for key in _KINDS:
        if key in tree:
            which = tree[key] if key in ("object", "function", "class") else type(tree[key]).__name__
            return key, str(which)
    return None


def _another_class(a: dict[str, Tree], b: dict[str, Tree]) -> bool:
    """Whether two objects are of own classes of other names: what differs in them is no change of the one."""
    names = [(tree.get("shown") or {}).get("name") for tree in (a, b)]
    return "class" in a and "object" in a and names[0] != names[1]


def _place(path: str) -> str:
    return f"`{path}` " if path else ""


def _other_code(a: dict[str, Tree], b: dict[str, Tree], path: str) -> str:
    sources = [(tree.get("shown") or {}).get("source", "") for tree in (a, b)]
    if sources[0] != sources[1] and all(source and "\n" not in source and len(source) <= 100 for source in sources):
        return f"{_place(path)}was `{sources[0]}`, is now `{sources[1]}`"
    return f"the code of {_place(path)}has changed" if path else "its code has changed"


def _short(tree: Tree) -> str:
    """A tree in a few words."""
    if tree is ABSENT:
        return "absent"
    if isinstance(tree, dict):
        shown = tree.get("shown") or {}
        if "tensor" in tree:
            return str(shown["values"]) if "values" in shown else str(tree["tensor"])
        if "name" in shown:
            return str(shown["name"])
        for key in ("object", "function", "class", "float", "value", "module", "torch"):
            if isinstance(tree.get(key), str):
                return str(tree[key]) if key in ("float", "value", "torch") else str(tree[key]).rpartition(".")[2]
        if "partial" in tree:
            return f"a partial of {_short(tree['partial'])}"
        if "sha256" in tree:
            return f"{next(iter(tree))} of {next(iter(tree.values()))}"
        tree = tree.get("mapping", tree)
    if isinstance(tree, list):
        text = f"[{', '.join(map(_short, tree))}]"
    elif isinstance(tree, dict):
        text = "{" + ", ".join(f"{key}: {_short(value)}" for key, value in tree.items()) + "}"
    else:
        text = repr(tree)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_KINDS = (
    "object", "function", "class", "tensor", "mapping", "partial", "method", "cached", "compiled", "property",
    "staticmethod", "classmethod", "module", "list",
)  # fmt: skip
# Keys below which every value says its name, which takes no part.
_BY_PLACE = frozenset({"closes_over", "defaults"})
# Keys of a node that name a place themselves.
_SAID = frozenset({"first weights", "items", "arguments", "hooks", "state", "order", "subclass"})
# Keys of a node below which every value has a name.
_BY_NAME = frozenset({"attributes", "methods", "globals", "mapping", "keywords", "keyword_defaults", "imports"})
