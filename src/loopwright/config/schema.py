"""`Recipe`: one frozen, validated configuration tree. `parse` makes one from plain values and reports every problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.env import EnvSettings
from loopwright.config.keys import choice_of
from loopwright.config.node import Node, data_below, one_folder, setting
from loopwright.config.problems import lines, not_text, shown
from loopwright.config.registry import Choice, names, nearest
from loopwright.engine.settings import StopSettings, TrainSettings
from loopwright.engine.task import Direction
from loopwright.errors import ConfigError
from loopwright.hooks.settings import HookSettings
from loopwright.optim.optimizers import OPTIM
from loopwright.optim.torch_schedules import SCHEDULE
from loopwright.record.settings import RecordSettings
from loopwright.report.settings import PLOTS
from loopwright.scalars import as_plain
from loopwright.sweeps.settings import LAUNCHER
from loopwright.tasks.base import TaskConfig

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Recipe(Node):
    """What was asked for: everything that a training needs, checked as a whole before anything is built."""

    name: Annotated[str, one_folder("a run's")] | None = setting(
        None, "folder of the runs below the root; null takes the experiment's name, else the task's", trajectory=False
    )
    seed: int = setting(42, "root of all randomness", ge=0, lt=2**63)
    seeds: tuple[int, ...] | None = setting(
        None, "train once per seed, each in a run directory of its own; replaces `seed`", trajectory=False, min_length=1
    )
    device: str = setting("auto", "auto, cpu, cuda or cuda:N; auto takes the first GPU where there is one")
    threads: int = setting(1, "CPU threads of one run; bits can depend on it", ge=1, le=1024)
    deterministic: bool = setting(True, "refuse operations without a deterministic form; false promises no bits")
    task: Choice("task", TaskConfig) = setting(..., "what is trained: data, losses, metrics")  # type: ignore[valid-type]
    model: Choice("model") | None = setting(None, "the network; null takes the task's default")  # type: ignore[valid-type]
    optim: OPTIM = setting("adamw", "the optimizer, ours or any of torch.optim by class name")
    schedule: SCHEDULE = setting("constant", "the learning rate over time")
    train: TrainSettings = setting(TrainSettings(), "how long and in what portions to train")
    stop: StopSettings = setting(StopSettings(), "when training ends early, and which metric `best` follows")
    record: RecordSettings = setting(RecordSettings(), "what is written, and how often", trajectory=False)
    hooks: HookSettings = setting(HookSettings(), "observers of a run", trajectory=False)
    plots: PLOTS = setting("standard", "which figures are drawn from the record, and when", trajectory=False)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = setting(
        (), "where every row of metrics.csv goes as well", trajectory=False
    )
    launcher: LAUNCHER = setting("local", "where the runs of a sweep or a search are started", trajectory=False)
    env: EnvSettings = setting(EnvSettings(), "the site: where runs, data and cache are", trajectory=False)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds is not None and len(set(seeds)) < len(seeds):
            raise PydanticCustomError("seeds", "a seed is in it twice; one training of it is enough")
        return seeds

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise PydanticCustomError("device", "use auto, cpu, cuda or cuda:N")
        return device

    @model_validator(mode="before")
    @classmethod
    def _model_defaults_to_the_tasks(cls, tree: Any) -> Any:
        model = tree.get("model") if isinstance(tree, Mapping) else None
        nameless = isinstance(model, Mapping) and "name" not in model
        if isinstance(tree, Mapping) and (model is None or nameless):
            field = cls.model_fields["task"]
            choice = choice_of(field)
            given = tree.get("task")
            name = given.get("name") if isinstance(given, Mapping) else given
            found = type(given) if isinstance(given, TaskConfig) else choice.known(name) if choice else None
            default = getattr(found, "default_model", None)
            if default is not None:
                return {**tree, "model": {"name": default, **(model or {})}}
        return tree

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        problems = [*self._model_problems(), *self._metric_problems()]
        if problems:
            raise PydanticCustomError("parts", "{lines}", {"lines": "\n".join(problems)})
        return self

    def _model_problems(self) -> Iterator[str]:
        wanted = type(self.task).models
        model, task = (repr(getattr(part, "name", None)) for part in (self.model, self.task))
        if wanted is None and self.model is not None:
            yield f"`model` is {model}; the task {task} has no top-level model, leave it out"
        if wanted is not None and not isinstance(self.model, wanted):
            yield f"`model` is {model}; the task {task} takes one of: {', '.join(names('model', wanted))}"

    def _metric_problems(self) -> Iterator[str]:
        metrics = self.task.metrics_of(self.model)
        for name, direction in metrics.items():
            if direction not in ("min", "max", None):
                yield f"`task`: the metric {name!r} is declared as {direction!r}; use 'min', 'max' or None (neither)"
        known = [f"val_{name}" for name, direction in metrics.items() if direction is not None]
        measured = f"the task measures: {', '.join(known)}"
        counts = {f"val_{name}" for name, direction in metrics.items() if direction is None}
        undirected = "of which neither more nor less is better"
        if self.monitor in counts:
            if self.stop.mode is None:
                of_task = f"`task`: its monitor is {type(self.task).monitor!r}"
                asked = of_task if self.stop.monitor is None else f"`stop.monitor` is {self.stop.monitor!r}"
                yield f"{asked}, {undirected}; say which with `stop.mode`, or let `stop.monitor` be another; {measured}"
        elif self.stop.monitor is not None and self.monitor not in (*known, "train_loss"):
            yield f"`stop.monitor` is {self.stop.monitor!r}; {measured}{nearest(self.monitor, known)}"
        gate = self.stop.gate or {}
        for name in gate:
            if prefixed(name) in counts:
                yield f"`stop.gate` names {name!r}, {undirected}, so there is nothing to pass; {measured}"
            elif prefixed(name) not in known:
                yield f"`stop.gate` names {name!r}; {measured}{nearest(prefixed(name), known)}"
            elif prefixed(name) != name and prefixed(name) in gate:
                yield f"`stop.gate` names {name!r} twice (without a prefix `val_` is meant); leave one of them out"

    @property
    def monitor(self) -> str:
        """The column of metrics.csv that `best` follows."""
        return prefixed(self.stop.monitor or type(self.task).monitor)

    @property
    def mode(self) -> Direction:
        """`min` or `max`: the recipe's word, else the task's for that metric."""
        return self.stop.mode or self.task.metrics_of(self.model).get(self.monitor.removeprefix("val_")) or "min"


def prefixed(metric: str) -> str:
    """A metric's column in metrics.csv: without a prefix, `val_` is meant."""
    return metric if metric.startswith(("val_", "train_")) else f"val_{metric}"


def parse(tree: Mapping[str, Any]) -> Recipe:
    """Validate a tree of plain values as a whole. Raises ConfigError with a line for every problem."""
    problems = list(not_text(tree))
    if problems:
        raise ConfigError(problems)
    plain = {key: _frozen(value) for key, value in as_plain(tree).items()}
    if plain.get("seeds") is not None and "seed" in plain:
        problems.append(f"`seeds` is {shown(plain['seeds'])} and `seed` is {shown(plain['seed'])}; give one of them")
        plain = {key: value for key, value in plain.items() if key != "seed"}
    try:
        with data_below(_site_of_data(plain)):
            recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        errors = error.errors()
        problems += lines(errors, plain, Recipe)
        problems += _whether_parts_fit(plain, {str(problem["loc"][0]) for problem in errors if problem["loc"]})
    if problems:
        raise ConfigError(problems)
    return recipe


def _site_of_data(tree: Mapping[str, Any]) -> str | None:
    """`env.data` of a tree that is not validated yet."""
    env = tree.get("env")
    data = env.get("data") if isinstance(env, Mapping) else None
    return data if isinstance(data, str) else None


def _whether_parts_fit(tree: Mapping[str, Any], wrong: set[str]) -> list[str]:
    """How the sound parts of a tree that is wrong elsewhere fit together: pydantic looks only when all are sound."""
    if not wrong or "task" in wrong:
        return []
    sound = {key: tree[key] for key in ("task", "model", "stop") if key in tree and key not in wrong}
    try:
        Recipe.model_validate(sound)
    except ValidationError as error:
        return [line for problem in error.errors() if not problem["loc"] for line in problem["msg"].splitlines()]
    return []


def plain(recipe: Node) -> dict[str, Any]:
    """The whole tree as plain JSON values, defaults written out; `parse` reads it back to an equal recipe."""
    tree = recipe.model_dump(mode="json")
    if tree.get("seeds") is not None:
        del tree["seed"]
    return tree


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
