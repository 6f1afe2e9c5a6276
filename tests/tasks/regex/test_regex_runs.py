"""The shipped experiments: they train, overfit to the ceiling, and two runs with one seed leave the same files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwright.building import build
from loopwright.config.compose import compose
from loopwright.evaluation import evaluate_run
from loopwright.experiment import run
from loopwright.tasks.overfit import Overfit
from loopwright.tasks.regex.ceiling import best_token_accuracy
from loopwright.tasks.regex.fsm import read_fsm
from support.compare import assert_same

SHIPPED = ["regex_a_plus", "regex_a_star_b_star", "regex_ab_star_c"]
QUIET = ("plots=none", "record.code=false", "device=cpu")
TINY = (*QUIET, "task.data.samples=300", "model.d_model=16", "train.epochs=2")


@pytest.mark.parametrize("experiment", SHIPPED)
def test_a_shipped_experiment_records_what_it_is_about(experiment: str, tmp_path: Path) -> None:
    recipe = compose([f"experiment={experiment}", *TINY]).recipe
    assert (recipe.optim.name, recipe.optim.lr, recipe.train.batch_size, recipe.stop.patience) == ("adamw", 1e-3, 32, 5)
    assert recipe.train.clip_norm == 1.0 and 10 <= compose([f"experiment={experiment}"]).recipe.train.epochs <= 50
    outcome = run(recipe, out=tmp_path)
    path = Path(str(outcome.run))
    with (path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    wanted = ["train_next", "train_class", "train_token_accuracy", "train_class_accuracy", "train_grad_norm"]
    assert {*wanted, "train_grad_norm_max", "val_nll", "val_perplexity", "val_acceptance_accuracy"} <= set(rows[0])
    for row in rows:
        # The epoch's loss is that of its parts: both masks count the same places in every batch of this task.
        assert float(row["train_loss"]) == pytest.approx(float(row["train_next"]) + float(row["train_class"]), rel=1e-5)
        assert float(row["val_loss"]) == pytest.approx(float(row["val_next"]) + float(row["val_class"]), rel=1e-12)
        assert float(row["val_perplexity"]) == pytest.approx(math.exp(float(row["val_nll"])))
    with (path / "steps.csv").open() as file:
        steps = list(csv.DictReader(file))
    names = ["step", "epoch", "loss", "next", "class", "token_accuracy", "class_accuracy", "lr", "grad_norm"]
    assert list(steps[0]) == names
    assert sorted(file.name for file in (path / "task").iterdir()) == ["corpus.json", "fsm.json", "vocabulary.json"]
    fsm = read_fsm(path / "task" / "fsm.json")
    assert dict(fsm.patterns) == {recipe.task.pattern: "accept"}  # type: ignore[attr-defined]
    result = json.loads((path / "result.json").read_text())
    assert {"token_accuracy_len_1_5", "token_accuracy_len_16_20"} <= set(result["test"]["best"])
    assert set(result["test"]["best"]) == set(result["test"]["last"])
    again = evaluate_run(path, "test", "best")
    assert dict(again.metrics) == pytest.approx(result["test"]["best"])
    assert any("a table by state and position, counted on train, gets" in line for line in again.remarks)
    written = [f"test_best_{name}" for name in ("metrics.json", "examples.csv", "views.npz")]
    assert [Path(file).name for file in again.files] == written


def test_two_runs_with_one_seed_leave_the_same_files(tmp_path: Path) -> None:
    recipe = compose(
        [
            "experiment=regex_ab_star_c",
            *TINY,
            "task.loss.lambda_state=0.5",
            "model.embedding_rank=2",
            "task.loss.l1_u=0.01",
        ]
    ).recipe
    first = run(recipe, out=tmp_path)
    np.random.rand(3), torch.rand(2)
    second = run(recipe, out=tmp_path)
    assert_same(first.run, second.run, sessions=True)


def test_another_seed_trains_otherwise_on_the_same_strings(tmp_path: Path) -> None:
    overrides = ["experiment=regex_a_plus", *TINY, "train.epochs=1"]
    first, second = (Path(str(run(compose([*overrides, f"seed={s}"]).recipe, out=tmp_path).run)) for s in (1, 2))
    assert (first / "task" / "corpus.json").read_bytes() == (second / "task" / "corpus.json").read_bytes()
    assert (first / "steps.csv").read_bytes() != (second / "steps.csv").read_bytes()


@pytest.mark.parametrize(
    "experiment", [SHIPPED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SHIPPED[1:])]
)
def test_overfitting_sixteen_strings_reaches_their_ceiling(experiment: str) -> None:
    recipe = compose([f"experiment={experiment}", "train.overfit=16", *QUIET, "record.save=false"]).recipe
    outcome = run(recipe)
    task = build(recipe, torch.device("cpu")).task
    assert isinstance(task, Overfit)
    (batch,) = task.loader("val").epoch(0)  # type: ignore[union-attr]
    assert len(batch.tokens) == 16
    ceiling = best_token_accuracy(batch.tokens.numpy(), batch.lengths.numpy())
    assert 0.85 < ceiling < 0.95
    best = outcome.best
    assert best is not None
    assert ceiling - 0.005 * ceiling <= (best["val_token_accuracy"] or 0.0) <= ceiling + 1e-12
    assert (
        best["val_class_accuracy"] or 0.0
    ) > 0.95  # the best epoch is that of the tokens; one class of 98 may lag behind
    assert outcome.steps <= 1600
    assert outcome.remarks == (
        f"token_accuracy is {best['val_token_accuracy']:.4f}; the best that these 16 samples allow is {ceiling:.4f}",
    )


def test_training_learns_the_classes() -> None:
    outcome = run(compose(["experiment=regex_a_plus", *QUIET, "record.save=false", "train.epochs=6"]).recipe)
    assert outcome.test is not None
    assert outcome.test["last"]["acceptance_accuracy"] > 0.99  # type: ignore[index]
