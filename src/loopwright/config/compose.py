"""Compose a recipe from the packaged groups, the user's files and overrides. The only file that imports Hydra.

Hydra composes plain values from the defaults list; overrides are read one by one with Hydra's parser and laid on the
result; then `schema.parse` judges the whole tree, so that every problem is reported at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loopwright.config.registry import import_module, imports_allowed, nearest
from loopwright.config.schema import Recipe, parse
from loopwright.errors import ConfigError, UserError
from loopwright.plugins import load_builtin

PACKAGED = Path(__file__).parent.parent / "conf"
DEFAULT_EXPERIMENT = "regression_diabetes"


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
    with imports_allowed(None if base is None else allow_import):
        for module in allow_import:
            _import(module)
        assignments = [parse_override(text) for text in overrides]
        if base is not None:
            # Never resolved: a recorded recipe holds values, and must not read the environment.
            tree, experiment = _laid(OmegaConf.create(base), assignments, resolve=False), None
        else:
            written = _read_yaml(file) if file else {}
            tree, experiment = _composed(written, assignments, config_dir)
        recipe = parse(tree)
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
    except HydraException:
        parsed = _quoted(key, value) if equals else None
    if parsed is None:
        raise ConfigError(f"`{text}` is not an override; write key=value, for example train.epochs=20")
    if parsed.is_delete():
        return Assignment(parsed.key_or_group, None, delete=True)
    if parsed.is_sweep_override():
        return Assignment(parsed.key_or_group, value)
    return Assignment(parsed.key_or_group, parsed.value())


def _quoted(key: str, value: str) -> Override | None:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    try:
        return _parser().parse_override(f"{key}='{escaped}'")
    except HydraException:
        return None


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _composed(
    written: dict[str, Any], assignments: list[Assignment], config_dir: Path | None
) -> tuple[dict[str, Any], str | None]:
    """Choose group files (experiment first), compose them, lay the user's file and then the overrides on top."""
    chosen: dict[str, str] = {}
    rest: list[Assignment] = []
    top = dict(written)
    for group in _groups(config_dir):
        node: Any = top
        *parents, leaf = group.split("/")
        for parent in parents:
            node = node.get(parent, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and isinstance(node.get(leaf), str) and (group, node[leaf]) in _options(config_dir):
            chosen[group] = node.pop(leaf)
    for assignment in assignments:
        group = assignment.key.replace(".", "/")
        if isinstance(assignment.value, str) and (group, assignment.value) in _options(config_dir):
            chosen[group] = assignment.value
        else:
            rest.append(assignment)
    experiment = _experiment(chosen, top, rest, config_dir)
    hydra_overrides = [f"{group}={value}" for group, value in chosen.items() if group != "experiment"]
    if experiment is not None:
        hydra_overrides.append(f"experiment={experiment}")
    if config_dir is not None:
        hydra_overrides.append(f"hydra.searchpath=['file://{config_dir.resolve()}']")
    try:
        with initialize_config_module("loopwright.conf", version_base="1.3"):
            config = hydra_compose("config", overrides=hydra_overrides)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"the configuration does not compose: {_first_line(error)}") from error
    OmegaConf.set_struct(config, False)
    for key, value in top.items():
        _lay_file(config, key, value)
    tree = _laid(config, rest)
    tree.setdefault("name", None)
    if tree["name"] is None and experiment is not None:
        tree["name"] = experiment
    return tree, experiment


def _experiment(
    chosen: dict[str, str], written: dict[str, Any], rest: list[Assignment], config_dir: Path | None
) -> str | None:
    """The experiment asked for; the default one unless the user chose a task of their own."""
    named = [written.pop("experiment")] if "experiment" in written else []
    named += [a.value for a in rest if a.key == "experiment"]
    rest[:] = [a for a in rest if a.key != "experiment"]
    if "experiment" in chosen:
        return chosen["experiment"]
    if named:
        if named[-1] is None:
            return None
        known = sorted(option for group, option in _options(config_dir) if group == "experiment")
        raise ConfigError(
            f"`experiment` is {named[-1]!r}; use one of: {', '.join(known)}{nearest(str(named[-1]), known)}"
        )
    own_task = "task" in chosen or any(a.key in ("task", "task.name") for a in rest) or _names_task(written)
    return None if own_task else DEFAULT_EXPERIMENT


def _names_task(written: dict[str, Any]) -> bool:
    task = written.get("task")
    return isinstance(task, str) or (isinstance(task, dict) and "name" in task)


def _lay_file(config: DictConfig, key: str, value: Any) -> None:
    """Lay a top-level key of the user's file on the tree; a part that names another choice replaces the old one."""
    held = config.get(key)
    if isinstance(value, dict) and "name" in value and held is not None and held.get("name") != value["name"]:
        config[key] = value
    else:
        OmegaConf.update(config, key, value, merge=True)


def _laid(config: DictConfig, assignments: list[Assignment], *, resolve: bool = True) -> dict[str, Any]:
    OmegaConf.set_struct(config, False)
    problems = []
    for assignment in assignments:
        key = assignment.key.replace("/", ".")
        try:
            if assignment.delete:
                parent, _, leaf = key.rpartition(".")
                owner = OmegaConf.select(config, parent) if parent else config
                if not isinstance(owner, DictConfig) or leaf not in owner:
                    problems.append(f"`~{key}`: there is no such key to remove")
                    continue
                del owner[leaf]
            else:
                OmegaConf.update(config, key, assignment.value, merge=True, force_add=True)
        except (OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError) as error:
            problems.append(f"`{key}` cannot be set to {assignment.value!r}: {_first_line(error)}")
    if problems:
        raise ConfigError(problems)
    try:
        tree = OmegaConf.to_container(config, resolve=resolve, throw_on_missing=resolve)
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not resolve: {_first_line(error)}") from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _read_yaml(path: Path) -> dict[str, Any]:
    """A user's YAML file as a plain mapping. Raises ConfigError."""
    try:
        loaded = OmegaConf.load(path)
        tree = OmegaConf.to_container(loaded, resolve=False)
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} cannot be read: {_first_line(error)}") from error
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"--config {path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path} holds a {type(tree).__name__}; a recipe is a mapping of keys")
    bad = [key for key in tree if not isinstance(key, str)]
    if bad:
        raise ConfigError(f"--config {path}: {bad[0]!r} is not a key; keys are words")
    return {str(key): value for key, value in tree.items()}


def _check_config_dir(config_dir: Path | None) -> None:
    if config_dir is not None and not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such directory")


def _roots(config_dir: Path | None) -> list[Path]:
    return [PACKAGED, *([config_dir] if config_dir else [])]


def _options(config_dir: Path | None) -> set[tuple[str, str]]:
    """(group, name) of every group file, packaged and the user's."""
    found = set()
    for root in _roots(config_dir):
        for path in root.rglob("*.yaml"):
            group = path.parent.relative_to(root).as_posix()
            if group != ".":
                found.add((group, path.stem))
    return found


def _groups(config_dir: Path | None) -> list[str]:
    return sorted({group for group, _ in _options(config_dir)})


def _import(module: str) -> None:
    try:
        import_module(module)
    except Exception as error:
        raise UserError(f"--allow-import {module} failed: {type(error).__name__}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
