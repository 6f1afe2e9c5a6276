"""What a sweep combines: axes, variants and seeds, as its file has them and as the command line changes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from loopwright.config.compose import CHOICES
from loopwright.config.overrides import Assignment, axis, parse_override
from loopwright.errors import ConfigError
from loopwright.sweeps.file import SweepFile, texts_of_axis, texts_of_variant
from loopwright.sweeps.tally import Tally

_SEEDS = ("seed", "seeds")
_SHARED = {
    "launcher": "a sweep has one launcher, which starts all of its runs",
    "env": "all runs of a sweep are at one site",
    "name": "it names the folder of the runs and changes nothing about them",
}


def canonical(key: str) -> str:
    """One spelling of a key: `task/latent`, `task.latent` and `task.latent.name` are the same choice."""
    dotted = key.replace("/", ".")
    choice = dotted.removesuffix(".name")
    return choice if choice.replace(".", "/") in CHOICES else dotted


@dataclass(frozen=True)
class Seeds:
    """Seeds of every configuration. `listed` is false for a single one, from which a screening counts up."""

    values: tuple[int, ...]
    listed: bool = True

    def screened(self, num: int) -> tuple[int, ...]:
        """The seeds of a screening. Raises ConfigError where a list has too few."""
        if not self.listed:
            return tuple(range(self.values[0], self.values[0] + num))
        if num > len(self.values):
            raise ConfigError(
                f"`screen` is {num} and there are {len(self.values)} seeds; give more seeds, or a smaller number"
            )
        return self.values[:num]


@dataclass(frozen=True)
class Configuration:
    """One combination: what is laid on the recipe that all share. `said` is every value by its key."""

    name: str
    texts: tuple[str, ...]
    assignments: tuple[Assignment, ...]
    said: dict[str, Any]

    @property
    def label(self) -> str:
        return self.name or " ".join(self.texts) or "the recipe"


@dataclass(frozen=True)
class Variant:
    """Overrides that go together."""

    name: str
    texts: tuple[str, ...]


@dataclass
class Space:
    """What there is to combine. `seeds` is None where each recipe has its own."""

    base: list[Assignment] = field(default_factory=list)
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variants: list[Variant] = field(default_factory=list)
    seeds: Seeds | None = None

    def size(self) -> int:
        """The number of combinations, those that are excluded too."""
        lengths = map(
            len, (*self.axes.values(), self.variants or (None,), self.seeds.values if self.seeds else (None,))
        )
        return math.prod(lengths)

    def configurations(self) -> Iterator[Configuration]:
        """Every combination, the last axis fastest but for the variants."""
        shared = {canonical(each.key): each.value for each in self.base}
        for values in itertools.product(*self.axes.values()):
            for variant in self.variants or (Variant("", ()),):
                texts = (*values, *variant.texts)
                assignments = tuple(map(parse_override, texts))
                said = {**shared, **{canonical(each.key): each.value for each in assignments}}
                name = " ".join((variant.name, *values)) if variant.name else ""
                yield Configuration(name, texts, assignments, said)

    def keys(self) -> set[str]:
        """Every key that something is said of."""
        texts = [text for values in (*self.axes.values(), *(v.texts for v in self.variants)) for text in values]
        return {canonical(each.key) for each in (*self.base, *map(parse_override, texts))}

    def under(self, command: Space) -> Space:
        """The same below a command line, which replaces what is said here of its keys."""
        keys = command.keys()
        axes = {key: texts for key, texts in self.axes.items() if key in command.axes or key not in keys}
        return Space(
            [*self.base, *command.base],
            {**axes, **command.axes},
            [
                Variant(
                    each.name, tuple(text for text in each.texts if canonical(parse_override(text).key) not in keys)
                )
                for each in self.variants
            ],
            command.seeds or self.seeds,
        )


def written(file: SweepFile, tally: Tally) -> Space:
    """The space of a file."""
    space = Space()
    given: dict[str, tuple[Any, bool]] = {}
    if file.seeds is not None:
        given["seeds"] = (file.seeds, True)
    for assignment in file.shared():
        key = canonical(assignment.key)
        if key in _SEEDS and assignment.value is not None:
            given[f"recipe.{key}"] = (assignment.value, key == "seeds")
        else:
            space.base.append(assignment)
    for key, values in file.axes.items():
        with tally.collecting(f"`axes`: {key}: "):
            if canonical(key) in _SEEDS:
                given[f"axes.{key}"] = (values, True)
            else:
                _check_differs(key)
                space.axes[canonical(key)] = texts_of_axis(key, values)
    space.seeds = _seeds(given, tally)
    named = [("", f"overrides.{number}", variant) for number, variant in enumerate(file.overrides)]
    named += [(name, f"points.{name}", variant) for name, variant in file.points.items()]
    for name, where, variant in named:
        with tally.collecting(f"`{where}`: "):
            texts = texts_of_variant(variant)
            for text in texts:
                key = parse_override(text).key
                _check_differs(key)
                if axis(text) is not None:
                    raise ConfigError(f"`{text}` has several values; put it under `axes`, or in quotes")
                if given and canonical(key) in _SEEDS:
                    raise ConfigError(f"`{text}`, and the sweep has seeds of its own; leave one of them out")
            space.variants.append(Variant(name, texts))
    return space


def spoken(overrides: Iterable[str], tally: Tally) -> Space:
    """The space of a command line: overrides with several values are axes, the others hold for all points."""
    space = Space()
    given: dict[str, tuple[Any, bool]] = {}
    for text in overrides:
        with tally.collecting():
            values, assignment = axis(text), parse_override(text)
            key = canonical(assignment.key)
            if key in _SEEDS and (values is not None or assignment.value is not None):
                found = None if values is None else tuple(parse_override(each).value for each in values)
                given[key] = (assignment.value if found is None else found, found is not None or key == "seeds")
                continue
            space.axes.pop(key, None)
            if values is None:
                space.base.append(assignment)
            else:
                _check_differs(key)
                space.base = [each for each in space.base if canonical(each.key) != key]
                space.axes[key] = tuple(dict.fromkeys(values))
    space.seeds = _seeds(given, tally)
    return space


def _check_differs(key: str) -> None:
    """Refuse a key that the points of a sweep share. Raises ConfigError."""
    part = canonical(key).split(".")[0]
    if part in _SHARED and (part != "name" or canonical(key) == "name"):
        raise ConfigError(f"`{key}` cannot differ between the points of a sweep: {_SHARED[part]}")


def _seeds(given: dict[str, tuple[Any, bool]], tally: Tally) -> Seeds | None:
    """The seeds from whatever gives them: where -> (a seed, a list of them or a text, whether it is a list)."""
    if len(given) > 1:
        tally.add(f"{' and '.join(f'`{where}`' for where in given)} both give seeds; leave one of them out")
    for where, (values, listed) in given.items():
        with tally.collecting(f"`{where}`: "):
            if isinstance(values, str) and listed:
                values = tuple(parse_override(text).value for text in texts_of_axis("seed", values))
            many = tuple(values) if isinstance(values, list | tuple) else (values,)
            for seed in many:
                if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
                    raise ConfigError(f"{seed!r} is no seed; seeds are whole numbers from 0 on")
            if not many:
                raise ConfigError("the list is empty; give a seed, for example [0]")
            return Seeds(tuple(dict.fromkeys(many)), listed)
    return None
