"""Compose a recipe from the packaged groups, the user's files and overrides.

Hydra composes plain values from the defaults list; overrides are read one by one (`config/overrides.py`) and laid on the
result; then `schema.parse` judges the whole tree, so that every problem is reported at once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loopwright.config.groups import PACKAGED as PACKAGED
from loopwright.config.groups import Groups, first_line
from loopwright.config.laying import CHOICES as CHOICES
from loopwright.config.laying import lay, merge, site_defaults, spread
from loopwright.config.overrides import Assignment, parse_override
from loopwright.config.registry import import_module, imports_allowed, nearest
from loopwright.config.schema import Recipe, parse
from loopwright.errors import ConfigError, UserError

DEFAULT_EXPERIMENT = "regression_diabetes"


@dataclass(frozen=True, slots=True)
class Composed:
    """A validated recipe and how it was asked for."""

    recipe: Recipe
    experiment: str | None
    overrides: tuple[str, ...]


def compose(
    overrides: Sequence[str] = (),
    *,
    file: Path | None = None,
    config_dir: Path | None = None,
    allow_import: Iterable[str] = (),
    base: dict[str, Any] | None = None,
) -> Composed:
    """Make a recipe from overrides, over a user's YAML file, over the packaged defaults.

    `base` (a recorded recipe) takes the place of the defaults and is not trusted: its import paths are only followed
    into packages named by `allow_import`. Raises ConfigError with a line for every problem.
    """
    composer = Composer(file=file, config_dir=config_dir, allow_import=allow_import)
    problems: list[str] = []
    assignments = [read for text in overrides if (read := _read(text, problems)) is not None]
    try:
        recipe, experiment = composer.recipe(assignments) if base is None else (composer.over(base, assignments), None)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return Composed(recipe, experiment, tuple(overrides))


class Composer:
    """Composes recipes over the same files, which are read once: the points of a sweep.

    `below` is a tree that lies over the experiment where that says nothing, and under everything else.
    """

    def __init__(
        self,
        *,
        file: Path | None = None,
        config_dir: Path | None = None,
        allow_import: Iterable[str] = (),
        below: Mapping[str, Any] | None = None,
    ) -> None:
        self.groups = Groups.below(config_dir)
        self._below = dict(below or {})
        self._allowed = tuple(allow_import)
        for module in self._allowed:
            _import(module)
        self._written = read_yaml(file) if file else {}

    def recipe(self, assignments: Sequence[Assignment]) -> tuple[Recipe, str | None]:
        """A recipe and the experiment it comes from. Raises ConfigError with a line for every problem."""
        problems: list[str] = []
        with imports_allowed(None):
            tree, experiment = self._composed(list(spread(assignments)), problems)
            return _parsed(tree, problems), experiment

    def over(self, base: Mapping[str, Any], assignments: Sequence[Assignment]) -> Recipe:
        """A recorded recipe with other values laid on it. Raises ConfigError."""
        problems: list[str] = []
        with imports_allowed(self._allowed):
            # Plain values only, never resolved: a recorded recipe must not read the environment.
            tree = lay(merge({}, base), {}, list(spread(assignments)), self.groups, problems)
            return _parsed(tree, problems)

    def _composed(self, assignments: Sequence[Assignment], problems: list[str]) -> tuple[dict[str, Any], str | None]:
        """The experiment's values, the user's file and the overrides laid on top of them, interpolations resolved."""
        written = copy.deepcopy(self._written)
        named = [written.pop("experiment")] if "experiment" in written else []
        named += [a.value for a in assignments if a.key == "experiment"]
        rest = [a for a in assignments if a.key != "experiment"]
        if named:
            experiment = _known_experiment(named[-1], self.groups)
        else:
            asked = [written.get("task"), *(a.value for a in rest if a.key.replace(".", "/") in ("task", "task/name"))]
            own_task = any(_name_of(part) is not None for part in asked)
            experiment = None if own_task else DEFAULT_EXPERIMENT
        chosen = [a.value for a in rest if a.key == "task" and isinstance(a.value, str) and ":" not in a.value]
        tree = self.groups.values("experiment", experiment) if experiment else {}
        if isinstance(tree.get("env"), dict):
            site_defaults(tree, tree["env"])
        tree = merge(merge({}, self._below), tree)
        lay(tree, written, rest, self.groups, problems)
        try:
            resolved = _resolved(tree) if _interpolates(tree) else tree
        except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
            raise ConfigError([*problems, f"the configuration does not resolve: {first_line(error)}"]) from error
        tree = {str(key): value for key, value in resolved.items()}
        if tree.get("name") is None:
            tree["name"] = experiment
            if experiment is None and chosen and ":" in (_name_of(tree.get("task")) or ""):
                # A group file of one's own that names an import path: its runs go by the name that was typed.
                tree["name"] = chosen[-1].rpartition("/")[2]
        return tree, experiment


def _parsed(tree: Mapping[str, Any], problems: list[str]) -> Recipe:
    """The recipe of a tree. Raises ConfigError with what is wrong with it, after what was."""
    try:
        recipe = parse(tree)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return recipe


def _interpolates(value: Any) -> bool:
    """Whether a tree holds anything that OmegaConf is to resolve, or to find missing."""
    if isinstance(value, Mapping):
        return any(map(_interpolates, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_interpolates, value))
    return isinstance(value, str) and ("${" in value or value == "???")


def _resolved(tree: dict[str, Any]) -> dict[Any, Any]:
    resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    assert isinstance(resolved, dict)
    return resolved


def _read(text: str, problems: list[str]) -> Assignment | None:
    try:
        return parse_override(text)
    except ConfigError as error:
        problems += error.problems
        return None


def _known_experiment(name: Any, groups: Groups) -> str | None:
    known = groups.names("experiment")
    if name is None or name in known:
        return name  # type: ignore[no-any-return]  # a text: it is in the list
    raise ConfigError(f"`experiment` is {name!r}; use one of: {', '.join(known)}{nearest(str(name), known)}")


def _name_of(part: Any) -> str | None:
    """The choice that a part of a user's file names."""
    name = part.get("name") if isinstance(part, dict) else part
    return name if isinstance(name, str) else None


def read_yaml(path: Path, option: str = "--config") -> dict[str, Any]:
    """A user's YAML file as a plain mapping; `option` is how it was given. Raises ConfigError."""
    try:
        loaded = OmegaConf.load(path)
        tree = OmegaConf.to_container(loaded, resolve=False)
    except FileNotFoundError:
        raise ConfigError(f"{option} {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option} {path} cannot be read: {first_line(error)}") from error
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        # A date that does not exist, a number of thousands of digits, a list that holds itself.
        raise ConfigError(f"{option} {path} is not valid YAML: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"{option} {path} holds a {type(tree).__name__}; a recipe is a mapping of keys")
    bad = [key for key in tree if not isinstance(key, str)]
    if bad:
        raise ConfigError(f"{option} {path}: {bad[0]!r} is not a key; keys are words")
    return {str(key): value for key, value in tree.items()}


def _import(module: str) -> None:
    if module.endswith(".py") or "/" in module:
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UserError(f"--allow-import {module}: that is a file; give the module's name: {name}")
    try:
        import_module(module)
    except Exception as error:
        raise UserError(f"--allow-import {module} failed: {type(error).__name__}: {first_line(error)}") from error
