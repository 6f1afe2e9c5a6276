"""Validation, logging, checkpoints and hooks may come as they like: the losses and the weights do not move."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from loopwright.experiment import run
from support.compare import trajectory
from support.tasks import recipe

TASKS = ("Noisy", "Gan", "Ema")
CHANGES: dict[str, dict[str, Any]] = {
    "validate every step": {"train": {"validate_every": "1 steps"}},
    "validate every 7 steps": {"train": {"validate_every": "7 steps"}},
    "validate every 2 epochs": {"train": {"validate_every": "2 epochs"}},
    "checkpoint every step": {"record": {"checkpoint_every": "1 steps"}},
    "checkpoint every 5 steps": {"record": {"checkpoint_every": "5 steps", "keep_last": 1}},
    "checkpoint every epoch": {"record": {"checkpoint_every": "1 epochs"}},
    "checkpoint all the time": {"record": {"checkpoint_every": "0.001 s"}},
    "gradient norm": {"record": {"grad_norm": True}},
    "hardly any room": {"record": {"checkpoint_every": "1 steps", "max_gb": 1e-9}},
    "no probe": {"hooks": {"timing_probe": None}},
    "silent": {"record": {"console_every": 0}},
    "patience that is never spent": {"stop": {"patience": 100}},
    "budget that is never spent": {"stop": {"budget": "1 h"}},
}


@pytest.fixture(scope="module", params=TASKS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    ended = run(recipe(request.param), out=tmp_path_factory.mktemp("reference"))
    found = trajectory(ended.run)
    assert len(found["losses"]) == 18 and len(set(found["losses"].values())) == 18
    return request.param, found


@pytest.mark.parametrize("change", CHANGES)
def test_the_trajectory_does_not_move(reference: tuple[str, dict[str, Any]], change: str, tmp_path: Path) -> None:
    task, expected = reference
    outcome = run(recipe(task, **CHANGES[change]), out=tmp_path)
    assert trajectory(outcome.run) == expected
    assert outcome.curves["train_loss"] == [float(loss) for loss in expected["losses"].values()]


@pytest.mark.parametrize("every", [0, 5])
def test_fewer_rows_and_the_same_weights(reference: tuple[str, dict[str, Any]], every: int, tmp_path: Path) -> None:
    task, expected = reference
    outcome = run(recipe(task, record={"steps_every": every}), out=tmp_path)
    assert outcome.weights_sha256 == expected["weights"] and outcome.run is not None
    with (Path(outcome.run) / "steps.csv").open() as file:
        rows = {row["step"]: row["loss"] for row in csv.DictReader(file)}
    assert rows == {step: loss for step, loss in expected["losses"].items() if every and int(step) % every == 0}


def test_without_a_record(reference: tuple[str, dict[str, Any]]) -> None:
    task, expected = reference
    outcome = run(recipe(task, record={"save": False}))
    assert outcome.weights_sha256 == expected["weights"]
    assert outcome.curves["train_loss"] == [float(loss) for loss in expected["losses"].values()]


def test_what_shapes_the_trajectory_does_move_it(reference: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    task, expected = reference
    for change in ({"optim": {"name": "adam", "lr": 0.0500001}}, {"seed": 4}, {"train": {"clip_norm": 0.01}}):
        assert trajectory(run(recipe(task, **change), out=tmp_path).run) != expected


def test_the_rows_of_metrics_follow_the_cadence(tmp_path: Path) -> None:
    outcome = run(recipe(train={"validate_every": "7 steps"}), out=tmp_path)
    assert outcome.run is not None
    with (Path(outcome.run) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [6, 7, 12, 14, 18]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 2, 3, 3]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True, True]  # always at the end
    losses = [float(loss) for loss in trajectory(outcome.run)["losses"].values()]
    assert float(rows[1]["train_loss"]) == losses[6]  # a row is about the steps since the one before it
