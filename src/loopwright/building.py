"""From a recipe to the real things: its task, a fresh model on the device, its optimizers, and the engine's plan."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from loopwright.config.identity import recipe_id, run_id
from loopwright.config.schema import Recipe, plain, prefixed
from loopwright.content.arguments import Arguments, Described
from loopwright.data import cache
from loopwright.engine.extent import extent
from loopwright.engine.finite import listed
from loopwright.engine.history import Ranking
from loopwright.engine.memory import memory_explained
from loopwright.engine.plan import Plan
from loopwright.engine.rate import learning_rate
from loopwright.engine.state import TrainState
from loopwright.engine.stop import Gate, Patience, StopRule
from loopwright.engine.task import Direction, Split, Task
from loopwright.engine.weights import weights_hash
from loopwright.errors import ConfigError
from loopwright.lazy import lazy_names
from loopwright.record.checkpoint import check_plain
from loopwright.streams import Streams
from loopwright.tasks.overfit import Overfit

log = logging.getLogger("loopwright")


@dataclass(frozen=True)
class Built:
    """A recipe made real: its task, a fresh model on the device, and who it is.

    `arguments` are those of `fit`, where a run of it is recorded.
    """

    recipe: Recipe
    task: Task
    state: TrainState
    streams: Streams
    device: torch.device
    initial_sha256: str
    arguments: Arguments | None = None

    @property
    def recipe_id(self) -> str:
        if self.arguments is None:
            return recipe_id(self.recipe, self.task.fingerprint())
        return self.recipe_id_of(self.arguments.used)

    def recipe_id_of(self, described: Described, *, code: bool = True) -> str:
        """The identity of the recipe with arguments of `fit`; without `code`, under any version of Python."""
        return recipe_id(self.recipe, described.data_sha256, described.digest(code=code))

    @property
    def run_id(self) -> str:
        return run_id(self.recipe_id, self.recipe.seed)

    def memory_explained(self, doing: str, advice: str) -> AbstractContextManager[None]:
        """A block whose running out of memory is said in one line, with the batch and the model's size."""
        batch_size, model = self.recipe.train.batch_size, self.state.model
        return memory_explained(doing, advice, batch_size=batch_size, device=self.device, model=model)


def build(recipe: Recipe, device: torch.device, task: Task | None = None, arguments: Arguments | None = None) -> Built:
    """Read the data, initialise the model under the addressed seed, and make its optimizers. Raises LoopwrightError.

    `task` and `arguments` are those of `fit`, where they stand in for what the recipe names.
    """
    streams = Streams(recipe.seed)
    batch_size = recipe.train.batch_size
    reading = memory_explained("while the data were read", "give less data", batch_size=batch_size, device=device)
    with reading, cache.below(recipe.env.cache):
        if task is None:
            task = recipe.task.build(recipe.model, batch_size=batch_size, streams=streams, device=device)
        if recipe.train.overfit:
            task = Overfit(task, recipe.train.overfit)
    advice = "give it fewer or smaller layers; nothing was written"
    building = memory_explained("while the model was built", advice, batch_size=batch_size, device=device)
    with building, streams.fork("weights"):
        model = task.build_model()
    if names := lazy_names(model):
        raise ConfigError(
            f"the task's model has lazy layers ({listed(names)}); call it once with a batch in build_model()"
        )
    with memory_explained("while the model was set up", advice, batch_size=batch_size, device=device, model=model):
        model.to(device)
        if task.loss_module is not None:
            task.loss_module.to(device)
        groups = task.groups(model)
        state = TrainState(model, groups, recipe.optim.build, recipe.train.precision, task.loss_module)
        state.meters = task.train_meters(device)
    for key, held in state.weights().items():
        extra = {name: value for name, value in held.items() if not isinstance(value, torch.Tensor)}
        if extra:
            check_plain({key: extra})
    return Built(
        recipe,
        task,
        state,
        streams,
        device,
        weights_hash({k: v for k, v in state.named_weights().items() if isinstance(v, torch.Tensor)}),
        arguments,
    )


def plan(built: Built, stops: Iterable[StopRule] = ()) -> Plan:
    """The recipe's values as the engine wants them; `stops` are asked after its own rules."""
    recipe, task = built.recipe, built.task
    ranking = _ranking(recipe, task)
    monitor, mode = ranking.monitor, ranking.mode
    if monitor.startswith("val_") and recipe.train.epochs and task.loader("val") is None:
        raise ConfigError(
            f"`stop.monitor` is {monitor!r} but there is no val split; give one, or use stop.monitor=train_loss"
        )
    if recipe.train.accumulate > 1:
        _say_what_accumulating_changes(built.state.model)
    capture = recipe.hooks.capture
    if capture.every and task.loader(capture.split) is None:
        there: list[Split] = [split for split in ("val", "train") if task.loader(split) is not None]
        raise ConfigError(
            f"`hooks.capture.split` is {capture.split!r}: there is no such split here; use {' or '.join(there)}"
        )
    stop = recipe.stop
    modes = _directions(task)
    gate = None
    thresholds = {prefixed(name): value for name, value in (stop.gate or {}).items()}
    if thresholds and thresholds.keys() <= modes.keys():
        gate = Gate(thresholds, {name: modes[name] for name in thresholds}, stop.hold)
    elif thresholds:
        log.info("train.overfit measures samples (%s), so stop.gate is not asked", ", ".join(modes))
    rules: list[StopRule] = [gate] if gate else []
    if not recipe.train.overfit:  # which wants to see how far it gets
        rules.append(Patience(monitor, mode, stop.patience, stop.min_delta, stop.min_delta_mode == "relative"))
    return Plan(
        train=recipe.train,
        lr=learning_rate(
            recipe.schedule,
            recipe.optim.lr,
            extent=extent(recipe.train, task.loader("train")),
            monitor=monitor,
            mode=mode,
        ),
        ranking=ranking,
        stops=(*rules, *stops),
        gate=gate,
        budget=stop.budget,
        measure_norm=recipe.record.grad_norm,
        recipe=plain(recipe),
    )


def _say_what_accumulating_changes(model: torch.nn.Module) -> None:
    looking = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if looking:
        more = f" and {len(looking) - 1} more" if len(looking) > 1 else ""
        log.warning(
            "train.accumulate gives BatchNorm (%s%s) the statistics of a part of the batch: it trains otherwise than the "
            "whole batch does; GroupNorm or LayerNorm do not",
            looking[0] or "the model",
            more,
        )


def _ranking(recipe: Recipe, task: Task) -> Ranking:
    """What `best` follows; a task that `train.overfit` measures by its samples may lack the recipe's metric."""
    modes = _directions(task)
    monitor, mode = recipe.monitor, recipe.mode
    if monitor.startswith("val_") and monitor not in map(prefixed, task.metrics):
        monitor = prefixed(task.monitor)
        mode = modes.get(monitor, mode)
    own = monitor == prefixed(task.monitor) and mode == modes.get(monitor)
    return Ranking(monitor, mode, tuple((prefixed(name), modes[prefixed(name)]) for name in task.ties) if own else ())


def _directions(task: Task) -> dict[str, Direction]:
    """The columns of metrics.csv that have a better and a worse, and which way that is."""
    return {prefixed(name): direction for name, direction in task.metrics.items() if direction is not None}
