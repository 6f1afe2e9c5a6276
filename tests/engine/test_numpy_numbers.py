"""A number of NumPy's is a number wherever one may be given: arguments, recipes, metrics, counts, addresses, records."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import loopwright
from loopwright.config.schema import parse, plain
from loopwright.engine.hooks import Hook, every
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Sums
from loopwright.experiment import run
from loopwright.record.files import dumps
from loopwright.scalars import as_plain
from loopwright.streams import Streams
from support.tasks import Plain, recipe

X = torch.linspace(-1, 1, 60).reshape(20, 3)
Y = X.sum(1, keepdim=True)


def fit(out: Path, **more: Any) -> Any:
    given = {"epochs": 2, "batch_size": 8, "plots": "none", "record": {"code": False}, **more}
    return loopwright.fit(lambda: nn.Linear(3, 1), nn.MSELoss(), train=(X, Y), val=(X, Y), out=out, **given)


def test_arguments_of_fit(tmp_path: Path) -> None:
    python = {"epochs": 2, "batch_size": 8, "lr": 0.125, "seed": 1, "stop": {"patience": 2}, "clip_norm": 1.0}
    numpys = {
        "epochs": np.int64(2), "batch_size": np.int32(8), "lr": np.float64(0.125), "seed": np.uint8(1),
        "stop": {"patience": np.int64(2)}, "clip_norm": np.float32(1.0),
    }  # fmt: skip
    first = fit(tmp_path, **python)
    again = fit(tmp_path, **numpys, resume=True)
    assert again.run == first.run  # the same run, so nothing was trained
    assert fit(tmp_path / "b", **numpys).weights_sha256 == first.weights_sha256


def test_a_recipe() -> None:
    given = {
        "task": "regression",
        "seed": np.int64(3),
        "deterministic": np.bool_(True),
        "optim": {"name": "adam", "lr": np.float32(0.1), "betas": [np.float64(0.9), np.float64(0.99)]},
    }
    python = {
        "task": "regression",
        "seed": 3,
        "deterministic": True,
        "optim": {"name": "adam", "lr": 13421773 / 2**27, "betas": [0.9, 0.99]},  # the float32 nearest to 0.1
    }
    assert plain(parse(given)) == plain(parse(python))


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.longdouble])
def test_a_metric(kind: Any, tmp_path: Path) -> None:
    outcome = fit(tmp_path, test=(X, Y), metrics={"half": (lambda predicted, target: kind(0.5), "min")})
    assert outcome.best["val_half"] == 0.5 and type(outcome.test["best"]["half"]) is float
    with (Path(outcome.run) / "metrics.csv").open() as file:
        assert [float(row["val_half"]) for row in csv.DictReader(file)] == [0.5, 0.5]


class Counted(Plain):
    """Counts, sums, parts, facts and values of NumPy's, wherever a task may give numbers."""

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        for loss in super().losses(model, batch, at):
            parts = {"part": (np.float32(0.5) * loss.count, np.int64(loss.count))}
            yield Loss(loss.mean, np.int64(loss.count), parts)  # type: ignore[arg-type]

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        sums = super().measure(model, batch, at)
        return {name: (np.float64(float(total)), np.int64(count)) for name, (total, count) in sums.items()}  # type: ignore[misc]

    def checkpoint_values(self, history: Any, train_losses: Any) -> Mapping[str, Any]:
        return {"mine": [np.float32(0.5), {"n": np.int64(3)}]}

    def facts(self) -> Mapping[str, Any]:
        return {"facts.json": {"n": np.int64(3), "share": np.float32(0.5)}}


def test_what_a_task_gives(tmp_path: Path) -> None:
    wanted = recipe("Plain", train={"epochs": 2, "batch_size": 11})
    outcome, plain_one = (
        run(wanted, out=tmp_path / cls.__name__, task=cls(11, Streams(wanted.seed))) for cls in (Counted, Plain)
    )
    assert outcome.weights_sha256 == plain_one.weights_sha256
    assert outcome.best is not None and plain_one.best is not None and outcome.run is not None
    assert outcome.best["val_loss"] == plain_one.best["val_loss"]
    folder = Path(outcome.run)
    for table in ("steps.csv", "metrics.csv"):
        with (folder / table).open() as file:
            for row in csv.DictReader(file):
                assert float(row["part" if table == "steps.csv" else "train_part"]) == 0.5
                assert all(text == "" or float(text) is not None for text in row.values())
    saved = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    assert saved["mine"] == [0.5, {"n": 3}] and type(saved["mine"][0]) is float
    assert json.loads((folder / "task/facts.json").read_text()) == {"n": 3, "share": 0.5}


def test_addresses_and_frequencies() -> None:
    ours, theirs = Streams(3), Streams(np.int64(3))  # type: ignore[arg-type]
    assert ours.seed("order", 2) == theirs.seed("order", np.int64(2)) == theirs.seed(np.str_("order"), np.uint8(2))  # type: ignore[arg-type]
    assert ours.seed("a(b", 2) != ours.seed("a(b", 3)
    assert every(np.int64(3), Hook()).due(6) and not every(np.int64(3), Hook()).due(7)  # type: ignore[arg-type]


def test_json_and_plain_trees() -> None:
    tree = {"a": [np.float32(0.5), np.float64("nan")], "b": (np.bool_(True), np.int8(-3)), "c": np.str_("x")}
    assert json.loads(dumps(tree)) == {"a": [0.5, "nan"], "b": [True, -3], "c": "x"}
    found = as_plain(tree)
    assert [type(v) for v in (*found["a"], *found["b"], found["c"])] == [float, float, bool, int, str]
