"""`Recipe`: one frozen, validated configuration tree. `parse` makes one from plain values and reports every problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, ChoiceOf, lookup, names, nearest
from loopwright.engine.settings import StopSettings, TrainSettings
from loopwright.engine.task import Direction
from loopwright.errors import ConfigError
from loopwright.hooks.settings import HookSettings
from loopwright.optim.optimizers import OPTIM
from loopwright.optim.torch_schedules import SCHEDULE
from loopwright.record.settings import RecordSettings
from loopwright.report.settings import PLOTS
from loopwright.tasks.base import TaskConfig

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


class Recipe(Node):
    """What was asked for: everything that a training needs, checked as a whole before anything is built."""

    name: str | None = setting(
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
        undirected = "of which neither more nor less is better, so nothing can follow it"
        if self.stop.monitor is not None and self.monitor in counts:
            yield f"`stop.monitor` is {self.stop.monitor!r}, {undirected}; {measured}"
        elif self.stop.monitor is not None and self.monitor not in (*known, "train_loss"):
            yield f"`stop.monitor` is {self.stop.monitor!r}; {measured}{nearest(self.monitor, known)}"
        gate = self.stop.gate or {}
        for name in gate:
            if prefixed(name) in counts:
                yield f"`stop.gate` names {name!r}, {undirected}; {measured}"
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
    problems = list(_not_text(tree))
    if problems:
        raise ConfigError(problems)
    plain = {key: _frozen(value) for key, value in tree.items()}
    if plain.get("seeds") is not None and "seed" in plain:
        problems.append(f"`seeds` is {_shown(plain['seeds'])} and `seed` is {_shown(plain['seed'])}; give one of them")
        plain = {key: value for key, value in plain.items() if key != "seed"}
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError as error:
        errors = error.errors()
        problems += _lines(errors, plain)
        problems += _whether_parts_fit(plain, {str(problem["loc"][0]) for problem in errors if problem["loc"]})
    if problems:
        raise ConfigError(problems)
    return recipe


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


def walk(cls: type[Node], tree: Any = None, prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Node]]]:
    """Every key below a configuration class as (dotted key, field, owner); choices as `tree` has chosen them."""
    for name, field in cls.model_fields.items():
        given = tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
        yield f"{prefix}{name}", field, cls
        below: type[Node] | None = None
        choice = choice_of(field)
        if choice is not None:
            given = field.default if given is None else given
            chosen = given.get("name", field.default) if isinstance(given, Mapping) else getattr(given, "name", given)
            below = type(given) if isinstance(given, Node) else choice.known(chosen)
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


def _not_text(value: Any, key: str = "") -> Iterator[str]:
    """A line for every text that no file could hold."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _not_text(str(name), f"{key}.{name!a}" if key else f"{name!a}")
            yield from _not_text(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _not_text(item, f"{key}.{index}")
    elif isinstance(value, str) and re.search("[\x00\ud800-\udfff]", value):
        yield f"`{key}` is {value!a}; it holds bytes that are not text (UTF-8)"


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def _lines(problems: list[ErrorDetails], tree: Mapping[str, Any]) -> list[str]:
    """A line for each problem, naming the key, the value and the fix; what a key may be else comes into one line."""
    lines: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        key, given, message, kind = _key(problem["loc"], tree), problem["input"], problem["msg"], problem["type"]
        if kind == "extra_forbidden":
            known = [dotted for dotted, _, _ in walk(Recipe, tree)]
            message = f"there is no such key{_owners(key, tree) or _nearest_key(key, known)}"
            lines[key, f"`{key}` is {_shown(given)}: "] = [message]
        elif kind == "missing":
            lines[key, f"`{key}` is missing; "] = ["give it a value"]
        elif not key:
            lines |= {("", line): [""] for line in message.splitlines()}
        elif not (kind == "too_short" and given):  # given, but each of its items is wrong already
            message = _MESSAGES.get(kind, message.removeprefix("Value error, ").replace("Input should", "it should"))
            if kind == "tuple_type" and isinstance(given, str | int | float) and given != "":
                message = f"it should be a list, for example [{', '.join(re.split(r' *, *', str(given)))}]"
            if kind == "too_short" and _may_be_null(key, tree):
                message += "; null leaves it out"
            own = kind == "choice_name" or (isinstance(given, Mapping) and kind not in _MESSAGES)
            said = lines.setdefault((key, f"`{key}`: " if own else f"`{key}` is {_shown(given)}; "), [])
            if message not in said:
                said.append(message.removeprefix("it should be ") if said else message)
    return [start + " or ".join(said) for (_, start), said in lines.items()]


_MESSAGES = {
    "string_type": "it should be text (on a command line \"key='5'\" keeps a number text)",
    "bool_type": "it should be true or false",
    "tuple_type": "it should be a list, for example [1, 2]",
    "dict_type": "it should be a mapping of keys",
    "model_type": "it should be a mapping of keys",
    "too_short": "it should not be empty",
}
_ARM = re.compile(r"constrained-\w+|tuple\[.*\]|str|int|float|bool|\[key\]")


def _key(loc: tuple[int | str, ...], tree: Any) -> str:
    """The dotted key of a problem, without the names pydantic gives to what a key may be (int, tuple[...])."""
    kept = []
    for part in loc:
        inside = isinstance(tree, Mapping) and part in tree
        if inside or not (isinstance(part, str) and _ARM.fullmatch(part)):
            kept.append(str(part))
            tree = tree[part] if inside else None
    return ".".join(kept)


def _may_be_null(key: str, tree: Any) -> bool:
    return any(dotted == key and type(None) in get_args(field.annotation) for dotted, field, _ in walk(Recipe, tree))


def _owners(key: str, tree: Any) -> str:
    """A hint for a key that another choice of the same part has: `task.encoder` where the task is a regression."""
    part, _, leaf = key.rpartition(".")
    choice = next((choice_of(field) for dotted, field, _ in walk(Recipe, tree) if dotted == part), None)
    found = names(choice.group, choice.base) if choice else []
    owners = [name for name in found if choice and leaf in lookup(choice.group, name).model_fields]
    group = part.replace(".", "/")
    return f"; with {' or '.join(f'{group}={name}' for name in owners)} there is" if owners else ""


def _nearest_key(key: str, known: list[str]) -> str:
    leaf = key.rsplit(".", 1)[-1]
    parent = key.rpartition(".")[0]
    siblings = {dotted.rsplit(".", 1)[-1]: dotted for dotted in known if dotted.rpartition(".")[0] == parent}
    same_leaf = [dotted for dotted in known if dotted.rsplit(".", 1)[-1] == leaf]
    if same_leaf and not nearest(leaf, siblings, cutoff=0.75):
        return f"; did you mean `{same_leaf[0]}`?"
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
