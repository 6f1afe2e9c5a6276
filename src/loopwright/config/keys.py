"""The keys of a configuration class, those of the choices in it too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from loopwright.config.node import Node
from loopwright.config.registry import ChoiceOf


def walk(cls: type[Node], tree: Any = None, prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Node]]]:
    """Every key below a configuration class as (dotted key, field, owner); choices as `tree` has chosen them."""
    for name, field in cls.model_fields.items():
        given = tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
        yield f"{prefix}{name}", field, cls
        below: type[Node] | None = None
        choice = choice_of(field)
        if choice is not None:
            given = field.default if given is None else given
            chosen = given.get("name", field.default) if isinstance(given, Mapping) else getattr(given, "name", given)
            below = type(given) if isinstance(given, Node) else choice.known(chosen)
        else:
            kinds = [
                k
                for k in (field.annotation, *get_args(field.annotation))
                if isinstance(k, type) and issubclass(k, Node)
            ]
            below = kinds[0] if kinds else None
        if below is not None and get_origin(field.annotation) is dict and given:
            for key, item in given.items() if isinstance(given, Mapping) else ():
                yield from walk(below, item, f"{prefix}{name}.{key}.")
        elif below is not None:
            yield from walk(below, given, f"{prefix}{name}.")


def choice_of(field: FieldInfo) -> ChoiceOf | None:
    """The mark of a key that takes a registered choice."""
    marks = [*field.metadata]
    for arm in get_args(field.annotation):
        marks += getattr(arm, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, ChoiceOf)), None)
