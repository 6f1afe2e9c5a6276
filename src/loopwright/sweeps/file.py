"""A sweep as a person writes it: a YAML file, or one of the named sweeps. Its keys are judged before anything is composed."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.compose import read_yaml
from loopwright.config.groups import Groups
from loopwright.config.node import Keywords, Node, frozen, one_folder, setting
from loopwright.config.overrides import Assignment, axis, typed
from loopwright.config.problems import lines, not_text
from loopwright.config.registry import nearest
from loopwright.errors import ConfigError
from loopwright.sweeps.plan import Confirm


def _axes(axes: dict[str, Any]) -> dict[str, Any]:
    for key, values in axes.items():
        if isinstance(values, Mapping) or values is None or values == ():
            raise PydanticCustomError(
                "axis",
                "give {key} a list of values, or a text such as '1e-3,3e-4' or 'range(5)'",
                {"key": repr(key)},
            )
    return frozen(axes)  # type: ignore[no-any-return]


def _seeds(seeds: Any) -> Any:
    if not (seeds is None or isinstance(seeds, str | tuple)):
        raise PydanticCustomError("seeds", "give a list of seeds, or a text such as 'range(5)'")
    return frozen(seeds)


def _variant(variant: Any) -> Any:
    if not (
        isinstance(variant, str | Mapping)
        or (isinstance(variant, tuple) and all(isinstance(text, str) for text in variant))
    ):
        raise PydanticCustomError(
            "variant", "give a list of overrides such as [model=gru, optim.lr=0.01], a text with several, or a mapping"
        )
    return frozen(variant)


# What sets one configuration apart: a list of overrides, a text that a shell would split into them, or a mapping.
Variant = Annotated[Any, AfterValidator(_variant)]


class Confirmed(Node):
    """The second stage of a sweep that screens first."""

    top: int = setting(..., "how many of the best configurations", ge=1)
    seeds: int = setting(..., "how many fresh seeds each of them gets", ge=1)


class SweepFile(Node):
    """What is trained: every combination of the axes, with every variant and point, with every seed."""

    name: Annotated[str, one_folder("a sweep's")] | None = setting(
        None, "folder of the sweep; null takes the file's name"
    )
    recipe: Keywords = setting({}, "keys of the recipe that all points share: dotted, or nested as in a --config file")
    axes: Annotated[dict[str, Any], AfterValidator(_axes)] = setting(
        {}, "key -> its values, as a list or as a text in the grammar of overrides"
    )
    overrides: tuple[Variant, ...] = setting((), "variants, each a list of overrides", min_length=0)
    points: dict[str, Variant] = setting({}, "variants with a name of their own")
    exclude: tuple[Keywords, ...] = setting((), "combinations left out: key -> value, or a list of values")
    seeds: Annotated[Any, AfterValidator(_seeds)] = setting(
        None, "seeds of every configuration: a list, or a text such as 'range(5)'; null leaves them to the recipe"
    )
    screen: int | None = setting(None, "train with this many seeds first, then confirm the best", ge=1)
    confirm: Confirmed | None = setting(None, "how many of the best are trained again, with how many seeds")

    @model_validator(mode="after")
    def _makes_sense(self) -> SweepFile:
        problems: list[str] = []
        if (self.screen is None) != (self.confirm is None):
            problems.append(
                "`screen` and `confirm` belong together: how many seeds first, and how many of the best again with how "
                "many; give both or neither"
            )
        problems += [f"`exclude.{n}` names no key" for n, entry in enumerate(self.exclude) if not entry]
        for where, keys in (("axes", list(self.axes)), ("recipe", [key for key, _ in flat(self.recipe)])):
            spelt: dict[str, str] = {}
            for key in keys:
                other = spelt.setdefault(key.replace("/", "."), key)
                if other != key or keys.count(key) > 1:
                    both = f"{other} and {key}, which are the same key" if other != key else f"{key} twice"
                    problems.append(f"`{where}` has {both}; leave one of them out")
        if problems:
            raise PydanticCustomError("sweep", "{lines}", {"lines": "\n".join(dict.fromkeys(problems))})
        return self

    def stages(self) -> Confirm | None:
        """The second stage, where there is one."""
        return None if self.confirm is None else Confirm(self.confirm.top, self.confirm.seeds)

    def shared(self) -> list[Assignment]:
        """What all points share."""
        return [Assignment(key, value) for key, value in flat(self.recipe)]


def read_sweep(source: str | Path | None, groups: Groups, said: Mapping[str, Any]) -> SweepFile:
    """The sweep of a file, the named one, or an empty one; `said` are the keys that the command gives instead.

    A text with `/` or the ending `.yaml` is a file, another the name of one in `sweep/` of the packaged configuration or
    of the user's directory. Raises ConfigError with a line for every problem.
    """
    tree: dict[str, Any] = {}
    if source is not None:
        path = _path(source, groups)
        tree = read_yaml(path, "the sweep's file")
        if tree.get("name") is None:
            tree["name"] = path.stem
    problems = list(not_text(tree))
    if problems:
        raise ConfigError(problems)
    tree = _tuples({**tree, **said})
    try:
        return SweepFile.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(lines(error.errors(), tree, SweepFile)) from error


def _path(source: str | Path, groups: Groups) -> Path:
    if isinstance(source, Path) or "/" in source or Path(source).suffix in (".yaml", ".yml"):
        return Path(source)
    known = groups.names("sweep")
    if source not in known:
        raise ConfigError(
            f"there is no sweep {source!r}; give a YAML file, or one of: {', '.join(known)}{nearest(source, known)}"
        )
    return groups.path("sweep", source)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree as (dotted key, value); an empty mapping is a leaf.

    >>> list(flat({"optim": {"name": "sgd", "lr": 0.1}, "train.epochs": 5}))
    [('optim.name', 'sgd'), ('optim.lr', 0.1), ('train.epochs', 5)]
    """
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def texts_of_axis(key: str, values: Any) -> tuple[str, ...]:
    """The overrides of an axis: of each value of a list, or of a text in the grammar of overrides. Raises ConfigError.

    >>> texts_of_axis("optim.lr", "1e-3,3e-4")
    ('optim.lr=1e-3', 'optim.lr=3e-4')
    """
    if isinstance(values, tuple):
        return tuple(dict.fromkeys(typed(key, value) for value in values))
    if isinstance(values, str):
        return axis(f"{key}={values}") or (f"{key}={values}",)
    return (typed(key, values),)


def texts_of_variant(variant: Any) -> tuple[str, ...]:
    """The overrides of a variant. Raises ConfigError for a quote that is not closed."""
    if isinstance(variant, Mapping):
        return tuple(typed(key, value) for key, value in flat(variant))
    if not isinstance(variant, str):
        return tuple(variant)
    try:
        return tuple(shlex.split(variant))
    except ValueError as error:
        raise ConfigError(f"{variant!r} does not split into overrides: {str(error).lower()}") from error


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
