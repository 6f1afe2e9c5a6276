"""What tasks show of a trained model: the arrays that figures are drawn from, in the units of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loopwright.config.registry import lookup
from loopwright.engine.evaluate import evaluate
from loopwright.engine.task import Task
from loopwright.hooks.views import NUM_SAMPLES, views
from loopwright.models.base import SequenceModel, TokenModel
from loopwright.streams import Streams
from loopwright.tasks.confusion import confusion
from loopwright.tasks.overfit import Overfit
from loopwright.tasks.set_prediction.chance import LEVEL, chance_interval, chance_table

STREAMS, CPU = Streams(7), torch.device("cpu")


def build(task: str, model: Any = "mlp", **tree: Any) -> Task:
    config = lookup("task", task)(**tree)
    shape = lookup("model", model)() if isinstance(model, str) else model
    built = config.build(shape, batch_size=32, streams=STREAMS, device=CPU)  # type: ignore[attr-defined]
    assert isinstance(built, Task)
    return built


def model_of(task: Task) -> nn.Module:
    with Streams(1).fork("weights"):
        return task.build_model()


def shown(task: Task, model: nn.Module, split: Any = "test") -> dict[str, Tensor]:
    return dict(views(task, model, split, STREAMS, step=1, epoch=1))


def measured(task: Task, model: nn.Module, split: Any = "test") -> dict[str, float | None]:
    found = evaluate(task, model, split, STREAMS, step=1, epoch=1, device=CPU)
    assert found is not None
    return found


def test_regression_in_the_units_of_the_data() -> None:
    data = lookup("task/data", "diabetes")()
    table = data.load()  # type: ignore[attr-defined]
    task = build("regression", data=data)
    model = model_of(task)
    found = shown(task, model)
    assert {name: tuple(array.shape) for name, array in found.items()} == {
        "x": (67, 10),
        "y": (67, 1),
        "predicted": (67, 1),
    }
    rows = torch.cat([found["x"], found["y"]], dim=1).double().numpy()
    distances = np.abs(rows[:, None] - np.hstack([table.x, table.y])[None]).max(axis=2)
    assert distances.min(axis=1).max() < 1e-4
    # On the whole split, so the errors are those of the metrics, in standard deviations of the target.
    error = (found["predicted"] - found["y"]).double() / task.scale["y"]["std"][0]  # type: ignore[attr-defined]
    metrics = measured(task, model)
    assert float(error.square().mean().sqrt()) == pytest.approx(metrics["rmse"], rel=1e-4)
    assert float(error.abs().mean()) == pytest.approx(metrics["mae"], rel=1e-4)


def test_regression_without_standardization_is_left_as_it_is() -> None:
    task = build("regression", data=lookup("task/data", "wave")(rows=3000))
    model = model_of(task)
    found = shown(task, model, "val")
    x, y = next(task.loader("val").epoch(0))  # type: ignore[union-attr]
    assert torch.equal(found["x"], x[:NUM_SAMPLES]) and torch.equal(found["y"], y[:NUM_SAMPLES])
    assert len(x) > NUM_SAMPLES and torch.equal(found["predicted"], model(found["x"]))
    assert shown(task, model, "test") == {}


def test_binary_regression_counts_its_classes() -> None:
    task = build("regression", data=lookup("task/data", "linear")(rows=400, target="binary"), loss="bce_with_logits")
    model = model_of(task)
    found = shown(task, model)
    counts = found["class_confusion"]
    assert list(found) == ["class_confusion"] and counts.shape == (2, 2) and int(counts.sum()) == 60
    assert float(counts.diagonal().sum()) / 60 == pytest.approx(measured(task, model)["accuracy"])
    assert counts[1].sum() == task.loader("test").tensors[1].sum()  # type: ignore[union-attr]


def _table(tmp_path: Path, **columns: Any) -> str:
    path = tmp_path / "table.csv"
    names = list(columns)
    rows = zip(*columns.values(), strict=True)
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


@pytest.mark.parametrize(("num_classes", "drawn"), [(3, True), (64, True), (65, False)])
def test_few_classes_are_counted_and_many_are_not(tmp_path: Path, num_classes: int, drawn: bool) -> None:
    y = np.arange(200) % num_classes
    path = _table(tmp_path, x=np.arange(200) / 10, y=y)
    data = lookup("task/data", "csv")(path=path, target="y")
    task = build("regression", data=data, loss="cross_entropy")
    model = model_of(task)
    found = shown(task, model)
    assert list(found) == (["class_confusion"] if drawn else [])
    if drawn:
        counts = found["class_confusion"]
        assert counts.shape == (num_classes, num_classes)
        truth = task.loader("test").tensors[1]  # type: ignore[union-attr]
        assert counts.sum(1).tolist() == torch.bincount(truth, minlength=num_classes).tolist()
        assert float(counts.diagonal().sum() / counts.sum()) == pytest.approx(measured(task, model)["accuracy"])


def test_several_binary_questions_are_no_classes(tmp_path: Path) -> None:
    path = _table(tmp_path, x=np.arange(60), a=np.arange(60) % 2, b=np.arange(60) // 7 % 2)
    data = lookup("task/data", "csv")(path=path, target=("a", "b"))
    task = build("regression", data=data, loss="bce_with_logits")
    assert shown(task, model_of(task)) == {}


def test_confusion_by_hand() -> None:
    true, predicted = torch.tensor([0, 0, 2, 1, 2, 2]), torch.tensor([0, 1, 2, 1, 0, 2])
    assert confusion(true, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert confusion(true[:0], predicted[:0], 2).tolist() == [[0, 0], [0, 0]]


class LastConfig(SequenceModel):
    def build(self, num_features: int, window: int) -> nn.Module:
        class Last(nn.Module):
            def forward(self, x: Tensor, noise: Any = None) -> Tensor:
                return 4 * x[:, -1] - 2

        return Last()


def test_set_prediction_shows_probabilities_beside_what_came() -> None:
    task = build("set_prediction", LastConfig(), data={"synthetic": {"rows": 4000}})
    found = shown(task, model_of(task))
    x, y = next(task.loader("test").epoch(0))  # type: ignore[union-attr]
    assert len(y) > NUM_SAMPLES and found["probability"].shape == (NUM_SAMPLES, 39)
    assert torch.equal(found["target"], y[:NUM_SAMPLES])
    expected = torch.where(x[:NUM_SAMPLES, -1] > 0, 1 / (1 + np.exp(-2.0)), 1 / (1 + np.exp(2.0)))
    assert torch.allclose(found["probability"], expected.float())


def test_the_record_keeps_the_interval_of_chance_of_every_split() -> None:
    task = build("set_prediction", LastConfig(), data={"synthetic": {"rows": 400}})
    facts = json.loads(json.dumps(task.facts()))
    assert set(facts["chance.json"]) == {"level", "train", "val", "test"} and facts["chance.json"]["level"] == LEVEL
    for split, dates in facts["splits.json"].items():
        kept = facts["chance.json"][split]
        assert set(kept) == set(task.metrics) - {"loss"}
        for name, interval in kept.items():
            assert tuple(interval.values()) == chance_interval(name, dates["count"])
            assert list(interval) == ["low", "mean", "high"]
    wide, narrow = (chance_table(["mrr"], {"val": n})["val"]["mrr"] for n in (10, 1000))
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])


def test_regex_counts_every_state_and_keeps_a_few_maps() -> None:
    task = build("regex", "transformer", data={"samples": 1200})
    model = model_of(task)
    found = shown(task, model)
    batch = next(task.loader("test").head(NUM_SAMPLES).epoch(0))  # type: ignore[union-attr]
    counts = found["class_confusion"]
    num_classes = len(task.fsm.classes)  # type: ignore[attr-defined]
    assert counts.shape == (num_classes, num_classes) and int(counts.sum()) == int(batch.num_state.sum())
    truth = batch.classes[batch.state_mask]
    assert counts.sum(1).tolist() == torch.bincount(truth, minlength=num_classes).tolist()
    accuracy = float(counts.diagonal().sum()) / float(counts.sum())
    assert accuracy == pytest.approx(measured(task, model)["class_accuracy"])
    assert {"tokens", "attention.0", "value.0", "residual.0", "residual.1"} <= set(found)
    assert torch.equal(found["tokens"], batch.tokens[:4]) and found["attention.0"].shape[:2] == (4, 4)
    assert len(shown(Overfit(task, 3), model, "val")["tokens"]) == 3


class FlatConfig(TokenModel):
    def build(self, vocab_size: int, max_length: int, heads: Any) -> nn.Module:
        class Flat(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.into = nn.Embedding(vocab_size, 8)
                self.out = nn.ModuleDict({head: nn.Linear(8, size) for head, size in heads.items()})

            def forward(self, tokens: Tensor, noise: Any = None) -> dict[str, Tensor]:
                x = self.into(tokens)
                return {head: out(x) for head, out in self.out.items()}

        return Flat()


def test_regex_without_attention_has_no_maps() -> None:
    task = build("regex", FlatConfig(), data={"samples": 300})
    assert list(shown(task, model_of(task))) == ["class_confusion"]
