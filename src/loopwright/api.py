"""The commands' Python twins: `train`, `resume`, `evaluate`, `predict`, `verify`; and `fit`, for a module of one's own."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loopwright.config.compose import compose as _compose
from loopwright.config.identity import differing_keys
from loopwright.config.schema import Recipe, parse, plain
from loopwright.data.loaders import make_loader
from loopwright.engine.compute import resolve_device
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.engine.settings import TrainSettings
from loopwright.engine.state import load_weights, snapshot
from loopwright.engine.task import Direction, Split
from loopwright.engine.weights import content_hash, weights_hash
from loopwright.errors import ConfigError, DataError, RunError
from loopwright.evaluation import Evaluation, evaluate_run
from loopwright.experiment import run
from loopwright.plugins import load_builtin
from loopwright.prediction import predict_run as predict
from loopwright.proof.verdict import Verdict
from loopwright.record.index import Index
from loopwright.record.read import read_config
from loopwright.seeds import SeedsOutcome, run_seeds
from loopwright.streams import Streams
from loopwright.tasks.python import LossFunction, Metric, SupervisedTask

__all__ = [
    "Evaluation",
    "SeedsOutcome",
    "Verdict",
    "compose",
    "evaluate",
    "fit",
    "predict",
    "resume",
    "train",
    "verify",
]

evaluate = evaluate_run


def compose(*overrides: str, file: str | Path | None = None, config_dir: str | Path | None = None) -> Recipe:
    """A recipe from overrides as on the command line, over a YAML file, over the packaged defaults.

    Raises ConfigError with a line for every problem.

    >>> compose("experiment=gru_baseline", "train.epochs=20").train.epochs
    20
    """
    return _compose(
        overrides, file=Path(file) if file else None, config_dir=Path(config_dir) if config_dir else None
    ).recipe


def train(
    *recipe: Recipe | str,
    out: str | Path | None = None,
    resume: bool = False,
    hooks: Iterable[Hook] = (),
) -> Outcome | SeedsOutcome:
    """Train a recipe, given as a `Recipe` or as overrides, and return how it ended.

    `out` is the root of the runs (LOOPWRIGHT_RUNS, else `runs`). `resume` goes on with the newest run of the same
    identity, or starts one, and repeats nothing that is finished. With `seeds` in the recipe: a SeedsOutcome.
    Raises LoopwrightError.

    >>> train("experiment=self_test", "record.save=false").status
    'completed'
    """
    if len(recipe) == 1 and isinstance(recipe[0], Recipe):
        return run_seeds(recipe[0], out=out, resume=resume, hooks=hooks)
    if not all(isinstance(part, str) for part in recipe):
        raise ConfigError("train() takes one Recipe, or overrides as strings")
    composed = _compose([str(part) for part in recipe])
    return run_seeds(composed.recipe, out=out, resume=resume, overrides=composed.overrides, hooks=hooks)


def resume(
    path: str | Path,
    *overrides: str,
    allow_import: Iterable[str] = (),
    config_dir: str | Path | None = None,
    hooks: Iterable[Hook] = (),
) -> Outcome:
    """Go on with a recorded run; overrides (more epochs, other patience) make a child run of it instead.

    A recorded recipe imports only from the packages named by `allow_import`. Raises RunError.
    """
    from loopwright.resuming import resume_run

    directory = Path(config_dir) if config_dir else None
    return resume_run(Path(path), overrides, allow_import=allow_import, config_dir=directory, hooks=hooks)


def fit(
    model: nn.Module | Callable[[], nn.Module],
    loss: LossFunction,
    *,
    train: Any,
    val: Any = None,
    test: Any = None,
    epochs: int = 10,
    batch_size: int = 32,
    optimizer: str | Mapping[str, Any] = "adam",
    lr: float | None = None,
    metrics: Mapping[str, Metric | tuple[Metric, Direction]] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    name: str = "fit",
    resume: bool = False,
    hooks: Iterable[Hook] = (),
    **recipe: Any,
) -> Outcome:
    """Train a module of one's own on data of one's own, with everything a recipe gets.

    `model` is a module, or a function returning one, which is built under the seed. `loss(model(*inputs), target)` is a
    batch's mean. `train`, `val`, `test` are tensors or arrays (a tuple's last one is the target), a Dataset or a
    DataLoader. `metrics` maps names to functions of (prediction, target), a value per sample or a mean; write
    `(function, "max")` where more is better. Any key of a recipe can be given: `stop={"patience": 5}`,
    `schedule="cosine"`, `record={"checkpoint_every": "5 steps"}`, `device="cpu"`; those of `train` by their own names:
    `clip_norm=1.0`, `accumulate=2`, `validate_every="50 steps"`. `resume` goes on with the newest run of the same
    identity. A given module is trained in place and ends with the last weights. Raises LoopwrightError.

    >>> X = torch.randn(64, 3)
    >>> fit(nn.Linear(3, 1), nn.MSELoss(), train=(X, X.sum(1, keepdim=True)), epochs=2, record={"save": False}).epochs
    2
    """
    parsed, task = _fitting(
        model, loss, train, val, test, epochs, batch_size, optimizer, lr, metrics, seed, name, dict(recipe)
    )
    return run(parsed, out=out, resume=resume, hooks=hooks, task=task, keep_initial=isinstance(model, nn.Module))


def _fitting(
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
    seed: int,
    name: str,
    recipe: dict[str, Any],
) -> tuple[Recipe, SupervisedTask]:
    """The recipe and the task that arguments of `fit` stand for."""
    load_builtin()
    pairs = {key: value if isinstance(value, tuple) else (value, None) for key, value in (metrics or {}).items()}
    streams = Streams(seed)
    if isinstance(model, nn.Module):
        initial = snapshot(model.state_dict())
        structure, given = repr(model), model
        make = _returning(given)
    else:
        make = model
        with streams.fork("weights"):
            built = model()
        initial, structure = built.state_dict(), repr(built)
    stop = {"monitor": None if val is not None else "train_loss", **(recipe.pop("stop", None) or {})}
    monitored = str(stop.get("monitor") or "").removeprefix("val_")
    if monitored in pairs and pairs[monitored][1] is None and stop.get("mode") is None:
        raise ConfigError(
            f"`stop.monitor` is your metric {monitored!r}; say which way is better: stop={{'mode': 'min' or 'max'}}"
        )
    optim: dict[str, Any] = {"name": optimizer} if isinstance(optimizer, str) else dict(optimizer)
    if lr is not None:
        optim["lr"] = lr
    portions = {key: recipe.pop(key) for key in TrainSettings.model_fields if key in recipe}
    tree = {
        "name": name,
        "seed": seed,
        "task": {
            "name": "python",
            "model": hashlib.sha256(structure.encode()).hexdigest()[:16],
            "initial_sha256": weights_hash(initial),
            "loss": repr(loss) if isinstance(loss, nn.Module) else getattr(loss, "__qualname__", type(loss).__name__),
            "directions": {key: direction or "min" for key, (_, direction) in pairs.items()},
        },
        "optim": optim,
        "stop": stop,
        **recipe,
        "train": {"epochs": epochs, "batch_size": batch_size, **portions},
    }
    parsed = parse(tree)
    device, batch = resolve_device(parsed.device), parsed.train.batch_size
    if train is None:
        raise DataError("`train` is None: there is no training data; give tensors, arrays, a Dataset or a DataLoader")
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
        {key: function for key, (function, _) in pairs.items()},
        {key: direction or "min" for key, (_, direction) in pairs.items()},
        _fingerprint(train, val, test),
    )
    return parsed, task


def verify(
    path: str | Path,
    other: str | Path | None = None,
    *,
    kill: int = 0,
    rerun: bool = False,
    keep: str | Path | None = None,
    allow_import: Iterable[str] = (),
    config_dir: str | Path | None = None,
    hooks: Iterable[Hook] = (),
    model: nn.Module | Callable[[], nn.Module] | None = None,
    loss: LossFunction | None = None,
    **fit_arguments: Any,
) -> Verdict:
    """Train a recorded run again and compare bit for bit; or, with `other`, find the first divergence of two runs.

    `kill` trains it in processes that are killed so many times and resumed. `rerun` trains two runs again up to their
    divergence and names the first tensor that differs. `keep` keeps what was trained in that directory. A run of `fit`
    needs `model`, `loss`, `train` and what else is no plain value (`val`, `test`, `metrics`); the rest is in its record,
    the first weights of a given module too. The module is not changed. Raises LoopwrightError.

    >>> verify(train("experiment=self_test", "plots=none", out=tmp).run).identical
    True
    """
    from loopwright.proof.verify import verify_pair, verify_run

    def given(run_path: Path) -> tuple[Recipe, SupervisedTask]:
        return _given_again(run_path, model, loss, fit_arguments)

    if model is None and (loss is not None or fit_arguments):
        unknown = ", ".join(sorted((*fit_arguments, *(["loss"] if loss is not None else []))))
        raise ConfigError(f"verify() got {unknown} without a model; they are for runs of fit")
    makes = given if model is not None else None
    kept, directory = Path(keep) if keep else None, Path(config_dir) if config_dir else None
    if other is None:
        if rerun:
            raise ConfigError("`rerun` compares two runs; give `other`")
        return verify_run(
            Path(path), kill=kill, given=makes, keep=kept, allow_import=allow_import, config_dir=directory, hooks=hooks
        )
    if kill:
        raise ConfigError("`kill` is for one run; leave `other` out")
    return verify_pair(
        Path(path),
        Path(other),
        rerun=rerun,
        given=makes,
        keep=kept,
        allow_import=allow_import,
        config_dir=directory,
        hooks=hooks,
    )


def _given_again(
    path: Path, model: Any, loss: LossFunction | None, arguments: Mapping[str, Any]
) -> tuple[Recipe, SupervisedTask]:
    """Recipe and task of a recorded `fit`, its parts given again, from the first weights that it kept."""
    if loss is None or arguments.get("train") is None:
        raise RunError(f"{path} came from loopwright.fit: give its `loss` and `train` again, beside `model`")
    config = read_config(path)
    index = Index.read(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    initial = index.tagged("initial") if index is not None else None
    if isinstance(model, nn.Module):
        if initial is None:
            raise RunError(f"{path} began from a function that builds the module; give that function as `model`")
        model = copy.deepcopy(model)
    elif initial is not None:
        model = model()
    if index is not None and initial is not None:
        try:
            load_weights(model, index.load(initial)["model_state_dict"])
        except RuntimeError as error:
            raise RunError(f"the given module does not have the weights of {path}: {error}") from error
    data: dict[str, Any] = {key: arguments.get(key) for key in ("train", "val", "test", "metrics")}
    said = {key: value for key, value in arguments.items() if key not in data}
    inside = {**config, **config["train"], "optimizer": config["optim"], "lr": None} | said
    left_out = ("task", "model", "optim", "seeds", "epochs", "batch_size", "optimizer", "lr", "seed", "name")
    rest = {key: value for key, value in inside.items() if key not in (*left_out, "train")}
    named: dict[str, Any] = {key: inside[key] for key in ("epochs", "batch_size", "optimizer", "lr", "seed", "name")}
    recipe, task = _fitting(model, loss, **data, **named, recipe=rest)
    lines = [line for line in differing_keys(config, plain(recipe)) if not line.startswith("task.")] if said else []
    if lines:
        raise ConfigError([f"the record of {path} says otherwise: {line}; leave it out" for line in lines])
    return recipe, task


def _returning(module: nn.Module) -> Callable[[], nn.Module]:
    return lambda: module


def _in_memory(given: Any) -> bool:
    return not isinstance(given, torch.utils.data.Dataset | torch.utils.data.DataLoader)


def _fingerprint(*splits: Any) -> str:
    """Tensors and arrays by their content; a Dataset, which may be endless, by its type and length."""
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
