"""R^2 and its like of several targets, against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor, nn

import loopwright
from loopwright.engine.task import At
from loopwright.errors import ConfigError
from loopwright.streams import Streams
from loopwright.tasks.regression import task as regression
from loopwright.tasks.regression.task import RegressionTask

Array = np.ndarray[Any, np.dtype[np.float64]]


def csv_of(path: Path, y_NO: Array, seed: int = 0) -> Path:
    """A table of two features and targets y1, y2, ..."""
    x = np.random.default_rng(seed).normal(size=(len(y_NO), 2))
    names = ["a", "b", *(f"y{k + 1}" for k in range(y_NO.shape[1]))]
    lines = [",".join(names), *(",".join(map(repr, row)) for row in np.hstack([x, y_NO]).tolist())]
    path.write_text("\n".join(lines) + "\n")
    return path


def made(path: Path, *more: str, targets: str = "[y1,y2]") -> tuple[Any, RegressionTask, nn.Module]:
    recipe = loopwright.compose(
        "task=regression", "task/data=csv", f"task.data.path={path}", f"task.data.target={targets}", *more
    )
    streams = Streams(0)
    task = recipe.task.build(recipe.model, batch_size=8, streams=streams, device=torch.device("cpu"))
    with streams.fork("weights"):
        return recipe, task, task.build_model()


class Near(nn.Module):
    """Predicts what it is told for the rows of the split that come, whatever their features."""

    def __init__(self, predicted: Tensor) -> None:
        super().__init__()
        self.predicted, self.at = predicted, 0

    def forward(self, x: Tensor, noise: Any = None) -> Tensor:
        self.at += len(x)
        return self.predicted[self.at - len(x) : self.at]


def measured(task: RegressionTask, predicted: Tensor) -> dict[str, float | None]:
    at = At(Streams(0), 1, 1, torch.device("cpu"))
    with torch.inference_mode():
        found = task.evaluate(Near(predicted), "val", at)
    assert found is not None
    return found


TARGETS = {
    "levels apart": lambda rng: np.stack([10 + rng.normal(size=300), rng.normal(size=300)], 1),
    "level of a million": lambda rng: 1e6 + rng.normal(size=(300, 2)) * [1.0, 30.0],
    "a million beside none": lambda rng: rng.normal(size=(300, 2)) + np.array([1e6, 0.0]),
    "three scales": lambda rng: rng.normal(size=(300, 3)) * [1e-6, 1.0, 1e6],
}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("batch", [1, 7, 4096])
def test_it_is_scikit_learns(tmp_path: Path, name: str, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    y_NO = TARGETS[name](rng)
    monkeypatch.setattr(regression, "_EVALUATION_BATCH", batch)
    names = [f"y{k + 1}" for k in range(y_NO.shape[1])]
    _, task, _ = made(csv_of(tmp_path / "t.csv", y_NO), "task.data.standardize=false", targets=f"[{','.join(names)}]")
    y = task.splits["val"][1]
    predicted = (y.double() + y.double().std(0) * torch.from_numpy(rng.normal(size=y.shape)) / 2).float()
    true, guess = y.double().numpy(), predicted.double().numpy()
    found = measured(task, predicted)
    # An error is the difference of two float32.
    each = r2_score(true, guess, multioutput="raw_values")
    assert found["r2"] == pytest.approx(r2_score(true, guess, multioutput="uniform_average"), rel=1e-7)
    assert [found[f"r2_{target}"] for target in names] == pytest.approx(each.tolist(), rel=1e-7)
    assert found["mae"] == pytest.approx(mean_absolute_error(true, guess), rel=1e-6)
    assert found["rmse"] == pytest.approx(mean_squared_error(true, guess) ** 0.5, rel=1e-7)
    assert found.keys() == task.metrics.keys()


def test_one_target_is_what_it_was_to_the_bit(tmp_path: Path) -> None:
    """The formula of one target, on its own: sums over all values, no shift."""
    rng = np.random.default_rng(2)
    _, task, _ = made(
        csv_of(tmp_path / "t.csv", 3 + rng.normal(size=(300, 1))), "task.data.standardize=false", targets="y1"
    )
    y = task.splits["val"][1]
    predicted = y + torch.from_numpy(rng.normal(size=y.shape)).float()
    found, n = measured(task, predicted), y.numel()
    squared = (predicted - y).double().square().sum().item() / n
    mean, mean_of_squares = y.double().sum().item() / n, y.double().square().sum().item() / n
    assert found["rmse"] == squared**0.5
    assert found["r2"] == 1 - squared / (mean_of_squares - mean * mean)
    assert found.keys() == {"loss", "mae", "rmse", "r2"} == task.metrics.keys()


@pytest.mark.parametrize("level", [0.1, 0.0, 1e6])
def test_a_constant_target_has_none_and_the_mean_is_that_of_the_others(tmp_path: Path, level: float) -> None:
    rng = np.random.default_rng(3)
    y_NO = np.stack([np.full(300, level), rng.normal(size=300)], 1)
    _, task, _ = made(csv_of(tmp_path / "t.csv", y_NO), "task.data.standardize=false")
    y = task.splits["val"][1]
    found = measured(task, y + 0.5)
    assert found["r2_y1"] is None
    assert found["r2"] == found["r2_y2"] == pytest.approx(r2_score(y[:, 1].numpy(), y[:, 1].numpy() + 0.5), rel=1e-6)
    _, task, _ = made(csv_of(tmp_path / "t.csv", y_NO[:, :1]), "task.data.standardize=false", targets="y1")
    assert measured(task, task.splits["val"][1] + 0.5)["r2"] is None


def test_a_target_that_is_constant_in_the_measured_split_alone(tmp_path: Path) -> None:
    y_NO = np.random.default_rng(4).normal(size=(300, 2))
    _, task, _ = made(csv_of(tmp_path / "t.csv", y_NO), "task.data.standardize=false")
    task.splits["val"][1][:, 0] = 0.1
    y = task.splits["val"][1]
    assert measured(task, y + 0.5)["r2_y1"] is None and measured(task, y)["r2_y2"] == 1.0


def test_a_target_can_be_followed_and_is_in_the_record(tmp_path: Path) -> None:
    """Two targets of noise about other levels: about 0 for each, where one mean of both would give 0.97."""
    rng = np.random.default_rng(5)
    path = csv_of(tmp_path / "t.csv", rng.normal(size=(400, 2)) + np.array([10.0, 0.0]))
    outcome = loopwright.train(
        "task=regression", "task/data=csv", f"task.data.path={path}", "task.data.target=[y1,y2]", "model.hidden=[]",
        "train.epochs=3", "stop.monitor=r2_y1", "stop.gate={r2_y2: -99}", "stop.hold=3", "plots=none", "device=cpu",
        out=tmp_path / "runs",
    )  # fmt: skip
    assert not isinstance(outcome, list) and outcome.best is not None and outcome.test is not None
    assert (outcome.monitor, outcome.mode) == ("val_r2_y1", "max")
    for row, prefix in ((outcome.best, "val_"), (outcome.test["best"], "")):
        y1, y2, both = (row[f"{prefix}{name}"] for name in ("r2_y1", "r2_y2", "r2"))
        assert both == pytest.approx((y1 + y2) / 2, rel=1e-12) and both < 0.2
    header = (Path(outcome.run or "") / "metrics.csv").read_text().splitlines()[0].split(",")
    assert [name for name in header if "r2" in name] == ["val_r2", "val_r2_y1", "val_r2_y2"]
    assert {"r2", "r2_y1", "r2_y2"} <= json.loads((Path(outcome.run or "") / "result.json").read_text())[
        "curves"
    ].keys()


def test_names_are_those_of_several_real_targets_only(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "t.csv", np.random.default_rng(6).integers(0, 2, size=(40, 2)).astype(float))
    with pytest.raises(
        ConfigError, match="the task measures: val_loss, val_mae, val_rmse, val_r2, val_r2_y1, val_r2_y2"
    ):
        made(path, "stop.monitor=r2_y3")
    recipe, task, model = made(path, "task.loss=bce_with_logits")
    assert {*recipe.task.metrics()} == {"loss", "accuracy"}
    found = task.evaluate(model, "val", At(Streams(0), 1, 1, torch.device("cpu")))
    assert found is not None and {*found} == {"loss", "accuracy"}
    assert {*made(path, targets="[y1]")[0].task.metrics()} == {"loss", "mae", "rmse", "r2"}
