"""What a recipe can choose by name: tasks, models, optimizers, schedules, data sources.

A choice is a frozen configuration class with a `name` field and a `build(...)` method; run-time objects (a module, the
number of inputs) are arguments of `build`, never fields. `Choice(group)` is the annotation for a key that takes one.

Our own names are declared with the module that holds them, which is imported when the name is asked for: a run of one
task does not pay for the others. What installed packages add is imported when the first name is asked for, whoever asks:
no caller has to prepare anything.

A name may also be an import path, `package.module:Class`, of a class that declares `name: str`. It is only followed
where `imports_allowed` permits its package: always for what the user writes, never for a recorded recipe by itself.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import PlainValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from loopwright.config.node import Node
from loopwright.plugins import declared, load_installed

_registry: dict[str, dict[str, type[Node]]] = {}
# Our own names, whether their module has been imported yet or not: group -> name -> module.
_declared = declared()
# None: every import path may be followed; otherwise the packages that may.
_allowed: ContextVar[frozenset[str] | None] = ContextVar("imports_allowed", default=frozenset())
Aliases = Callable[[str], type[Node] | None]
N = TypeVar("N", bound=type[Node])


def register(group: str, name: str) -> Callable[[N], N]:
    """Make a configuration class available as `group=name`.

    Raises ValueError when another class already has that name: two packages must not shadow each other silently.
    """

    def add(cls: N) -> N:
        module = _declared.get(group, {}).get(name, cls.__module__)
        if module != cls.__module__:
            raise ValueError(f"{group} {name!r} is already registered by {module}")
        taken = _registry.setdefault(group, {}).setdefault(name, cls)
        if taken is not cls and taken.__qualname__ != cls.__qualname__:
            raise ValueError(f"{group} {name!r} is already registered by {taken.__module__}.{taken.__qualname__}")
        _registry[group][name] = cls
        return cls

    return add


def names(group: str, base: type[Node] = Node) -> list[str]:
    """The names a group offers (those whose class derives from `base`), sorted. Imports the group's modules."""
    return sorted(name for name in _known(group) if issubclass(lookup(group, name), base))


def lookup(group: str, name: str) -> type[Node]:
    """The class behind a name, its module imported. Raises KeyError."""
    load_installed()
    registered = _registry.setdefault(group, {})
    if name not in registered:
        importlib.import_module(_declared[group][name])
    return registered[name]


def _known(group: str) -> set[str]:
    load_installed()
    return {*_declared.get(group, {}), *_registry.get(group, {})}


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint `; did you mean 'x'?` for a misspelt word, or an empty string where none is as alike as `cutoff`."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


@dataclass(frozen=True)
class ChoiceOf:
    """The mark `Choice` leaves in an annotation: which group the key chooses from."""

    group: str
    base: type[Node]
    aliases: Aliases | None = None

    def find(self, name: str) -> type[Node] | None:
        """The class behind a name, an alias or an allowed import path; None where there is none."""
        cls = lookup(self.group, name) if name in _known(self.group) else None
        if cls is None and ":" in name:
            cls = _imported(name)
        if cls is None and self.aliases is not None:
            cls = self.aliases(name)
        return cls if cls is not None and issubclass(cls, self.base) else None

    def known(self, name: Any) -> type[Node] | None:
        """What `find` says, and None where it cannot be asked: for hints, not for validation."""
        try:
            return self.find(name) if isinstance(name, str) else None
        except PydanticCustomError:
            return None


@contextmanager
def imports_allowed(packages: Iterable[str] | None) -> Iterator[None]:
    """Within the block, names may be import paths into these packages (None: into any)."""
    token = _allowed.set(None if packages is None else frozenset(packages))
    try:
        yield
    finally:
        _allowed.reset(token)


def import_module(name: str) -> Any:
    """Import a module the user named; the current directory counts, as it does for `python -m`."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(name)


def _imported(path: str) -> type[Node]:
    module, _, attribute = path.partition(":")
    allowed = _allowed.get()
    package = module.split(".")[0]
    if allowed is not None and module not in allowed and package not in allowed:
        raise PydanticCustomError(
            "choice_import",
            "'{path}' would import {package}, which a recorded recipe never does by itself; add --allow-import {package}",
            {"path": path, "package": package},
        )
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:
        raise PydanticCustomError(
            "choice_import",
            "'{path}' cannot be imported ({reason}); it names package.module:Class",
            {"path": path, "reason": f"{type(error).__name__}: {error}"},
        ) from error
    if not (isinstance(found, type) and issubclass(found, Node)):
        raise PydanticCustomError(
            "choice_import", "'{path}' is not a configuration class (a loopwright Node with build)", {"path": path}
        )
    return found


def Choice(  # noqa: N802 - reads as a type
    group: str,
    base: type[Node] = Node,
    aliases: Aliases | None = None,
    default: str | None = None,
    also: Iterable[str] = (),
) -> Any:
    """The annotation of a key that takes a registered choice: `{"name": "gru", ...}`, just `"gru"`, or an instance.

    `aliases` may resolve further names (the optimizers of torch by class name). `default` is the name of a mapping that
    gives none (`optim.lr=0.1` alone), `also` what else a misspelt name may have meant.
    """
    choice = ChoiceOf(group, base, aliases)

    def resolve(value: Any) -> Node:
        if isinstance(value, base):
            return value
        tree = {"name": value} if isinstance(value, str) else value
        if isinstance(tree, dict) and "name" not in tree and default is not None:
            tree = {"name": default, **tree}
        if not isinstance(tree, dict) or not isinstance(tree.get("name"), str):
            raise PydanticCustomError(
                "choice",
                "give a name, one of: {known}",
                {"known": ", ".join(names(group, base))},
            )
        name = tree["name"]
        cls = choice.find(name)
        if cls is None:
            known = names(group, base)
            raise PydanticCustomError(
                "choice_name",
                "{name} is not known; use one of: {known}{hint}",
                {"name": repr(name), "known": ", ".join(known), "hint": nearest(name, [*known, *also])},
            )
        return cls.model_validate(tree)

    return Annotated[SerializeAsAny[base], PlainValidator(resolve), choice]  # type: ignore[misc,valid-type]
