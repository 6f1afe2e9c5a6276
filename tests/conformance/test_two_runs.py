"""Two runs of one recipe and seed have the same content in every file, times aside; whatever came before in the process."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.api import compose
from loopwright.building import build
from loopwright.config.schema import Recipe
from loopwright.engine.steps import steps
from loopwright.engine.task import At
from loopwright.experiment import run
from support.compare import assert_same, differences
from support.tasks import recipe

TINY = ("train.epochs=2", "train.batch_size=16", "plots=none", "record.code=false", "device=cpu")
SELF_TEST = (*TINY, "experiment=self_test", "task.data.rows=60", "model.hidden=[8]", "model.dropout=0.2")
RECIPES: dict[str, Any] = {
    "regression": lambda: compose(*SELF_TEST),
    "regression, everything recorded": lambda: compose(
        *SELF_TEST, "record.checkpoint_every=2 steps", "record.grad_norm=true", "train.clip_norm=1.0", "schedule=cosine"
    ),
    "overfit": lambda: compose(*SELF_TEST, "train.overfit=10"),
    "noise from everywhere": lambda: recipe(
        record={"checkpoint_every": "4 steps"}, train={"validate_every": "4 steps"}
    ),
    "GAN": lambda: recipe("Gan"),
    "no parameters": lambda: recipe("Parameterless"),
    "EMA": lambda: recipe("Ema"),
    "no epochs": lambda: recipe(train={"epochs": 0}),
}


@pytest.fixture(params=RECIPES)
def wanted(request: pytest.FixtureRequest) -> Recipe:
    made: Recipe = RECIPES[request.param]()
    return made


def test_two_runs_have_the_same_content(wanted: Recipe, tmp_path: Path) -> None:
    first = run(wanted, out=tmp_path)
    random.random()
    np.random.rand(3)
    torch.rand(7)
    second = run(wanted, out=tmp_path)
    assert first.run != second.run
    assert_same(first.run, second.run, sessions=True)


def test_another_seed_is_another_run(wanted: Recipe, tmp_path: Path) -> None:
    first, second = run(wanted, out=tmp_path), run(wanted.model_copy(update={"seed": wanted.seed + 1}), out=tmp_path)
    assert first.run is not None and second.run is not None
    found = differences(Path(first.run), Path(second.run))
    # Of the model without parameters and the run without epochs only the identity tells.
    trains = wanted.train.epochs and first.curves["train_loss"] and first.curves["train_loss"][0] != 0.25
    assert any(line.startswith("steps.csv") for line in found) is bool(trains)
    assert any(line.startswith("environment.json") for line in found)


def test_a_task_holds_no_changing_state(wanted: Recipe) -> None:
    built = build(wanted, torch.device("cpu"))
    before = pickle.dumps(built.task)
    loader, done = built.task.loader("train"), 0
    assert loader is not None
    while done < 10:
        for _ in steps(built.task, built.state, loader, built.streams, lr=lambda _: 0.01):
            done += 1
        built.state.epoch, built.state.batch = built.state.epoch + 1, 0
        with torch.inference_mode():
            for batch in (built.task.loader("val") or loader).epoch(0):
                built.task.measure(built.state.model, batch, At(built.streams, done, 1, torch.device("cpu")))
    assert pickle.dumps(built.task) == before
