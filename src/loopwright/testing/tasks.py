"""`check_task`: does a task keep what the engine asks of it?"""

from __future__ import annotations

import pickle
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from loopwright.building import Built, build
from loopwright.config.durations import Duration
from loopwright.config.node import Node
from loopwright.config.registry import lookup
from loopwright.config.schema import Recipe, parse
from loopwright.engine.compute import computing
from loopwright.engine.evaluate import evaluate, measured
from loopwright.engine.outcome import Outcome
from loopwright.engine.steps import steps
from loopwright.engine.task import At, Loader, Task, num_batches
from loopwright.engine.weights import content_hash
from loopwright.experiment import run
from loopwright.models.base import SequenceModel
from loopwright.streams import Streams, global_state, isolated
from loopwright.tasks.base import TaskConfig
from loopwright.testing.compare import differences
from loopwright.testing.interruptions import interrupted_at, starter

_CPU = torch.device("cpu")
_STEPS_PER_EPOCH = 5


def check_task(task: TaskConfig | Recipe, model: Node | str | None = None) -> None:
    """Raise AssertionError unless the task keeps the engine's agreements, with `model` or the task's default one.

    A Recipe is checked with its own model, optimizer and schedule. The training is cut to two epochs of about five steps.
    """
    with isolated(), computing(_CPU, 1, True), tempfile.TemporaryDirectory(prefix="loopwright-check-") as folder:
        recipe = short_recipe(task, model)
        built = build(recipe, _CPU)
        _check_building(recipe)
        _check_loader(built)
        _check_metrics(built)
        _check_updates(recipe)
        _check_state(recipe)
        _check_bits(recipe)
        _check_resume(recipe, Path(folder))


def short_recipe(task: TaskConfig | Recipe, model: Node | str | None = None) -> Recipe:
    """The recipe of a check: on a CPU, two epochs of about five steps, nothing that ends it early, no figures."""
    if isinstance(task, Recipe):
        tree = {name: getattr(task, name) for name in ("task", "model", "optim", "schedule", "seed", "train")}
    else:
        tree = {"task": task, "model": model}
    tree |= {"device": "cpu", "plots": "none", "record": {"code": False, "console_every": 0}}
    first = parse(tree)
    train = {
        "epochs": 2,
        "epoch_steps": None,
        "max_steps": None,
        "overfit": 0,
        "validate_every": Duration.parse("1 epochs"),
    }
    probe = first.task.build(first.model, batch_size=first.train.batch_size, streams=Streams(0), device=_CPU)
    loader = probe.loader("train")
    held(loader is not None, 'loader("train") gives nothing to train on')
    samples = loader.num_samples
    if samples is None:
        train["epoch_steps"] = _STEPS_PER_EPOCH  # a stream, which may have no end
    else:
        held(samples > 1, 'loader("train") gives fewer than two samples to train on')
        size = max(1, -(-samples // _STEPS_PER_EPOCH))
        # A last batch of one sample has no variance, which a batch normalisation wants.
        train["batch_size"] = size + (samples % size == 1)
    stop = {"monitor": "train_loss"} if probe.loader("val") is None else {}
    return parse({**tree, "train": first.train.model_copy(update=train), "stop": stop})


def task_config(name: str, **keys: Any) -> TaskConfig:
    """The configuration of one of our tasks, other keys than these at their defaults."""
    made = lookup("task", name).model_validate({"name": name, **keys})
    assert isinstance(made, TaskConfig)
    return made


def held(condition: bool, otherwise: str) -> None:
    """Raise AssertionError with a line; unlike `assert`, in optimized Python too."""
    if not condition:
        raise AssertionError(otherwise)


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree but for the rounding of another order of sums."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def _check_building(recipe: Recipe) -> None:
    before = content_hash(global_state())
    task = recipe.task.build(
        recipe.model, batch_size=recipe.train.batch_size, streams=Streams(recipe.seed), device=_CPU
    )
    held(
        content_hash(global_state()) == before,
        "building the task draws from the global generators of torch, NumPy or Python; draw data from "
        'Streams(seed).numpy("purpose")',
    )
    of_model = recipe.model.metrics() if isinstance(recipe.model, SequenceModel) else {}
    declared, there = {**recipe.task.metrics(), **of_model}, dict(task.metrics)
    held(declared == there, f"the configuration's metrics() says {declared}, the task's metrics {there}")


def _check_loader(built: Built) -> None:
    loader = built.task.loader("train")
    assert loader is not None
    length = num_batches(loader)

    def read(start: int = 0) -> list[str]:
        some = islice(loader.epoch(0, start), None if length is not None else _STEPS_PER_EPOCH - start)
        return [content_hash(tree_leaves(batch)) for batch in some]

    batches = read()
    held(length in (None, len(batches)), f"len(loader) is {length}, but an epoch has {len(batches)} batches")
    with _draws():
        again = read()
    held(batches == again, "loader.epoch(0) gives other batches the second time; its order is a function of the epoch")
    late = read(1)
    held(late == batches[1:], "loader.epoch(0, start=1) is not epoch(0) without its first batch")


def _check_metrics(built: Built) -> None:
    task, model = built.task, built.state.model
    weights = content_hash(built.state.model_state())
    split = "train" if task.loader("val") is None else "val"

    def evaluated() -> dict[str, float | None] | None:
        return evaluate(task, model, split, built.streams, step=0, epoch=0, device=_CPU)  # type: ignore[arg-type]

    found = evaluated() or {}
    held(content_hash(built.state.model_state()) == weights, "evaluating changes weights of the model")
    held(
        found.keys() == task.metrics.keys(),
        f"declared are the metrics {sorted(task.metrics)}, measured {sorted(found)}",
    )
    plain = all(value is None or isinstance(value, int | float) for value in found.values())
    held(plain, f"metrics are numbers or None, not {found}")
    with _draws():
        again = evaluated()
    held(str(found) == str(again), f"evaluating twice gives {found} and {again}; nothing in it may draw unaddressed")


def _check_updates(recipe: Recipe) -> None:
    built = build(recipe, _CPU)
    groups = built.state.groups
    before = {name: content_hash([p.detach().clone() for p in params]) for name, params in groups.items()}
    _train(built, 2)
    for name, params in groups.items():
        moved = not params or content_hash([p.detach() for p in params]) != before[name]
        held(
            moved, f"two steps leave the parameters of group {name!r} as they were; does losses() yield a loss for it?"
        )


def _check_state(recipe: Recipe) -> None:
    built = build(recipe, _CPU)
    before = _pickled(built.task)
    _train(built, 10)
    loader = built.task.loader("val") or built.task.loader("train")
    assert loader is not None

    def measure() -> None:
        for batch in loader.epoch(0):
            built.task.measure(built.state.model, batch, At(built.streams, 10, 1, _CPU))

    measured(measure, built.state.model, built.task.loss_module)
    held(
        _pickled(built.task) == before,
        "the task has changed after ten steps; what training changes is a parameter or a buffer of the model",
    )


def _check_bits(recipe: Recipe) -> None:
    silent = recipe.record.model_copy(update={"save": False})
    first = run(recipe.model_copy(update={"record": silent}))
    held(first.status == "completed", f"the training ends as {first.status}: {first.reason}")
    with _draws():
        second = run(recipe.model_copy(update={"record": silent}))
    advice = "draw from at.generator(purpose) or Streams, and keep no state outside the model"
    held(
        _trajectory(first) == _trajectory(second),
        f"two runs with one seed differ from {_where(first, second)}; {advice}",
    )
    often = recipe.train.model_copy(update={"validate_every": Duration.parse("1 steps")})
    third = run(recipe.model_copy(update={"record": silent, "train": often}))
    held(
        _trajectory(first) == _trajectory(third),
        f"evaluating after every step changes the training from {_where(first, third)}; measure() may change nothing",
    )


def _check_resume(recipe: Recipe, folder: Path) -> None:
    whole = run(recipe, out=folder / "whole")
    batches = whole.steps // 2
    places = sorted({max(1, batches // 2), min(whole.steps - 1, batches + batches // 2)})
    resumed = interrupted_at(starter(run, recipe=recipe, out=folder / "parts"), *places)
    assert whole.run is not None and resumed.run is not None
    # What the process was (modules loaded since, a file saved by its editor) is not what it computed.
    found = [
        line for line in differences(Path(whole.run), Path(resumed.run)) if not line.startswith("environment.json")
    ]
    held(not found, f"interrupted after steps {places} and resumed, the run is another one:\n" + "\n".join(found))


def _pickled(task: Task) -> bytes:
    try:
        return pickle.dumps(task)
    except Exception as error:
        raise AssertionError(
            f"the task cannot be pickled ({error}); keep plain values in it, no lambda and no file"
        ) from error


def _train(built: Built, num_steps: int) -> None:
    loader: Loader | None = built.task.loader("train")
    assert loader is not None
    while built.state.step < num_steps:
        for _ in steps(built.task, built.state, loader, built.streams, lr=lambda _: built.recipe.optim.lr):
            if built.state.step == num_steps:
                return
        built.state.epoch, built.state.batch = built.state.epoch + 1, 0


@contextmanager
def _draws() -> Iterator[None]:
    """A block in which every global generator stands somewhere else."""
    with isolated():
        random.random()
        np.random.rand(3)
        torch.rand(7)
        yield


def _trajectory(outcome: Outcome) -> tuple[Any, ...]:
    return outcome.curves["train_loss"], outcome.weights_sha256


def _where(a: Outcome, b: Outcome) -> str:
    pairs = zip(a.curves["train_loss"], b.curves["train_loss"], strict=False)
    step = next((number for number, (x, y) in enumerate(pairs, 1) if x != y), None)
    return "the last weights on" if step is None else f"step {step} on"
