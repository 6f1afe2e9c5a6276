"""Studies of a training of a few milliseconds, in memory and in this process unless a test says otherwise."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optuna
import pytest
from optuna.trial import FrozenTrial

from loopwright import api
from loopwright.beside import environment, module
from loopwright.engine.hooks import Hook, Info
from loopwright.searches.findings import Findings
from loopwright.searches.run import SearchOutcome
from loopwright.searches.study import Study, StudyFile, parse_study

T = TypeVar("T")

RECIPE: Mapping[str, Any] = {
    "experiment": "self_test",
    "task.data.rows": 100,
    "task.data.features": 4,
    "model.hidden": [8],
    "train.batch_size": 32,
    "train.epochs": 2,
    "record.save": False,
    "record.code": False,
    "record.console_every": 0,
    "launcher": "inline",
}
LR: Mapping[str, Any] = {"type": "float", "low": 1e-4, "high": 1e-1, "log": True}
SPACE: Mapping[str, Any] = {
    "optim.lr": LR,
    "model.dropout": {"type": "float", "low": 0.0, "high": 0.5},
    "model.activation": {"type": "categorical", "choices": ["gelu", "relu"]},
}


def tree(**keys: Any) -> dict[str, Any]:
    """A study as it would be in a file. `recipe` is laid over the tiny one, of which what is searched is left out."""
    space = keys.pop("space", dict(SPACE))
    recipe = {key: value for key, value in RECIPE.items() if key not in space} | keys.pop("recipe", {})
    return {"name": "tiny", "trials": 4, "sampler": "random", **keys, "space": space, "recipe": recipe}


def study_file(**keys: Any) -> StudyFile:
    return parse_study(tree(**keys), StudyFile)


def resolved(**keys: Any) -> Study:
    from loopwright.searches.resolving import resolve

    return resolve(study_file(**keys))[0]


def search(out: Path, *overrides: str, trials: int | None = None, reported: bool = False, **keys: Any) -> SearchOutcome:
    """`loopwright.search` of the tiny study below `out`; without its figures and importances, which take a second."""
    with pytest.MonkeyPatch.context() as patch:
        if not reported:
            patch.setattr("loopwright.searches.run.report", lambda *given: Findings(()))
        return api.search(tree(**keys), *overrides, trials=trials, out=out)


def proposals(found: optuna.Study) -> list[dict[str, Any]]:
    """What was proposed, in the order of the trials' numbers."""
    return [trial.params for trial in trials_of(found)]


def trials_of(found: optuna.Study) -> list[FrozenTrial]:
    trials: list[FrozenTrial] = found.get_trials(deepcopy=False)
    return trials


def facts(found: optuna.Study) -> list[tuple[Any, ...]]:
    """What must not depend on how often a study was stopped."""
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in trials_of(found)]


class SignalAt(Hook):
    """Sends this process a signal at the end of an epoch of the n-th training that begins."""

    def __init__(self, training: int, epoch: int, number: int = signal.SIGTERM) -> None:
        self.left, self.epoch, self.number = training, epoch, number

    def on_start(self, info: Info) -> None:
        self.left -= 1

    def on_epoch_end(self, info: Info) -> None:
        if self.left == 0 and info.epoch == self.epoch:
            os.kill(os.getpid(), self.number)


def observed_by(monkeypatch: pytest.MonkeyPatch, hook: Hook) -> None:
    """Let a hook see the trainings of trials that run in this process."""
    monkeypatch.setattr("loopwright.console.observers", lambda console_every: [hook])


# Two seconds of training, a checkpoint every tenth of one.
LONG: Mapping[str, Any] = {
    "launcher": "local",
    "launcher.workers": 2,
    "task.data.rows": 2000,
    "train.batch_size": 8,
    "train.epochs": 12,
    "record.save": True,
    "record.checkpoint_every": "200 steps",
}


def begun(file: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """`loopwright search FILE ARGUMENTS...` in a process of its own, which has just begun."""
    command = module("loopwright", "search", str(file), *map(str, arguments))
    with file.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(
            command, env=environment(OMP_NUM_THREADS="1"), stdout=log, stderr=log, start_new_session=True
        )


def wait_for(what: Callable[[], T | None], process: subprocess.Popen[bytes] | None = None) -> T:
    """What a function returns once it is something; fails where the process ends before, or after two minutes."""
    for _ in range(12_000):
        found = what()
        if found:
            return found
        assert process is None or process.poll() is None, "it ended before anything could be seen"
        time.sleep(0.01)
    raise AssertionError("nothing came of it")
