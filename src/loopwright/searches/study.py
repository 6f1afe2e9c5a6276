"""`StudyFile`: what a study is, as a person writes it; `Study`: the same with everything that the recipe decides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.compose import read_yaml
from loopwright.config.node import FrozenDict, Keywords, Node, frozen, one_folder, setting
from loopwright.config.problems import lines, not_text, shown
from loopwright.engine.task import Direction
from loopwright.errors import ConfigError
from loopwright.scalars import as_plain
from loopwright.searches.pruners import PRUNER, Extent
from loopwright.searches.samplers import SAMPLER
from loopwright.searches.space import Entry as Entry

_FILE_STORAGES = ("journal", "sqlite")
S = TypeVar("S", bound="StudyFile")


def _flat(tree: Any) -> FrozenDict:
    """A recipe's keys as dotted ones: nested mappings are taken apart, except those that name a choice with keys."""
    flat: dict[str, Any] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, Mapping) and value and "name" not in value:
                walk(value, f"{prefix}{key}.")
            else:
                flat[f"{prefix}{str(key).replace('/', '.')}"] = value

    walk(tree, "")
    return FrozenDict({key: frozen(value) for key, value in flat.items()})


class StudyFile(Node):
    """A study file, checked as far as it can be without the recipe it is about."""

    name: Annotated[str, one_folder("a study's")] | None = setting(
        None, "what the study and its directory are called; null takes the file's name"
    )
    trials: int = setting(
        100, "trials in all, whoever runs them and in however many calls; failed ones do not count", ge=1
    )
    metric: str | tuple[str, ...] | None = setting(
        None, "a column of metrics.csv (without a prefix `val_` is meant), or several; null takes the recipe's monitor"
    )
    direction: Direction | tuple[Direction, ...] | None = setting(
        None, "min or max, one for each metric; null takes the task's"
    )
    sampler: SAMPLER = setting("tpe", "what proposes the trials")
    pruner: PRUNER = setting("none", "what stops trials early")
    storage: str | None = setting(
        None, "journal or sqlite (a file in the study's directory), or a database's URL; null is journal"
    )
    batch: int | None = setting(
        None,
        "propose so many, run them, tell them in order: the same trials every time; null: as workers come free",
        ge=1,
    )
    recipe: Annotated[dict[str, Any], AfterValidator(_flat)] = setting({}, "keys of every trial's recipe")
    space: dict[str, Entry] = setting(..., "the searched keys", min_length=1)

    @field_validator("storage")
    @classmethod
    def _storage_is_known(cls, storage: str | None) -> str | None:
        if (
            storage is not None
            and storage not in _FILE_STORAGES
            and ("://" not in storage or storage[:8] == "journal:")
        ):
            raise PydanticCustomError("storage", "use journal, sqlite, or a URL like postgresql://user@host/database")
        return storage

    @field_validator("space")
    @classmethod
    def _space_is_frozen(cls, space: dict[str, Entry]) -> dict[str, Entry]:
        frozen_space = {key.replace("/", "."): entry for key, entry in space.items()}
        once = {key.removesuffix(".name") for key in frozen_space}
        if len(once) < len(space):
            raise PydanticCustomError("space", "a key is in it twice (a/b, a.b and a.b.name are one)")
        return FrozenDict(frozen_space)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        problems = list(self._problems())
        if problems:
            raise PydanticCustomError("parts", "{lines}", {"lines": "\n".join(problems)})
        return self

    def _problems(self) -> Iterator[str]:
        for key in self.space:
            for given, value in self.recipe.items():
                if key.removesuffix(".name") == given.removesuffix(".name"):
                    yield f"`recipe` sets {given!r} to {shown(value)}, and `space` searches {key!r}; leave one of them out"
            if key.split(".")[0] in _NOT_SEARCHED:
                yield f"`space` searches {key!r}; {_NOT_SEARCHED[key.split('.')[0]]}"
        metrics = self.metric if isinstance(self.metric, tuple) else (self.metric,)
        if len(set(metrics)) < len(metrics):
            yield f"`metric` is {shown(self.metric)}; a metric is in it twice"
        if self.metric == ():
            yield "`metric` is []; name at least one, or null for the recipe's monitor"
        if isinstance(self.direction, tuple) and len(self.direction) != len(metrics):
            yield f"`direction` is {shown(self.direction)}; give one for each of the {len(metrics)} metrics"
        if len(metrics) > 1 and not isinstance(self.direction, tuple | None):
            yield f"`direction` is {self.direction!r}; with {len(metrics)} metrics it is a list, one for each"
        if len(metrics) > 1 and self.pruner.name != "none":
            yield (
                f"`pruner` is {self.pruner.name!r}; with several metrics no trial can be said to be behind, so use none, "
                "or search for one metric"
            )
        yield from self.sampler.problems(self.space, len(metrics))


_NOT_SEARCHED = {
    "seed": "seeds are for averaging: give `seeds: [1, 2, 3]` in `recipe`, each trial is trained with each of them",
    "seeds": "every trial has the same seeds; give them in `recipe`",
    "experiment": "a study is about one experiment; give it in `recipe`",
    **dict.fromkeys(
        ("name", "launcher", "env", "record", "plots", "trackers", "hooks"), "it does not change the training"
    ),
}


class Study(StudyFile):
    """A study file over its recipe: what the processes that work on it go by, kept as study.json."""

    metrics: tuple[str, ...] = setting(..., "the columns of metrics.csv that are searched for")
    directions: tuple[Direction, ...] = setting(..., "which way each is better")
    monitor: str = setting(..., "the recipe's monitor")
    epochs_per_seed: int = setting(..., "the most epochs that a run may have")
    seeds: tuple[int, ...] = setting(..., "the seeds of every trial")
    gated: bool = setting(..., "whether the recipe has a gate")
    overrides: tuple[str, ...] = setting(..., "what the command line lays over the file")
    config_dir: str | None = setting(None, "the directory of the user's groups")
    allow_import: tuple[str, ...] = setting((), "modules that are imported first")
    base: Keywords = setting({}, "what every trial trains, searched keys left out; to tell two studies apart")

    @property
    def extent(self) -> Extent:
        """What a pruner has to know."""
        return Extent(self.epochs_per_seed, len(self.seeds), self.directions[0])

    def worst(self, index: int = 0) -> float:
        """The value of a trial that diverged."""
        return math.inf if self.directions[index] == "min" else -math.inf


def read_study(path: Path) -> StudyFile:
    """Read a study file. Raises ConfigError with a line for every problem."""
    file = parse_study(read_yaml(path, "the study file"), StudyFile)
    return file if file.name is not None else file.model_copy(update={"name": path.stem})


def parse_study(tree: Mapping[str, Any], cls: type[S]) -> S:
    """Make a study from plain values. Raises ConfigError with a line for every problem."""
    problems = list(not_text(tree))
    if problems:
        raise ConfigError(problems)
    plain = {key: _tuples(value) for key, value in as_plain(tree).items()}
    try:
        return cls.model_validate(plain)
    except ValidationError as error:
        raise ConfigError(lines(error.errors(), plain, cls)) from error


def _tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
