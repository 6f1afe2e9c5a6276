"""What the arguments of `loopwright.fit` stand for: a recipe, the task of the user's own module, loss and data, and who
they are."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.config.identity import differing_keys
from loopwright.config.schema import Recipe, parse, plain
from loopwright.content.arguments import Arguments, Given
from loopwright.data.loaders import make_loader
from loopwright.engine.compute import resolve_device
from loopwright.engine.settings import TrainSettings
from loopwright.engine.state import load_saved, loss_state, snapshot
from loopwright.engine.task import Direction, Split
from loopwright.engine.weights import content_hash, weights_hash
from loopwright.errors import ConfigError, DataError, RunError
from loopwright.lazy import initialise, lazy_names
from loopwright.record.index import Index
from loopwright.record.read import read_config
from loopwright.streams import Streams
from loopwright.tasks.losses import LossFunction
from loopwright.tasks.measures import Metric, measured
from loopwright.tasks.python import SupervisedTask

# The nearest key of a recipe, where `fit` has an argument for it.
_HINTED = re.compile(r"did you mean `(?:train\.(\w+)|(optim|optim\.lr))`")


def _as_argument(hint: re.Match[str]) -> str:
    return f"did you mean `{hint[1] or {'optim': 'optimizer', 'optim.lr': 'lr'}[hint[2]]}`"


def fitting(
    model: nn.Module | Callable[[], nn.Module],
    loss: LossFunction,
    train: Any,
    val: Any,
    test: Any,
    epochs: int,
    batch_size: int,
    optimizer: str | Mapping[str, Any],
    lr: float | None,
    metrics: Mapping[str, Metric | tuple[Metric, Direction]] | None,
    train_metrics: Mapping[str, Metric] | None,
    count: Callable[[Any], Any] | None,
    whole_split_gib: float,
    seed: int,
    name: str,
    recipe: dict[str, Any],
) -> tuple[Recipe, SupervisedTask, Arguments | None]:
    """The recipe and the task that arguments of `fit` stand for, and these by content where a run is recorded."""
    if train is None:
        raise DataError("`train` is None: there is no training data; give tensors, arrays, a Dataset or a DataLoader")
    if not isinstance(recipe.get("stop") or {}, Mapping):
        raise ConfigError(
            f"`stop` is {recipe['stop']!r}; it should be a mapping of keys, for example {{'patience': 5}}"
        )
    functions, directions = measured(metrics, "metrics")
    train_functions, _ = measured(train_metrics, "train_metrics")
    if count is not None and not callable(count):
        raise ConfigError(
            f"`count` is {count!r}; it should be a function of a batch that returns its number of samples"
        )
    streams = Streams(seed)
    stop = {"monitor": None if val is not None else "train_loss", **(recipe.pop("stop", None) or {})}
    monitored = str(stop.get("monitor") or "").removeprefix("val_")
    gate = stop.get("gate")
    followed = (
        [monitored, *(str(key).removeprefix("val_") for key in gate)] if isinstance(gate, Mapping) else [monitored]
    )
    for column in followed:
        of = [name for name in functions if column.startswith(f"{name}_")]
        if column not in directions and of:  # one of the columns of a metric that has several
            directions[column] = directions.get(max(of, key=len))
    if monitored in directions and directions[monitored] is None:
        directions[monitored] = stop.get("mode")  # who follows it has said which way is better
    if monitored in directions and directions[monitored] is None:
        raise ConfigError(
            f"`stop.monitor` is your metric {monitored!r}; say which way is better: stop={{'mode': 'min' or 'max'}}"
        )
    optim: dict[str, Any] = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    if lr is not None:
        optim["lr"] = lr
    portions = {key: recipe.pop(key) for key in TrainSettings.model_fields if key in recipe}

    def parsed_with(structure: str, initial_sha256: str) -> Recipe:
        tree = {
            "name": name,
            "seed": seed,
            "task": {
                "name": "python",
                "model": hashlib.sha256(structure.encode()).hexdigest()[:16],
                "initial_sha256": initial_sha256,
                "loss": repr(loss)
                if isinstance(loss, nn.Module)
                else getattr(loss, "__qualname__", type(loss).__name__),
                "directions": directions,
                "whole_split_gib": whole_split_gib,
            },
            "optim": optim,
            "stop": stop,
            **recipe,
            "train": {"epochs": epochs, "batch_size": batch_size, **portions},
        }
        try:
            return parse(tree)
        except ConfigError as error:
            raise ConfigError(_HINTED.sub(_as_argument, problem) for problem in error.problems) from None

    def shaped(module: nn.Module) -> nn.Module:
        """The module, its lazy layers initialised by the first batch, by the random numbers that come next."""
        if lazy_names(module):
            initialise(module, train, parsed_with("", "").train.batch_size, streams)
        return module

    if isinstance(loss, nn.Module) and lazy_names(loss):
        raise ConfigError("`loss` has lazy layers, whose weights have no shape yet; call it once before fit")
    if isinstance(model, nn.Module):
        with streams.fork("weights"):  # before it is described: from here on it is a module like any other
            shaped(model)
    arguments = None
    record = recipe.get("record")
    settings: Mapping[str, Any] = record if isinstance(record, Mapping) else {}
    if settings.get("save") is not False:  # before anything of it is called, which may change it
        arguments = Arguments(
            Given(model, loss, functions, train, val, test, train_functions, count),
            lambda: _former_fingerprint(train, val, test),
            source=settings.get("code") is not False,
        )
    if isinstance(model, nn.Module):
        initial = snapshot(model.state_dict())
        structure, given = repr(model), model
        make = _returning(given)
    else:
        factory = model

        def make() -> nn.Module:
            return shaped(factory())

        with streams.fork("weights"):
            built = make()
        initial, structure = built.state_dict(), repr(built)
        if arguments is not None:
            arguments.built(built)
    parsed = parsed_with(structure, weights_hash(initial))
    device, batch = resolve_device(parsed.device), parsed.train.batch_size
    try:
        loaders: dict[Split, Any] = {
            "train": make_loader(train, batch, streams, "train", device),
            "val": make_loader(val, 4096 if _in_memory(val) else batch, streams, "val", device),
            "test": make_loader(test, 4096 if _in_memory(test) else batch, streams, "test", device),
        }
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    task = SupervisedTask(
        make,
        loss,
        loaders,
        functions,
        directions,
        "" if arguments is None else arguments.now.data_sha256,
        train_metrics=train_functions,
        count=count,
        whole_split_gib=whole_split_gib,
    )
    return parsed, task, arguments


def given_again(
    path: Path, model: Any, loss: LossFunction | None, arguments: Mapping[str, Any]
) -> tuple[Recipe, SupervisedTask, Arguments | None]:
    """Recipe, task and arguments of a recorded `fit`, its parts given again, from the first weights that it kept."""
    if loss is None or arguments.get("train") is None:
        raise RunError(f"{path} came from loopwright.fit: give its `loss` and `train` again, beside `model`")
    config = read_config(path)
    index = Index.read(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    initial = index.tagged("initial") if index is not None else None
    if isinstance(model, nn.Module) and initial is None:
        raise RunError(f"{path} began from a function that builds the module; give that function as `model`")
    streams = Streams(arguments.get("seed", config["seed"]))
    with streams.fork("weights"):
        if initial is not None and not isinstance(model, nn.Module):
            model = model()
        if isinstance(model, nn.Module) and lazy_names(model):  # in place: torch cannot copy it before
            initialise(model, arguments["train"], config["train"]["batch_size"], streams)
    loss_module = loss if isinstance(loss, nn.Module) and loss_state(loss) else None
    if isinstance(model, nn.Module) or loss_module is not None:  # at once: what they share stays shared
        model, loss_module = copy.deepcopy((model, loss_module))
        loss = loss if loss_module is None else loss_module
    if index is not None and initial is not None:
        try:
            load_saved(model, loss_module, index.load(initial))
        except RuntimeError as error:
            raise RunError(f"the given module does not have the weights of {path}: {error}") from error
    data: dict[str, Any] = {
        key: arguments.get(key) for key in ("train", "val", "test", "metrics", "train_metrics", "count")
    }
    said = {key: value for key, value in arguments.items() if key not in data}
    gib = config["task"].get("whole_split_gib", 1.0)
    inside = {**config, **config["train"], "optimizer": config["optim"], "lr": None, "whole_split_gib": gib} | said
    left_out = (
        "task",
        "model",
        "optim",
        "seeds",
        "epochs",
        "batch_size",
        "optimizer",
        "lr",
        "seed",
        "name",
        "whole_split_gib",
    )
    rest = {key: value for key, value in inside.items() if key not in (*left_out, "train")}
    named: dict[str, Any] = {key: inside[key] for key in left_out[4:]}
    recipe, task, described = fitting(model, loss, **data, **named, recipe=rest)
    lines = [line for line in differing_keys(config, plain(recipe)) if not line.startswith("task.")] if said else []
    if lines:
        raise ConfigError([f"the record of {path} says otherwise: {line}; leave it out" for line in lines])
    return recipe, task, described


def _returning(module: nn.Module) -> Callable[[], nn.Module]:
    return lambda: module


def _in_memory(given: Any) -> bool:
    return not isinstance(given, torch.utils.data.Dataset | torch.utils.data.DataLoader)


def _former_fingerprint(*splits: Any) -> str:
    """How builds knew data that did not record the arguments of `fit`: a Dataset by its type and length."""
    return content_hash([_known(split) for split in splits])


def _known(given: Any) -> Any:
    if isinstance(given, torch.utils.data.DataLoader):
        return [_known(given.dataset), given.batch_size]
    if isinstance(given, torch.utils.data.TensorDataset):
        return list(given.tensors)
    if isinstance(given, torch.utils.data.Dataset):
        length = len(given) if hasattr(given, "__len__") else None
        return [type(given).__qualname__, length]
    if isinstance(given, list | tuple):
        return [_known(item) for item in given]
    return given if isinstance(given, Tensor) or given is None else torch.as_tensor(given)
