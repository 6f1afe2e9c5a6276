"""From a study file to a `Study`: its recipe is composed at both ends of every searched key before anything starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.config.compose import Composer
from loopwright.config.identity import trajectory
from loopwright.config.overrides import Assignment, as_typed, parse_override
from loopwright.config.problems import shown
from loopwright.config.registry import nearest
from loopwright.config.schema import Recipe, prefixed
from loopwright.errors import ConfigError
from loopwright.searches.samplers import quietly
from loopwright.searches.space import Entry
from loopwright.searches.study import Study, StudyFile, parse_study

# Drawing costs 2 CPU seconds a run; `loopwright figures RUN` draws those of a trial that is worth it.
_BELOW = {"plots": {"name": "none"}}


class Recipes:
    """Composes the recipes of a study's trials. What files say is read once."""

    def __init__(
        self,
        file: StudyFile,
        overrides: Sequence[str] = (),
        config_dir: Path | None = None,
        allow_import: Iterable[str] = (),
    ) -> None:
        self._composer = Composer(config_dir=config_dir, allow_import=allow_import, below=_BELOW)
        self._space = file.space
        said = [parse_override(text) for text in overrides]
        spoken = {assignment.key for assignment in said}
        self._fixed = [
            *(Assignment(key, value) for key, value in file.recipe.items() if key not in spoken),
            *said,
        ]
        self.overrides = tuple(f"{a.key}={as_typed(a.value)}" if not a.delete else f"~{a.key}" for a in self._fixed)

    @classmethod
    def of(cls, study: Study) -> Recipes:
        """Those of a study that a coordinator has begun."""
        directory = None if study.config_dir is None else Path(study.config_dir)
        return cls(study, study.overrides, directory, study.allow_import)

    def recipe(self, values: Mapping[str, Any]) -> Recipe:
        """The recipe with these values of the searched keys. Raises ConfigError."""
        searched = [Assignment(key, value) for key, value in values.items()]
        return self._composer.recipe([*self._fixed, *searched])[0]

    def trial(self, params: Mapping[str, Any]) -> tuple[Recipe, tuple[str, ...]]:
        """A trial's recipe for the values that the storage keeps, and all its overrides as one would type them."""
        values = {key: entry.value(params[key]) for key, entry in self._space.items()}
        texts = typed(values)
        return self.recipe(values), (*self.overrides, *texts)


def typed(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Values of keys as overrides."""
    return tuple(f"{key}={as_typed(value)}" for key, value in values.items())


def resolve(
    file: StudyFile,
    overrides: Sequence[str] = (),
    *,
    config_dir: Path | None = None,
    allow_import: Iterable[str] = (),
) -> tuple[Study, Recipe]:
    """The study, and a recipe of it (every searched key at its first value). Raises ConfigError with all problems."""
    allow_import = tuple(allow_import)
    recipes = Recipes(file, overrides, config_dir, allow_import)
    problems: dict[str, None] = {}
    for text in recipes.overrides:
        key = text.partition("=")[0].lstrip("~")
        if key in file.space:
            problems[f"`{text}` sets what `space` searches; leave it out, or change the study file"] = None
    if problems:
        raise ConfigError(problems)
    tried = list(_tried(file.space))
    recipe = _composed(recipes, tried[0], problems, without=True)
    made = {0: recipe}
    for index, values in enumerate(tried[1:], 1):
        if recipe is not None:
            made[index] = _composed(recipes, values, problems)
    for key, entry in file.space.items():
        mine = [made.get(index) for index, values in enumerate(tried) if index == 0 or _varies(values, tried[0]) == key]
        told = [one for one in mine if one is not None]
        if len(entry.ends) > 1 and len(told) == len(entry.ends) and len(set(map(_training, told))) == 1:
            problems[f"`space` searches {key!r}, which does not change the training here; leave it out"] = None
    if any(one is not None and one.train.epochs == 0 for one in made.values()):
        problems["`train.epochs` is 0; a trial that trains no epoch has no value"] = None
    if problems or recipe is None:
        raise ConfigError(problems)
    metrics, directions = _metrics(file, recipe)
    study = {
        **file.model_dump(mode="json"),
        "metrics": metrics,
        "directions": directions,
        "monitor": recipe.monitor,
        "epochs_per_seed": max(_most_epochs(one) for one in made.values() if one is not None),
        "seeds": list(recipe.seeds or (recipe.seed,)),
        "gated": bool(recipe.stop.gate),
        "overrides": list(overrides),
        "config_dir": None if config_dir is None else str(config_dir.absolute()),
        "allow_import": list(allow_import),
        "base": _without(trajectory(recipe), file.space),
    }
    resolved = parse_study(study, Study)
    resolved.pruner.build(resolved.extent)
    with quietly():
        resolved.sampler.build(0, resolved.space, {})
    return resolved, recipe


def _most_epochs(recipe: Recipe) -> int:
    """The most epochs that a run may have; where `train.max_steps` ends it, none has less than one step."""
    train = recipe.train
    return train.epochs if train.max_steps is None else -(-train.max_steps // (train.epoch_steps or 1))


def _training(recipe: Recipe) -> str:
    """What shapes the training; a data file counts by its name here, though it is not part of the identity."""
    return f"{trajectory(recipe)} {recipe.task.model_dump(mode='json')}"


def _tried(space: Mapping[str, Entry]) -> Iterable[dict[str, Any]]:
    """Every key at its first value; then one after the other at each of its other ends."""
    first = {key: entry.ends[0] for key, entry in space.items()}
    yield first
    for key, entry in space.items():
        for end in entry.ends[1:]:
            yield {**first, key: end}


def _varies(values: Mapping[str, Any], first: Mapping[str, Any]) -> str | None:
    return next((key for key in values if values[key] is not first[key]), None)


def _composed(
    recipes: Recipes, values: Mapping[str, Any], problems: dict[str, None], *, without: bool = False
) -> Recipe | None:
    """The recipe with these values. What is wrong with it, also `without` them, needs no word of them."""
    try:
        return recipes.recipe(values)
    except ConfigError as error:
        known = _problems(recipes, {}) if without else ()
        for line in error.problems:
            said = line in known or any(f"`{key}`" in line for key in values)
            problems[line if said else f"{line} ({' '.join(typed(values))})"] = None
        return None


def _problems(recipes: Recipes, values: Mapping[str, Any]) -> Sequence[str]:
    try:
        recipes.recipe(values)
    except ConfigError as error:
        return error.problems
    return ()


def _metrics(file: StudyFile, recipe: Recipe) -> tuple[list[str], list[str]]:
    """The columns that are searched for and their directions. Raises ConfigError."""
    given = file.metric if isinstance(file.metric, tuple) else (file.metric,)
    metrics = [recipe.monitor if name is None else prefixed(name) for name in given]
    declared = {f"val_{name}": direction for name, direction in recipe.task.metrics_of(recipe.model).items()}
    known = {name: direction for name, direction in declared.items() if direction is not None}
    known["train_loss"] = "min"
    known.setdefault(recipe.monitor, recipe.mode)
    unknown = [name for name in metrics if name not in known]
    if unknown:
        raise ConfigError(
            f"`metric` is {shown(file.metric)}; the task measures: {', '.join(known)}{nearest(unknown[0], known)}"
        )
    if len(set(metrics)) < len(metrics):
        raise ConfigError(f"`metric` is {shown(file.metric)}; a metric is in it twice")
    own = [recipe.mode if name == recipe.monitor else known[name] for name in metrics]
    said = file.direction if isinstance(file.direction, tuple) else (file.direction,) * len(metrics)
    return metrics, [mine if word is None else word for word, mine in zip(said, own, strict=True)]


def _without(tree: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """A recipe's tree without the searched keys, and below a choice that is searched."""
    kept: dict[str, Any] = {}
    searched = {key.removesuffix(".name") for key in keys}

    def walk(node: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
        for name, value in node.items():
            dotted = f"{prefix}{name}"
            if dotted in searched:
                continue
            if isinstance(value, Mapping):
                walk(value, f"{dotted}.", into.setdefault(name, {}))
            else:
                into[name] = value

    walk(tree, "", kept)
    return kept
