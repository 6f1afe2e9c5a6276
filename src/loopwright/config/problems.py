"""What is wrong with a tree, in lines: the key, the value and the fix, with the nearest valid name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic_core import ErrorDetails

from loopwright.config.keys import choice_of, walk
from loopwright.config.node import Node
from loopwright.config.registry import lookup, names, nearest


def lines(problems: list[ErrorDetails], tree: Mapping[str, Any], cls: type[Node]) -> list[str]:
    """A line for each problem that `cls` has with a tree; what a key may be else comes into one line."""
    found: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        key, given, message, kind = _key(problem["loc"], tree), problem["input"], problem["msg"], problem["type"]
        if kind == "extra_forbidden":
            known = [dotted for dotted, _, _ in walk(cls, tree)]
            message = f"there is no such key{_owners(key, tree, cls) or _nearest_key(key, known)}"
            found[key, f"`{key}` is {shown(given)}: "] = [message]
        elif kind == "missing":
            found[key, f"`{key}` is missing; "] = ["give it a value"]
        elif not key:
            found |= {("", line): [""] for line in message.splitlines()}
        elif not (kind == "too_short" and given):  # given, but each of its items is wrong already
            message = _MESSAGES.get(kind, message.removeprefix("Value error, ").replace("Input should", "it should"))
            if kind == "tuple_type" and isinstance(given, str | int | float) and given != "":
                message = f"it should be a list, for example [{', '.join(re.split(r' *, *', str(given)))}]"
            if kind == "too_short" and _may_be_null(key, tree, cls):
                message += "; null leaves it out"
            own = kind == "choice_name" or (isinstance(given, Mapping) and kind not in _MESSAGES)
            said = found.setdefault((key, f"`{key}`: " if own else f"`{key}` is {shown(given)}; "), [])
            if message not in said:
                said.append(message.removeprefix("it should be ") if said else message)
    return [start + " or ".join(said) for (_, start), said in found.items()]


_MESSAGES = {
    "string_type": "it should be text (on a command line \"key='5'\" keeps a number text)",
    "bool_type": "it should be true or false",
    "tuple_type": "it should be a list, for example [1, 2]",
    "dict_type": "it should be a mapping of keys",
    "model_type": "it should be a mapping of keys",
    "too_short": "it should not be empty",
}
_ARM = re.compile(r"constrained-\w+|tuple\[.*\]|literal\[.*\]|str|int|float|bool|\[key\]")


def _key(loc: tuple[int | str, ...], tree: Any) -> str:
    """The dotted key of a problem, without the names pydantic gives to what a key may be (int, tuple[...])."""
    kept = []
    for part in loc:
        inside = isinstance(tree, Mapping) and part in tree
        if inside or not (isinstance(part, str) and _ARM.fullmatch(part)):
            kept.append(str(part))
            tree = tree[part] if inside else None
    return ".".join(kept)


def _may_be_null(key: str, tree: Any, cls: type[Node]) -> bool:
    return any(dotted == key and type(None) in get_args(field.annotation) for dotted, field, _ in walk(cls, tree))


def _owners(key: str, tree: Any, cls: type[Node]) -> str:
    """A hint for a key that another choice of the same part has: `task.encoder` where the task is a regression."""
    part, _, leaf = key.rpartition(".")
    choice = next((choice_of(field) for dotted, field, _ in walk(cls, tree) if dotted == part), None)
    found = names(choice.group, choice.base) if choice else []
    owners = [name for name in found if choice and leaf in lookup(choice.group, name).model_fields]
    group = part.replace(".", "/")
    return f"; with {' or '.join(f'{group}={name}' for name in owners)} there is" if owners else ""


def _nearest_key(key: str, known: list[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    parent = key.rpartition(".")[0]
    siblings = {dotted.rsplit(".", 1)[-1]: dotted for dotted in known if dotted.rpartition(".")[0] == parent}
    same_leaf = [dotted for dotted in known if dotted.rsplit(".", 1)[-1] == leaf]
    if same_leaf and not nearest(leaf, siblings, cutoff=0.75):
        return f"; did you mean `{same_leaf[0]}`?"
    leaves = siblings | {
        dotted.rsplit(".", 1)[-1]: dotted for dotted in known if dotted.rsplit(".", 1)[-1] not in siblings
    }
    hint = nearest(leaf, siblings) or nearest(leaf, leaves)
    found = re.search(r"'(.+)'", hint)
    return f"; did you mean `{leaves[found[1]]}`?" if found else ""


def shown(value: Any) -> str:
    """A value as it stands in a line: at most 80 characters of it."""
    if isinstance(value, tuple):
        value = list(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def not_text(value: Any, key: str = "") -> Iterator[str]:
    """A line for every text that no file could hold."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from not_text(str(name), f"{key}.{name!a}" if key else f"{name!a}")
            yield from not_text(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from not_text(item, f"{key}.{index}")
    elif isinstance(value, str) and re.search("[\x00\ud800-\udfff]", value):
        yield f"`{key}` is {value!a}; it holds bytes that are not text (UTF-8)"
