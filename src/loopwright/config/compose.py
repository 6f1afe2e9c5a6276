"""Compose a recipe from the packaged groups, the user's files and overrides. The only file that imports Hydra.

Hydra composes plain values from the defaults list; overrides are read one by one with Hydra's parser and laid on the
result; then `schema.parse` judges the whole tree, so that every problem is reported at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loopwright.config.registry import import_module, imports_allowed, nearest
from loopwright.config.schema import Recipe, parse
from loopwright.errors import ConfigError, UserError
from loopwright.plugins import load_builtin

PACKAGED = Path(__file__).parent.parent / "conf"
DEFAULT_EXPERIMENT = "regression_diabetes"
# The keys that take a choice by name, as groups.
CHOICES = (
    "task",
    "task/data",
    "task/loss",
    "task/encoder",
    "task/decoder",
    "task/latent",
    "task/loop",
    "model",
    "optim",
    "schedule",
    "plots",
)


@dataclass(frozen=True, slots=True)
class Composed:
    """A validated recipe and how it was asked for."""

    recipe: Recipe
    experiment: str | None
    overrides: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One override: a dotted key and its value; `delete` removes the key."""

    key: str
    value: Any
    delete: bool = False


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
    load_builtin()
    _check_config_dir(config_dir)
    problems: list[str] = []
    with imports_allowed(None if base is None else allow_import):
        for module in allow_import:
            _import(module)
        assignments = [read for text in overrides if (read := _read(text, problems)) is not None]
        if base is not None:
            # Plain values only, never resolved: a recorded recipe must not read the environment.
            tree, experiment = _lay(_merge({}, base), {}, assignments, config_dir, problems), None
        else:
            tree, experiment = _composed(_read_yaml(file) if file else {}, assignments, config_dir, problems)
        try:
            recipe = parse(tree)
        except ConfigError as error:
            raise ConfigError([*problems, *error.problems]) from error
    if problems:
        raise ConfigError(problems)
    return Composed(recipe, experiment, tuple(overrides))


def parse_override(text: str) -> Assignment:
    """Read one `key=value` with Hydra's grammar.

    A value that does not parse is plain text when quoting it would parse, and so is one with commas or a sweep (only
    `--multirun` expands them). Raises ConfigError.

    >>> parse_override("train.epochs=5")
    Assignment(key='train.epochs', value=5, delete=False)
    >>> parse_override("task.data.path=a,b(1).csv").value
    'a,b(1).csv'
    """
    key, equals, value = text.partition("=")
    try:
        parsed: Override | None = _parser().parse_override(text)
    except (HydraException, RecursionError):
        parsed = _quoted(key, value) if equals else None
    if parsed is None or not parsed.key_or_group:
        raise ConfigError(f"`{text}` is not an override; write key=value, for example train.epochs=20")
    if parsed.package is not None:
        raise ConfigError(f"`{text}` places a group with `@`, which recipes do not use; write the dotted key")
    if parsed.is_delete():
        if equals:
            raise ConfigError(f"`{text}` gives a value to a key that is to be removed; write `~{parsed.key_or_group}`")
        return Assignment(parsed.key_or_group, None, delete=True)
    if parsed.is_sweep_override():
        return Assignment(parsed.key_or_group, value)
    return Assignment(parsed.key_or_group, parsed.value())


def _quoted(key: str, value: str) -> Override | None:
    try:
        return _parser().parse_override(f"{key}={_quote(value)}")
    except HydraException:
        return None


def _quote(text: str) -> str:
    """A text in Hydra's quotes, where a backslash is special before a quote only."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _read(text: str, problems: list[str]) -> Assignment | None:
    try:
        return parse_override(text)
    except ConfigError as error:
        problems += error.problems
        return None


def _composed(
    written: dict[str, Any], assignments: list[Assignment], config_dir: Path | None, problems: list[str]
) -> tuple[dict[str, Any], str | None]:
    """The experiment's values, the user's file and the overrides laid on top of them, interpolations resolved."""
    named = [written.pop("experiment")] if "experiment" in written else []
    named += [a.value for a in assignments if a.key == "experiment"]
    rest = [a for a in assignments if a.key != "experiment"]
    if named:
        experiment = _known_experiment(named[-1], config_dir)
    else:
        asked = [written.get("task"), *(a.value for a in rest if a.key.replace(".", "/") in ("task", "task/name"))]
        own_task = any(_name_of(part) is not None for part in asked)
        experiment = None if own_task else DEFAULT_EXPERIMENT
    chosen = [a.value for a in rest if a.key == "task" and isinstance(a.value, str) and ":" not in a.value]
    tree = _hydra("experiment", experiment, config_dir) if experiment else {}
    _lay(tree, written, rest, config_dir, problems)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, ValueError, TypeError, RecursionError) as error:
        raise ConfigError([*problems, f"the configuration does not resolve: {_first_line(error)}"]) from error
    assert isinstance(resolved, dict)
    tree = {str(key): value for key, value in resolved.items()}
    if tree.get("name") is None:
        tree["name"] = experiment
        if experiment is None and chosen and ":" in (_name_of(tree.get("task")) or ""):
            # A group file of one's own that names an import path: its runs go by the name that was typed.
            tree["name"] = chosen[-1].rpartition("/")[2]
    return tree, experiment


def _known_experiment(name: Any, config_dir: Path | None) -> str | None:
    known = sorted(option for group, option in _options(config_dir) if group == "experiment")
    if name is None or name in known:
        return name  # type: ignore[no-any-return]  # a text: it is in the list
    raise ConfigError(f"`experiment` is {name!r}; use one of: {', '.join(known)}{nearest(str(name), known)}")


def _hydra(group: str, name: str, config_dir: Path | None) -> dict[str, Any]:
    """What Hydra makes of one group file and its defaults list, unresolved."""
    overrides = [f"{group}={_quote(name)}"]
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[{_quote(f'file://{config_dir.resolve()}')}]")
    try:
        with initialize_config_module("loopwright.conf", version_base="1.3"):
            tree = OmegaConf.to_container(hydra_compose("config", overrides=overrides), resolve=False)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{group}={name} does not compose: {_first_line(error)}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _lay(
    tree: dict[str, Any],
    written: dict[str, Any],
    assignments: list[Assignment],
    config_dir: Path | None,
    problems: list[str],
) -> dict[str, Any]:
    """Lay the user's file and the overrides on a tree: first what they choose by name, then their other keys.

    So `optim.lr=0.1 optim=sgd` means the same in either order. A part that names another choice starts afresh: the
    experiment's values of that part belong to the choice it had made. An override's choice goes over the file's.
    """
    for group in CHOICES:
        said = [a.value for a in assignments if _chosen(a, group)]
        *parents, leaf = group.split("/")
        owner: Any = written
        for parent in parents:
            owner = owner.get(parent, {}) if isinstance(owner, dict) else {}
        held = owner.get(leaf) if isinstance(owner, dict) else None
        if isinstance(held, str):
            said.insert(0, owner.pop(leaf))
        if said:
            part = _part(group, said[-1], config_dir)
            _merge(tree, part)
            for key in group.split("/"):
                part = part.get(key, {})
            if isinstance(held, dict) and "name" in held and held["name"] != part.get("name"):
                del owner[leaf]
    _merge(tree, written)
    for assignment in assignments:
        if not any(_chosen(assignment, group) for group in CHOICES):
            problem = _assign(tree, assignment)
            problems += [problem] if problem else []
    return tree


def _chosen(assignment: Assignment, group: str) -> bool:
    """Whether an override chooses by name: `model=gru`, or `model.name=gru`."""
    key = assignment.key.replace(".", "/")
    return isinstance(assignment.value, str) and key in (group, f"{group}/name")


def _part(group: str, name: str, config_dir: Path | None) -> dict[str, Any]:
    """The tree that a choice by name stands for: the values of the user's group file, or just the name."""
    if config_dir is not None and (group, name) in _files(config_dir) and (group, name) not in _files(PACKAGED):
        return _hydra(group, name, config_dir)
    tree: dict[str, Any] = {"name": name}
    for key in reversed(group.split("/")):
        tree = {key: tree}
    return tree


def _merge(tree: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one tree on another, key by key; a part that names another choice replaces the old one as a whole."""
    for key, value in above.items():
        held = tree.get(key)
        if not isinstance(value, Mapping):
            tree[key] = value
        elif isinstance(held, dict) and ("name" not in value or value["name"] == held.get("name")):
            _merge(held, value)
        else:
            tree[key] = _merge({}, value)
    return tree


def _assign(tree: dict[str, Any], assignment: Assignment) -> str | None:
    """Carry out one override; returns a line where it cannot be."""
    key = assignment.key.replace("/", ".")
    *parents, leaf = key.split(".")
    for depth, parent in enumerate(parents):
        held = tree.get(parent)
        if held is not None and not isinstance(held, dict):
            where = ".".join(parents[: depth + 1])
            return f"`{key}` cannot be set: `{where}` is {held!r}, which has no keys below it"
        if held is None:
            held = tree[parent] = {}
        tree = held
    if not assignment.delete:
        _merge(tree, {leaf: assignment.value})
    elif tree.pop(leaf, tree) is tree:
        return f"`~{key}`: there is no such key to remove"
    return None


def _name_of(part: Any) -> str | None:
    """The choice that a part of a user's file names."""
    name = part.get("name") if isinstance(part, dict) else part
    return name if isinstance(name, str) else None


def _read_yaml(path: Path) -> dict[str, Any]:
    """A user's YAML file as a plain mapping. Raises ConfigError."""
    try:
        loaded = OmegaConf.load(path)
        tree = OmegaConf.to_container(loaded, resolve=False)
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} cannot be read: {_first_line(error)}") from error
    except (YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        # A date that does not exist, a number of thousands of digits, a list that holds itself.
        raise ConfigError(f"--config {path} is not valid YAML: {' '.join(str(error).split())[:500]}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path} holds a {type(tree).__name__}; a recipe is a mapping of keys")
    bad = [key for key in tree if not isinstance(key, str)]
    if bad:
        raise ConfigError(f"--config {path}: {bad[0]!r} is not a key; keys are words")
    return {str(key): value for key, value in tree.items()}


def _check_config_dir(config_dir: Path | None) -> None:
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such directory")


def _files(root: Path) -> set[tuple[str, str]]:
    """(group, name) of every group file below a directory."""
    found = {(path.parent.relative_to(root).as_posix(), path.stem) for path in root.rglob("*.yaml")}
    return {(group, name) for group, name in found if group != "."}


def _options(config_dir: Path | None) -> set[tuple[str, str]]:
    return _files(PACKAGED) | (_files(config_dir) if config_dir else set())


def _import(module: str) -> None:
    if module.endswith(".py") or "/" in module:
        name = module.removesuffix(".py").strip("./").replace("/", ".")
        raise UserError(f"--allow-import {module}: that is a file; give the module's name: {name}")
    try:
        import_module(module)
    except Exception as error:
        raise UserError(f"--allow-import {module} failed: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
