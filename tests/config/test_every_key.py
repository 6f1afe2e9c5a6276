"""Every key of the schema, changed: nothing is accepted and ignored.

`CHANGES` has a line for each key of each registered choice. A key of the trajectory has to change the recipe's identity
and what the training computes; another key has to keep the identity and change what is written, printed or done.
"""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import loopwright
from loopwright.config.compose import CHOICES, compose
from loopwright.config.identity import recipe_id, shapes_trajectory
from loopwright.config.keys import choice_of
from loopwright.config.node import Node
from loopwright.config.registry import lookup, names
from loopwright.config.schema import Recipe
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.outcome import Outcome
from loopwright.errors import ConfigError, DataError
from loopwright.evaluation import evaluate_run
from loopwright.optim.optimizers import TorchOptim
from loopwright.optim.torch_schedules import TorchSchedule
from loopwright.report.settings import FamilySwitches
from loopwright.seeds import SeedsOutcome, run_seeds
from loopwright.streams import Streams
from loopwright.tasks.autoencoder.write import write_events
from loopwright.tasks.set_prediction.history import write_history
from loopwright.tasks.set_prediction.synthetic import make_history
from support.cli import command
from support.compare import timeless
from support.launching import asked_of_ray, handed_in, started_here, times_started

LINEAR = (
    "experiment=self_test",
    "task.data.rows=60",
    "task.data.features=3",
    "model.hidden=[4]",
    "train.batch_size=16",
    "train.epochs=3",
    "optim.lr=0.01",
    "plots=none",
    "record.code=false",
)
MEMORY = (*LINEAR, "record.save=false")
TABLE = ("task=regression", "model.hidden=[4]", "train.epochs=1", "train.batch_size=16", "record.save=false")
SETS = (
    "task=set_prediction",
    "task.data.window=7",
    "task.data.synthetic.rows=80",
    "model.hidden=4",
    "train.epochs=1",
    "train.batch_size=16",
    "record.save=false",
)
REGEX = (
    "task=regex",
    "task.data.samples=120",
    "task.data.lengths=[1,6]",
    "model.d_model=8",
    "model.heads=2",
    "train.epochs=1",
    "train.batch_size=16",
    "record.save=false",
)
SETS_BY_COUNT = (*(text for text in SETS if not text.startswith("model.")), "model=frequency")
DIGITS = ("task=autoencoder", "task.data=digits", "train.epochs=1", "train.batch_size=512", "record.save=false")
PARTS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"hidden": "[8]", "type_width": 3},
    "gnn": {"hidden": 8, "messages": 4, "rounds": 1, "type_width": 3},
    "gan": {"hidden": 8, "blocks": 1, "type_width": 3},
}
EVENTS = ("task=autoencoder", "task.data=events", "task.data.path=FILES/events.h5", *DIGITS[2:])
SMALL_EVENTS = (
    "task=autoencoder",
    "task.data.name=support.tokens:SmallEvents",
    "task.width=6",
    "train.epochs=1",
    "train.batch_size=16",
    "plots=none",
    "record.code=false",
    "record.save=false",
)
DRAWN = ("task.loop=diffusion", "task.loop.timesteps=20", "task.loop.sampling_steps=5")
SPIKES = (*SETS_BY_COUNT[:-1], "model=spiking_mlp", "model.hidden=[12]", "model.time_steps=4")
ATTENDING = (
    *SETS_BY_COUNT[:-1],
    "model=spiking_transformer",
    "model.d_model=16",
    "model.heads=2",
    "model.d_ffn=16",
    "model.layers=1",
)
WALKS = (
    "task=walks",
    "task.data.vertices=16",
    "task.data.blocks=2",
    "task.data.p_in=0.9",
    "task.data.p_out=0.5",
    "task.data.jumpers_per_block=1",
    "task.data.delays=[0.5]",
    "task.data.window=4",
    "task.data.walk_length=12",
    "task.data.num_walks=60",
    "task.evaluation.walks=5",
    "model.d_model=8",
    "model.heads=2",
    "train.epochs=1",
    "train.batch_size=32",
    "record.save=false",
)


@dataclass(frozen=True)
class Change:
    """`base`, and `base` with `changed`. `see` says what there is to see of one of them; equal answers are a failure."""

    base: tuple[str, ...]
    changed: str
    see: Callable[[tuple[str, ...], Path], Any] | None = None


class Witness(Hook):
    """What a run computes under."""

    def on_start(self, info: Info) -> None:
        self.seen = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())


@cache
def composed(overrides: tuple[str, ...]) -> Recipe:
    """Composing takes longer than these trainings do."""
    return compose(overrides).recipe


def computed(overrides: tuple[str, ...], folder: Path) -> Any:
    """What a training without a record returns, time aside."""
    return _computed(overrides)


@cache
def _computed(overrides: tuple[str, ...]) -> Any:
    witness = Witness()
    outcome = run_seeds(composed(overrides), hooks=[witness])
    assert isinstance(outcome, Outcome)
    facts = {name: getattr(outcome, name) for name in ("status", "reason", "epochs", "steps", "value", "gate_passed")}
    facts |= {
        name: getattr(outcome, name) for name in ("monitor", "mode", "weights_sha256", "test", "curves", "remarks")
    }
    return timeless(facts | {"best": outcome.best, "last": outcome.last, "under": witness.seen})


def recorded(overrides: tuple[str, ...], folder: Path) -> Any:
    """The files of a recorded training with their texts, names of directories aside."""
    outcome = run_seeds(composed(overrides), out=folder)
    assert isinstance(outcome, Outcome)
    if outcome.run is None:
        return None
    path, texts = Path(outcome.run), ("metrics.csv", "steps.csv", "code.diff")
    held = {str(file.relative_to(path)) for file in path.rglob("*") if "figures" not in file.parts}
    header = {name: (path / name).read_text().splitlines()[:1] for name in texts}
    return path.parent.name, sorted(held), header, len((path / "steps.csv").read_text().splitlines())


def captured(overrides: tuple[str, ...], folder: Path) -> Any:
    """What is shown of a model's inside, and when."""
    outcome = run_seeds(composed(overrides), out=folder)
    assert isinstance(outcome, Outcome)
    files = {}
    for path in Path(outcome.run or "").glob("captures/*.npz"):
        with np.load(path) as arrays:
            files[path.name] = {name: arrays[name].tolist() for name in arrays}
    return files


def logged(overrides: tuple[str, ...], folder: Path) -> Any:
    """The log lines of a training without a record, their numbers aside."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(str(record.msg) + str(record.args and record.args[-2]))  # type: ignore[method-assign, index]
    logger = logging.getLogger("loopwright")
    logger.addHandler(handler)
    try:
        run_seeds(composed(overrides))
    finally:
        logger.removeHandler(handler)
    return lines


def printed(overrides: tuple[str, ...], folder: Path) -> Any:
    """How many lines the command prints while it trains."""
    return len(command("train", *overrides).err.splitlines())


def uncommitted(overrides: tuple[str, ...], folder: Path) -> Any:
    """Whether an uncommitted change of the working tree is in the record."""
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    folder.mkdir()
    (folder / "code.py").write_text("a = 1\n")
    for words in (("init", "-q"), ("add", "code.py"), ("commit", "-q", "-m", "one")):
        subprocess.run([*git, *words], cwd=folder, check=True, capture_output=True)
    (folder / "code.py").write_text("a = 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (path,) = (Path(run) for run in [str(run_seeds(composed(overrides), out=folder / "runs").run)])  # type: ignore[union-attr]
        return (path / "code.diff").read_text()


def seeds_trained(overrides: tuple[str, ...], folder: Path) -> Any:
    outcome = run_seeds(composed(overrides))
    return len(outcome.runs) if isinstance(outcome, SeedsOutcome) else 1


def drawn(overrides: tuple[str, ...], folder: Path) -> Any:
    """Which families of figures are drawn at the end; tests/hooks/test_live_figures.py holds a run to it."""
    return composed(overrides).plots.at_end()


def sent(overrides: tuple[str, ...], folder: Path) -> Any:
    """What trackers keep."""
    outcome = run_seeds(composed(overrides), out=folder)
    assert isinstance(outcome, Outcome)
    return sorted(path.name for path in Path(outcome.run or "").glob("trackers/*"))


def viewed(overrides: tuple[str, ...], folder: Path) -> Any:
    """The sizes of what figures show."""
    outcome = run_seeds(composed(overrides), out=folder)
    assert isinstance(outcome, Outcome) and outcome.run is not None
    evaluate_run(outcome.run, allow_import=("support",))
    with np.load(Path(outcome.run) / "evaluation" / "test_best_views.npz") as arrays:
        return {name: arrays[name].shape for name in arrays.files}


def loaded(overrides: tuple[str, ...], folder: Path) -> Any:
    """How the rows of a file are held."""
    data: Any = composed(overrides).task.data  # type: ignore[attr-defined]
    return type(data.load(batch_size=8, streams=Streams(0), device=torch.device("cpu")).loaders["train"]).__name__


def device_asked_for(overrides: tuple[str, ...], folder: Path) -> Any:
    try:
        return computed(overrides, folder)["weights_sha256"]
    except ConfigError as error:
        return str(error)


def read_file(overrides: tuple[str, ...], folder: Path) -> Any:
    """What comes of a file, or what is said of a missing one."""
    try:
        return computed(overrides, folder)["weights_sha256"]
    except DataError as error:
        return str(error)


PLATEAU = (*MEMORY, "schedule=plateau", "schedule.patience=0", "schedule.threshold=0.99", "train.epochs=5")
HYPERBOLIC = (*MEMORY, "schedule.upper_bound=30")
STOPPING = (*MEMORY, "train.epochs=4")
GATED = (*MEMORY, "stop.gate={loss: 1000}")
PROBED = (*MEMORY, "hooks.timing_probe.minutes=1e-9")
SAVED = (*LINEAR, "record.checkpoint_every=1 steps")
EVERY_EPOCH = "schedule.every=epoch"
SMALL_TABLE = "task.data.rows=60"


def runs_root(overrides: tuple[str, ...], folder: Path) -> Any:
    """Where a run is, below a site that is named in `env.runs`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LOOPWRIGHT_RUNS", raising=False)
        outcome = run_seeds(composed(overrides))
    assert isinstance(outcome, Outcome) and outcome.run is not None
    return Path(outcome.run).parents[1]


def cached_files(overrides: tuple[str, ...], folder: Path) -> Any:
    """What a walks task leaves in the cache of its site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LOOPWRIGHT_CACHE", raising=False)
        run_seeds(composed(overrides))
    root = Path(composed(overrides).env.cache or "")
    return sorted(str(path) for path in root.rglob("*") if path.is_file())


def data_path(overrides: tuple[str, ...], folder: Path) -> Any:
    """The file of data that a recipe means."""
    return composed(overrides).task.data.path


def CSV(kind: str) -> tuple[str, ...]:  # noqa: N802 - filled in by `files`
    return (*TABLE, f"task.data={kind}", f"task.data.path=FILES/table.{kind}", "task.data.target=y")


def file_keys(kind: str) -> dict[str, Change]:
    return {
        f"task/data:{kind}.seed": Change(CSV(kind), "task.data.seed=1"),
        f"task/data:{kind}.split": Change(CSV(kind), "task.data.split=[0.5,0.5]"),
        f"task/data:{kind}.standardize": Change(CSV(kind), "task.data.standardize=false"),
        f"task/data:{kind}.path": Change(CSV(kind), f"task.data.path=FILES/other.{kind}", read_file),
        f"task/data:{kind}.target": Change(CSV(kind), "task.data.target=[y,a]"),
        f"task/data:{kind}.features": Change(CSV(kind), "task.data.features=[a]"),
    }


CHANGES: dict[str, Change] = {
    "name": Change(LINEAR, "name=other", recorded),
    "seed": Change(MEMORY, "seed=7"),
    "seeds": Change(MEMORY, "seeds=[1,2]", seeds_trained),
    "device": Change(MEMORY, "device=cuda:99", device_asked_for),
    "threads": Change(MEMORY, "threads=2"),
    "deterministic": Change(MEMORY, "deterministic=false"),
    "trackers": Change(LINEAR, "trackers=[tensorboard]", sent),
    **{
        f"plots:{preset}.families.{family}": Change((f"plots={preset}",), f"plots.families.{family}={switch}", drawn)
        for preset, switch in (("none", "true"), ("minimal", "true"), ("standard", "false"), ("full", "false"))
        for family in FamilySwitches.model_fields
        if (preset, family) != ("minimal", "losses")
    },
    "plots:minimal.families.losses": Change(("plots=minimal",), "plots.families.losses=false", drawn),
    "task/data:digits.layout": Change(DIGITS, "task.data.layout=flat"),
    "task/data:digits.seed": Change(DIGITS, "task.data.seed=1"),
    "task/data:digits.split": Change(DIGITS, "task.data.split=[0.5,0.25,0.25]"),
    "task/data:events.path": Change(EVENTS, "task.data.path=FILES/other_events.h5", read_file),
    "task/data:events.memory_mib": Change(EVENTS, "task.data.memory_mib=0", loaded),
    **{
        f"task/{part}:{name}.{key}": Change((*DIGITS, f"task.{part}={name}"), f"task.{part}.{key}={value}")
        for part in ("encoder", "decoder")
        for name, changes in PARTS.items()
        for key, value in changes.items()
    },
    "model:spiking_mlp.hidden": Change(SPIKES, "model.hidden=[13]"),
    **{
        f"model:{name}.{key}": Change(base, f"model.{key}={value}")
        for name, base in (("spiking_mlp", SPIKES), ("spiking_transformer", ATTENDING))
        for key, value in {"beta": 0.5, "slope": 10.0, "time_steps": 5, "encoding": "rate"}.items()
    },
    **{
        f"model:{name}.gain": Change((*base, "model.encoding=rate"), "model.gain=0.8")
        for name, base in (("spiking_mlp", SPIKES), ("spiking_transformer", ATTENDING))
    },
    **{
        f"model:spiking_transformer.{key}": Change(ATTENDING, f"model.{key}={value}")
        for key, value in {"d_model": 12, "heads": 1, "layers": 2, "d_ffn": 12, "dropout": 0.5}.items()
    },
    "task:autoencoder.width": Change(SMALL_EVENTS, "task.width=5"),
    "task:autoencoder.globals_weight": Change(SMALL_EVENTS, "task.globals_weight=0.5"),
    "task/loop:gan.adversarial_weight": Change((*SMALL_EVENTS, "task.loop=gan"), "task.loop.adversarial_weight=0.5"),
    **{
        f"task/loop:diffusion.{key}": Change((*SMALL_EVENTS, *DRAWN), f"task.loop.{key}={value}")
        for key, value in {"timesteps": 30, "schedule": "linear", "space": "tokens", "decay": 0.05}.items()
    },
    "task/loop:diffusion.sampling_steps": Change(
        (*SMALL_EVENTS, *DRAWN, "task.decoder=diffusion"), "task.loop.sampling_steps=3"
    ),
    "task/loop:diffusion.samples": Change(
        (*(text for text in SMALL_EVENTS if text != "record.save=false"), *DRAWN), "task.loop.samples=3", viewed
    ),
    "task/decoder:gan.noise_width": Change((*DIGITS, "task.decoder=gan"), "task.decoder.noise_width=2"),
    **{
        f"task/encoder:diffusion.{key}": Change((*DIGITS, "task.encoder=diffusion"), f"task.encoder.{key}={value}")
        for key, value in {"timestep": 90, "timesteps": 500, "schedule": "linear", **PARTS["gnn"]}.items()
    },
    **{
        f"task/decoder:diffusion.{key}": Change(
            (*DIGITS, "task.loop=diffusion", "task.decoder=diffusion"), f"task.decoder.{key}={value}"
        )
        for key, value in PARTS["gnn"].items()
    },
    **{
        f"task/latent:vq.{key}": Change((*DIGITS, "task.latent=vq"), f"task.latent.{key}={value}")
        for key, value in {"codes": 16, "commitment": 1.0, "decay": 0.5, "restart": 0.0}.items()
    },
    "train.epochs": Change(MEMORY, "train.epochs=2"),
    "train.epoch_steps": Change(MEMORY, "train.epoch_steps=2"),
    "train.max_steps": Change(MEMORY, "train.max_steps=2"),
    "train.batch_size": Change(MEMORY, "train.batch_size=7"),
    "train.clip_norm": Change(MEMORY, "train.clip_norm=0.01"),
    "train.accumulate": Change((*MEMORY, "model.dropout=0.5"), "train.accumulate=2"),
    "train.validate_every": Change(MEMORY, "train.validate_every=2 epochs"),
    "train.overfit": Change(MEMORY, "train.overfit=8"),
    "train.precision": Change(MEMORY, "train.precision=bf16"),
    "stop.monitor": Change(MEMORY, "stop.monitor=mae"),
    "stop.mode": Change(MEMORY, "stop.mode=max"),
    "stop.patience": Change((*STOPPING, "stop.min_delta=1000"), "stop.patience=1"),
    "stop.min_delta": Change((*STOPPING, "stop.patience=1"), "stop.min_delta=1000"),
    "stop.min_delta_mode": Change(
        (*STOPPING, "stop.patience=1", "stop.min_delta=0.07"), "stop.min_delta_mode=relative"
    ),
    "stop.gate": Change(MEMORY, "stop.gate={loss: 1000}"),
    "stop.hold": Change(GATED, "stop.hold=2"),
    "stop.budget": Change(MEMORY, "stop.budget=2 steps"),
    "record.save": Change(LINEAR, "record.save=false", recorded),
    "record.checkpoint_every": Change(LINEAR, "record.checkpoint_every=1 steps", recorded),
    "record.keep_last": Change(SAVED, "record.keep_last=1", recorded),
    "record.steps_every": Change(LINEAR, "record.steps_every=2", recorded),
    "record.grad_norm": Change(LINEAR, "record.grad_norm=true", recorded),
    "record.console_every": Change(MEMORY, "record.console_every=0", printed),
    "record.code": Change((*LINEAR[:-1], "record.code=true"), "record.code=false", uncommitted),
    "record.max_gb": Change(SAVED, "record.max_gb=1e-9", recorded),
    "hooks.timing_probe": Change(PROBED, "hooks.timing_probe=null", logged),
    "hooks.timing_probe.minutes": Change(MEMORY, "hooks.timing_probe.minutes=1e-9", logged),
    "hooks.timing_probe.advice": Change(PROBED, "hooks.timing_probe.advice=ask a friend", logged),
    "hooks.capture.every": Change(LINEAR, "hooks.capture.every=2", captured),
    "hooks.capture.split": Change((*LINEAR, "hooks.capture.every=2"), "hooks.capture.split=train", captured),
    "hooks.capture.samples": Change((*LINEAR, "hooks.capture.every=2"), "hooks.capture.samples=3", captured),
    "task:regression.shuffle": Change(MEMORY, "task.shuffle=false"),
    "task:set_prediction.data.path": Change(
        (*SETS[:2], *SETS[3:], "task.data.path=FILES/sets.csv"), "task.data.path=FILES/other_sets.csv", read_file
    ),
    "task:set_prediction.data.window": Change(SETS, "task.data.window=8"),
    "task:set_prediction.data.shuffle": Change(SETS, "task.data.shuffle=true"),
    "task:set_prediction.data.split": Change(SETS, "task.data.split=[0.5,0.25,0.25]"),
    "task:set_prediction.data.synthetic.rows": Change(SETS, "task.data.synthetic.rows=90"),
    "task:set_prediction.data.synthetic.signal": Change(SETS, "task.data.synthetic.signal=0.1"),
    "task:set_prediction.data.synthetic.seed": Change(SETS, "task.data.synthetic.seed=1"),
    "task:set_prediction.loss.cardinality_weight": Change(SETS, "task.loss.cardinality_weight=0.5"),
    "task:regex.alphabet": Change(REGEX, "task.alphabet=abc"),
    "task:regex.pattern": Change(REGEX, "task.pattern=a*b*"),
    "task:regex.data.samples": Change(REGEX, "task.data.samples=130"),
    "task:regex.data.lengths": Change(REGEX, "task.data.lengths=[1,7]"),
    "task:regex.data.p_class": Change(REGEX, "task.data.p_class={accept: 0.1, reject: 0.9}"),
    "task:regex.data.p_reject": Change(REGEX, "task.data.p_reject={overrun: 1.0}"),
    "task:regex.data.split": Change(REGEX, "task.data.split=[0.5,0.25,0.25]"),
    "task:regex.data.seed": Change(REGEX, "task.data.seed=1"),
    "task:regex.loss.lambda_next": Change(REGEX, "task.loss.lambda_next=2"),
    "task:regex.loss.lambda_class": Change(REGEX, "task.loss.lambda_class=2"),
    "task:regex.loss.lambda_state": Change(REGEX, "task.loss.lambda_state=1"),
    "task:regex.loss.l1_u": Change((*REGEX, "model.embedding_rank=2"), "task.loss.l1_u=0.1"),
    "task:regex.length_bins": Change(REGEX, "task.length_bins=[3]"),
    "task:walks.data.vertices": Change(WALKS, "task.data.vertices=18"),
    "task:walks.data.blocks": Change(WALKS, "task.data.blocks=4"),
    "task:walks.data.p_in": Change(WALKS, "task.data.p_in=0.8"),
    "task:walks.data.p_out": Change(WALKS, "task.data.p_out=0.4"),
    "task:walks.data.jumpers_per_block": Change(WALKS, "task.data.jumpers_per_block=2"),
    "task:walks.data.delays": Change(WALKS, "task.data.delays=[0.75]"),
    "task:walks.data.window": Change(WALKS, "task.data.window=5"),
    "task:walks.data.walk_length": Change(WALKS, "task.data.walk_length=14"),
    "task:walks.data.num_walks": Change(WALKS, "task.data.num_walks=70"),
    "task:walks.data.seed": Change(WALKS, "task.data.seed=1"),
    "task:walks.evaluation.walks": Change(WALKS, "task.evaluation.walks=4"),
    "task/data:wave.seed": Change((*TABLE, "task.data=wave", SMALL_TABLE), "task.data.seed=1"),
    "task/data:wave.split": Change((*TABLE, "task.data=wave", SMALL_TABLE), "task.data.split=[0.5,0.25,0.25]"),
    "task/data:wave.standardize": Change((*TABLE, "task.data=wave", SMALL_TABLE), "task.data.standardize=true"),
    "task/data:wave.rows": Change((*TABLE, "task.data=wave", SMALL_TABLE), "task.data.rows=61"),
    "task/data:wave.noise": Change((*TABLE, "task.data=wave", SMALL_TABLE), "task.data.noise=0.5"),
    "task/data:linear.seed": Change(MEMORY, "task.data.seed=1"),
    "task/data:linear.split": Change(MEMORY, "task.data.split=[0.5,0.5]"),
    "task/data:linear.standardize": Change(MEMORY, "task.data.standardize=true"),
    "task/data:linear.rows": Change(MEMORY, "task.data.rows=61"),
    "task/data:linear.features": Change(MEMORY, "task.data.features=2"),
    "task/data:linear.noise": Change(MEMORY, "task.data.noise=0.5"),
    "task/data:linear.target": Change(MEMORY, "task.data.target=binary"),
    "task/data:diabetes.seed": Change(TABLE, "task.data.seed=1"),
    "task/data:diabetes.split": Change(TABLE, "task.data.split=[0.5,0.5]"),
    "task/data:diabetes.standardize": Change(TABLE, "task.data.standardize=false"),
    **file_keys("csv"),
    **file_keys("parquet"),
    "model:mlp.hidden": Change(MEMORY, "model.hidden=[5]"),
    "model:mlp.activation": Change(MEMORY, "model.activation=tanh"),
    "model:mlp.dropout": Change(MEMORY, "model.dropout=0.5"),
    "model:gru.hidden": Change(SETS, "model.hidden=5"),
    "model:gru.num_layers": Change(SETS, "model.num_layers=2"),
    "model:gru.dropout": Change((*SETS, "model.num_layers=2"), "model.dropout=0.5"),
    "model:frequency.freq_weight": Change(SETS_BY_COUNT, "model.freq_weight=-1.0"),
    "model:frequency.recency_weight": Change(SETS_BY_COUNT, "model.recency_weight=9.0"),
    "model:frequency.decay": Change(SETS_BY_COUNT, "model.decay=0.1"),
    "model:transformer.d_model": Change(REGEX, "model.d_model=12"),
    "model:transformer.layers": Change(REGEX, "model.layers=2"),
    "model:transformer.heads": Change(REGEX, "model.heads=1"),
    "model:transformer.mlp": Change(REGEX, "model.mlp=9"),
    "model:transformer.dropout": Change(REGEX, "model.dropout=0.5"),
    "model:transformer.positions": Change(REGEX, "model.positions=none"),
    "model:transformer.max_length": Change((*REGEX, "model.positions=learned"), "model.max_length=9"),
    "model:transformer.tied": Change(REGEX, "model.tied=true"),
    "model:transformer.embedding_rank": Change(REGEX, "model.embedding_rank=2"),
    "optim:sgd.lr": Change((*MEMORY, "optim=sgd"), "optim.lr=0.02"),
    "optim:sgd.momentum": Change((*MEMORY, "optim=sgd"), "optim.momentum=0.5"),
    "optim:sgd.nesterov": Change((*MEMORY, "optim=sgd", "optim.momentum=0.5"), "optim.nesterov=true"),
    "optim:sgd.weight_decay": Change((*MEMORY, "optim=sgd"), "optim.weight_decay=0.5"),
    "optim:adam.lr": Change((*MEMORY, "optim=adam"), "optim.lr=0.02"),
    "optim:adam.betas": Change((*MEMORY, "optim=adam"), "optim.betas=[0.5,0.9]"),
    "optim:adam.eps": Change((*MEMORY, "optim=adam"), "optim.eps=0.1"),
    "optim:adam.weight_decay": Change((*MEMORY, "optim=adam"), "optim.weight_decay=0.5"),
    "optim:adamw.lr": Change(MEMORY, "optim.lr=0.02"),
    "optim:adamw.betas": Change(MEMORY, "optim.betas=[0.5,0.9]"),
    "optim:adamw.eps": Change(MEMORY, "optim.eps=0.1"),
    "optim:adamw.weight_decay": Change(MEMORY, "optim.weight_decay=0.5"),
    "optim:torch.lr": Change((*MEMORY, "optim=RMSprop"), "optim.lr=0.02"),
    "optim:torch.args": Change((*MEMORY, "optim=RMSprop"), "optim.args={alpha: 0.5}"),
    "schedule:warmup_cosine.warmup": Change((*MEMORY, "schedule=warmup_cosine"), "schedule.warmup=0.5"),
    "schedule:warmup_cosine.floor": Change((*MEMORY, "schedule=warmup_cosine"), "schedule.floor=0.5"),
    "schedule:warmup_cosine.every": Change((*MEMORY, "schedule=warmup_cosine"), EVERY_EPOCH),
    "schedule:warmup_linear.warmup": Change((*MEMORY, "schedule=warmup_linear"), "schedule.warmup=3"),
    "schedule:warmup_linear.floor": Change((*MEMORY, "schedule=warmup_linear"), "schedule.floor=0.5"),
    "schedule:warmup_linear.every": Change((*MEMORY, "schedule=warmup_linear"), EVERY_EPOCH),
    "schedule:step.size": Change((*MEMORY, "schedule=step", "schedule.size=1"), "schedule.size=2"),
    "schedule:step.gamma": Change((*MEMORY, "schedule=step", "schedule.size=1"), "schedule.gamma=0.5"),
    "schedule:step.every": Change((*MEMORY, "schedule=step", "schedule.size=1"), "schedule.every=step"),
    "schedule:cosine.floor": Change((*MEMORY, "schedule=cosine"), "schedule.floor=0.5"),
    "schedule:cosine.every": Change((*MEMORY, "schedule=cosine"), EVERY_EPOCH),
    "schedule:plateau.factor": Change(PLATEAU, "schedule.factor=0.5"),
    "schedule:plateau.patience": Change(PLATEAU, "schedule.patience=1"),
    "schedule:plateau.threshold": Change(PLATEAU, "schedule.threshold=0.0"),
    "schedule:plateau.cooldown": Change(PLATEAU, "schedule.cooldown=2"),
    "schedule:plateau.min_lr": Change(PLATEAU, "schedule.min_lr=0.005"),
    **{
        f"schedule:{name}.{key}": Change((*HYPERBOLIC, f"schedule={name}"), f"schedule.{key}={value}")
        for name in ("hyperbolic", "exp_hyperbolic")
        for key, value in (("every", "step"), ("upper_bound", "20"), ("max_iter", "5"), ("infimum", "1e-3"))
    },
    "schedule:torch.every": Change(
        (*MEMORY, "schedule=ExponentialLR", "schedule.args={gamma: 0.5}"), "schedule.every=step"
    ),
    "schedule:torch.args": Change(
        (*MEMORY, "schedule=ExponentialLR", "schedule.args={gamma: 0.5}"), "schedule.args={gamma: 0.9}"
    ),
    "env.runs": Change((*LINEAR, "env.runs=FILES/here"), "env.runs=FILES/there", runs_root),
    "env.data": Change(
        (
            *TABLE,
            "task.data=csv",
            "task.data.path=none.csv",
            "task.data.features=[a,b]",
            "task.data.target=y",
            "env.data=FILES",
        ),
        "env.data=FILES/more",
        data_path,
    ),
    "env.cache": Change((*WALKS, "env.cache=FILES/cache"), "env.cache=FILES/other_cache", cached_files),
    **{
        f"launcher:{name}.{key}": Change((*MEMORY, f"launcher={name}"), f"launcher.{key}={value}", see)
        for name, see, changes in (
            ("local", started_here, {"workers": "2", "gpus": "2"}),
            ("ray", asked_of_ray, {"workers": "3", "gpus": "2", "address": "auto", "resources": "{special: 1}"}),
            (
                "slurm",
                handed_in,
                {"workers": "2", "gpus": "2", "time": "4 h", "partition": "long", "resources": "{mem: 4G}"},
            ),
            ("slurm", handed_in, {"signal_seconds": "90"}),
            ("condor", handed_in, {"workers": "2", "gpus": "2", "time": "4 h", "resources": "{request_memory: 4 GB}"}),
        )
        for key, value in changes.items()
    },
    **{
        f"launcher:{name}.retries": Change((*LINEAR, f"launcher={name}"), "launcher.retries=1", times_started)
        for name in names("launcher")
    },
}
# Keys with one value only: every other is refused.
SINGLE = {
    "schedule:constant.every": ("schedule=constant", "schedule.every=epoch"),
    "schedule:plateau.every": ("schedule=plateau", "schedule.every=step"),
    "launcher:inline.workers": ("launcher=inline", "launcher.workers=2"),
}
# What `loopwright.fit` says of a module, by the argument that changes it.
X = torch.linspace(-1, 1, 40).reshape(20, 2)
FIT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "task:python.model": ({"model": nn.Linear(2, 1)}, {"model": nn.Sequential(nn.Linear(2, 1))}),
    "task:python.initial_sha256": ({"model": nn.Linear(2, 1)}, {"model": nn.Linear(2, 1)}),
    "task:python.loss": ({"loss": nn.MSELoss()}, {"loss": nn.L1Loss()}),
    "task:python.directions": ({"metrics": {"m": (nn.MSELoss(), "min")}}, {"metrics": {"m": (nn.MSELoss(), "max")}}),
}
GIB = "task:python.whole_split_gib"


def keys(cls: type[Node], prefix: str) -> Iterator[tuple[str, bool]]:
    """(key, whether it shapes the trajectory) of the leaves below a class; choices have their own."""
    for name, field in cls.model_fields.items():
        below = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_node(kind)]
        optional = type(None) in get_args(field.annotation)
        if choice_of(field) is not None or (name == "name" and cls is not Recipe):
            continue  # the choices are compared with one another below
        if optional or not below:
            yield f"{prefix}{name}", shapes_trajectory(field)
        for kind in below:
            for key, shapes in keys(kind, f"{prefix}{name}."):
                yield key, shapes and shapes_trajectory(field)


def _is_node(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Node)


def every_key() -> Mapping[str, bool]:
    classes = [(f"{group}:{name}.", lookup(group, name)) for group in CHOICES for name in names(group)]
    classes += [("optim:torch.", TorchOptim), ("schedule:torch.", TorchSchedule), ("", Recipe)]
    return {key: shapes for prefix, cls in classes for key, shapes in keys(cls, prefix)}


KEYS = every_key()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tables in each format, and two histories."""
    folder = tmp_path_factory.mktemp("files")
    for name, shift in (("table", 0), ("other", 1)):
        columns = {"a": [float(i % 7) for i in range(40)], "b": [float(i % 5) for i in range(40)]}
        table = polars.DataFrame(columns | {"y": [float((i + shift) % 11) for i in range(40)]})
        table.write_csv(folder / f"{name}.csv")
        table.write_parquet(folder / f"{name}.parquet")
    for name, seed in (("sets", 0), ("other_sets", 1)):
        write_history(folder / f"{name}.csv", make_history(80, 0.8, seed).history)
        write_events(folder / f"{name.replace('sets', 'events')}.h5", 40, seed)
    return folder


def test_every_key_has_a_line_here() -> None:
    """A key that is added, or a choice that is registered, is refused here until it is shown to be honoured."""
    assert KEYS.keys() == CHANGES.keys() | SINGLE.keys() | FIT.keys() | {GIB}


@pytest.mark.parametrize("key", CHANGES)
def test_a_changed_key_changes_something(key: str, files: Path, tmp_path: Path) -> None:
    change = CHANGES[key]
    base = tuple(text.replace("FILES", str(files)) for text in change.base)
    other = (*base, change.changed.replace("FILES", str(files)))
    identities = [recipe_id(composed(overrides), "") for overrides in (base, other)]
    assert (identities[0] != identities[1]) == (KEYS[key] and key != "seed")
    see = change.see or computed
    assert see(base, tmp_path / "base") != see(other, tmp_path / "other")


def test_what_there_is_to_see_is_the_same_for_the_same_recipe(tmp_path: Path) -> None:
    """Without this, everything above would hold for a key that is ignored."""
    for index, see in enumerate((recorded, logged, printed, uncommitted, device_asked_for, seeds_trained)):
        base = PROBED if see is logged else LINEAR if see in (recorded, uncommitted) else MEMORY
        one, two = (see(base, tmp_path / f"{index}{side}") for side in "ab")
        assert one == two, see.__name__
    _computed.cache_clear()
    one = computed(MEMORY, tmp_path)
    _computed.cache_clear()
    assert computed(MEMORY, tmp_path) == one


@pytest.mark.parametrize("key", SINGLE)
def test_a_key_with_one_value_refuses_every_other(key: str) -> None:
    with pytest.raises(
        ConfigError, match=f"`{key.replace(':constant', '').replace(':plateau', '').replace(':inline', '')}` is "
    ):
        compose(SINGLE[key])


@pytest.mark.parametrize("key", FIT)
def test_a_key_that_python_gives_is_of_the_identity(key: str) -> None:
    base: dict[str, Any] = {"model": nn.Linear(2, 1), "loss": nn.MSELoss(), "epochs": 2, "record": {"save": False}}
    seen, said = [], []
    for given in FIT[key]:
        arguments = {**base, **given}
        module, loss = arguments.pop("model"), arguments.pop("loss")
        watcher = Recipes()
        stop = {"stop": {"monitor": "m"}} if "metrics" in given else {}
        outcome = loopwright.fit(
            module, loss, train=(X, X[:, :1]), val=(X, X[:, 1:]), hooks=[watcher], **arguments, **stop
        )
        seen.append((outcome.weights_sha256, outcome.mode))
        said.append(watcher.recipe["task"][key.removeprefix("task:python.")])
    assert said[0] != said[1] and seen[0] != seen[1]


def test_the_key_of_the_kept_outputs_bounds_them() -> None:
    def measure(**given: float) -> Any:
        val = DataLoader(TensorDataset(X, X[:, 1:]), batch_size=10)
        metrics: Any = {"largest": lambda predicted, target: (predicted - target).abs().max()}
        return loopwright.fit(
            nn.Linear(2, 1), nn.MSELoss(), train=(X, X[:, :1]), val=val, metrics=metrics, epochs=1,
            record={"save": False}, **given,
        )  # fmt: skip

    assert measure().last["val_largest"] > 0
    with pytest.raises(
        ConfigError, match=r"`metrics` 'largest' returns one number .* more than `whole_split_gib`=1e-09"
    ):
        measure(whole_split_gib=1e-9)


class Recipes(Hook):
    """Keeps the recipe that a run says it follows."""

    recipe: Mapping[str, Any]

    def on_start(self, info: Info) -> None:
        assert info.recipe is not None
        self.recipe = info.recipe


@pytest.mark.parametrize(
    "group", ["optim", "schedule", "task/data", "task/loss", "task/encoder", "task/latent", "task/loop"]
)
def test_each_choice_of_a_group_trains_differently(group: str, files: Path, tmp_path: Path) -> None:
    key = group.replace("/", ".")
    more = {"csv": CSV("csv"), "parquet": CSV("parquet"), "wave": (*TABLE, SMALL_TABLE), "diabetes": TABLE}
    more |= {"plateau": (*PLATEAU, "train.epochs=3"), "step": (*MEMORY, "schedule=step", "schedule.size=1")}
    more |= {name: (*MEMORY, "task.data.target=binary") for name in ("bce_with_logits", "cross_entropy")}
    more |= {"digits": DIGITS, "events": EVENTS}
    if group in ("task/encoder", "task/latent", "task/loop"):
        more = dict.fromkeys(names(group), DIGITS)
    found: dict[str, Any] = {}
    for name in names(group):
        base = more.get(name, MEMORY)
        overrides = tuple(text.replace("FILES", str(files)) for text in (*base, f"{key}={name}"))
        found[name] = computed(overrides, tmp_path)["weights_sha256"]
    if group == "task/data":
        assert found["csv"] == found.pop("parquet")  # one table in two formats
    assert len(set(found.values())) == len(found)
