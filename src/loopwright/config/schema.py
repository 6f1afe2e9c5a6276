"""`Recipe`: one frozen, validated configuration tree. `parse` makes one from plain values and reports every problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, ChoiceOf, names, nearest
from loopwright.engine.settings import StopSettings, TrainSettings
from loopwright.engine.task import Direction
from loopwright.errors import ConfigError
from loopwright.hooks.settings import HookSettings
from loopwright.optim.optimizers import OPTIM
from loopwright.optim.schedules import SCHEDULE
from loopwright.record.settings import RecordSettings
from loopwright.tasks.base import TaskConfig

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Recipe(Node):
    """What was asked for: everything that a training needs, checked as a whole before anything is built."""

    name: str | None = setting(
        None, "folder of the runs below the root; null takes the experiment's name", trajectory=False
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
    plots: str = setting(
        "minimal", "figures drawn from the record: minimal (curves at the end) or none", trajectory=False
    )

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str | None) -> str | None:
        if name is not None and (
            not name or name.startswith(".") or len(name.encode()) > 200 or re.search(r"[/\\\x00-\x1f\x7f]", name)
        ):
            raise PydanticCustomError(
                "name", "a run's name is one folder: 1 to 200 bytes, no '/', no control characters, no leading dot"
            )
        return name

    @field_validator("device")
    @classmethod
    def _device_is_known(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise PydanticCustomError("device", "use auto, cpu, cuda or cuda:N")
        return device

    @field_validator("plots")
    @classmethod
    def _plots_are_known(cls, plots: str) -> str:
        if plots not in ("minimal", "none"):
            raise PydanticCustomError("plots", "use minimal or none")
        return plots

    @model_validator(mode="before")
    @classmethod
    def _model_defaults_to_the_tasks(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and tree.get("model") is None:
            field = cls.model_fields["task"]
            choice = choice_of(field)
            given = tree.get("task")
            name = given.get("name") if isinstance(given, Mapping) else given
            found = (
                type(given)
                if isinstance(given, TaskConfig)
                else choice.find(name)
                if choice and isinstance(name, str)
                else None
            )
            default = getattr(found, "default_model", None)
            if default is not None:
                return {**tree, "model": default}
        return tree

    @model_validator(mode="after")
    def _model_fits_task(self) -> Recipe:
        wanted = type(self.task).models
        if wanted is None and self.model is not None:
            raise PydanticCustomError(
                "model", "`model` is {model}; the task {task} has no top-level model, leave it out", self._chosen()
            )
        if wanted is not None and not isinstance(self.model, wanted):
            raise PydanticCustomError(
                "model",
                "`model` is {model}; the task {task} takes one of: {known}",
                {**self._chosen(), "known": ", ".join(names("model", wanted))},
            )
        return self

    @model_validator(mode="after")
    def _monitor_and_gate_are_measured(self) -> Recipe:
        known = [f"val_{name}" for name in self.task.metrics()]
        if self.stop.monitor is not None and self.monitor not in (*known, "train_loss"):
            raise PydanticCustomError(
                "monitor",
                "`stop.monitor` is {given}; the task measures: {known}{hint}",
                {"given": repr(self.stop.monitor), "known": ", ".join(known), "hint": nearest(self.monitor, known)},
            )
        for name in self.stop.gate or {}:
            if prefixed(name) not in known:
                raise PydanticCustomError(
                    "gate",
                    "`stop.gate` names {given}; the task measures: {known}{hint}",
                    {"given": repr(name), "known": ", ".join(known), "hint": nearest(prefixed(name), known)},
                )
        return self

    @property
    def monitor(self) -> str:
        """The column of metrics.csv that `best` follows."""
        return prefixed(self.stop.monitor or type(self.task).monitor)

    @property
    def mode(self) -> Direction:
        """`min` or `max`: the recipe's word, else the task's for that metric."""
        return self.stop.mode or self.task.metrics().get(self.monitor.removeprefix("val_"), "min")

    def _chosen(self) -> dict[str, str]:
        return {"model": repr(getattr(self.model, "name", None)), "task": repr(getattr(self.task, "name", None))}


def prefixed(metric: str) -> str:
    """A metric's column in metrics.csv: without a prefix, `val_` is meant."""
    return metric if metric.startswith(("val_", "train_")) else f"val_{metric}"


def parse(tree: Mapping[str, Any]) -> Recipe:
    """Validate a tree of plain values as a whole. Raises ConfigError with a line for every problem."""
    plain = {key: _frozen(value) for key, value in tree.items()}
    problems = []
    if plain.get("seeds") is not None and "seed" in plain:
        problems.append(f"`seeds` is {list(plain['seeds'])} and `seed` is {plain['seed']}; give one of them")
        plain = {key: value for key, value in plain.items() if key != "seed"}
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        problems += [_line(problem, plain) for problem in error.errors()]
    if problems:
        raise ConfigError(problems)
    return recipe


def plain(recipe: Node) -> dict[str, Any]:
    """The whole tree as plain JSON values, defaults written out; `parse` reads it back to an equal recipe."""
    tree = recipe.model_dump(mode="json")
    if tree.get("seeds") is not None:
        del tree["seed"]
    return tree


def walk(cls: type[Node], tree: Any = None, prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Node]]]:
    """Every key below a configuration class as (dotted key, field, owner); choices as `tree` has chosen them."""
    for name, field in cls.model_fields.items():
        given = tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
        yield f"{prefix}{name}", field, cls
        below: type[Node] | None = None
        choice = choice_of(field)
        if choice is not None:
            given = field.default if given is None else given
            chosen = given.get("name") if isinstance(given, Mapping) else getattr(given, "name", given)
            below = type(given) if isinstance(given, Node) else choice.find(chosen) if isinstance(chosen, str) else None
        else:
            kinds = [
                k
                for k in (field.annotation, *get_args(field.annotation))
                if isinstance(k, type) and issubclass(k, Node)
            ]
            below = kinds[0] if kinds else None
        if below is not None:
            yield from walk(below, given, f"{prefix}{name}.")


def choice_of(field: FieldInfo) -> ChoiceOf | None:
    """The mark of a key that takes a registered choice."""
    marks = [*field.metadata]
    for arm in get_args(field.annotation):
        marks += getattr(arm, "__metadata__", ())
    return next((mark for mark in marks if isinstance(mark, ChoiceOf)), None)


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _line(problem: ErrorDetails, tree: Mapping[str, Any]) -> str:
    """One problem as a line that names the key, the value and the fix."""
    key = ".".join(str(part) for part in problem["loc"])
    given, message = problem["input"], problem["msg"]
    if problem["type"] == "extra_forbidden":
        known = [dotted for dotted, _, _ in walk(Recipe, tree)]
        return f"`{key}` is {_shown(given)}: there is no such key{_nearest_key(key, known)}"
    if problem["type"] == "missing":
        return f"`{key}` is missing; give it a value"
    if not key:
        return message
    message = message.removeprefix("Value error, ").replace("Input should", "it should")
    return (
        f"`{key}` is {_shown(given)}; {message}" if problem["type"] not in ("choice_name",) else f"`{key}`: {message}"
    )


def _nearest_key(key: str, known: list[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    same_leaf = [dotted for dotted in known if dotted.rsplit(".", 1)[-1] == leaf]
    if same_leaf:
        return f"; did you mean `{same_leaf[0]}`?"
    parent = key.rpartition(".")[0]
    siblings = {dotted.rsplit(".", 1)[-1]: dotted for dotted in known if dotted.rpartition(".")[0] == parent}
    leaves = siblings | {
        dotted.rsplit(".", 1)[-1]: dotted for dotted in known if dotted.rsplit(".", 1)[-1] not in siblings
    }
    hint = nearest(leaf, siblings) or nearest(leaf, leaves)
    found = re.search(r"'(.+)'", hint)
    return f"; did you mean `{leaves[found[1]]}`?" if found else ""


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
