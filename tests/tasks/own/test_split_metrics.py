"""Metrics of the user's own are those of the whole split, however its batches are cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics as sklearn_metrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAUROC, BinaryF1Score, MulticlassRecall

import loopwright
from loopwright import ConfigError, Outcome, whole_split
from loopwright.engine.state import snapshot
from loopwright.record.checkpoint import check_plain
from loopwright.record.read import read_json
from loopwright.tasks.measures import TrainMeter, columns, join
from support.compare import assert_same
from support.interruptions import Signal

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(47, 4, generator=DRAW)
Y = X.sum(1, keepdim=True) + torch.randn(47, 1, generator=DRAW)
Y[40:] *= 10
LABELS = (X[:, 0] + torch.randn(47, generator=DRAW) > 0.8).long()
CLASSES = (X[:, 0] > 0.4).long() + (X[:, 1] > 0.6).long()
MEMORY: dict[str, Any] = {"record": {"save": False}}
QUIET: dict[str, Any] = {"plots": "none", "device": "cpu"}
SIZES = [3, 10, 47]


def linear(outputs: int = 1) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(4, outputs)


def scorer() -> nn.Module:
    """Probabilities: torchmetrics takes whatever leaves [0, 1] for logits, batch by batch."""
    return nn.Sequential(linear(), nn.Flatten(0), nn.Sigmoid())


def squares(predicted: Tensor, target: Tensor) -> Tensor:
    return ((predicted - target) ** 2).mean()


def binary(predicted: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy(predicted, target.float())


def batches(*tensors: Tensor, size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=size)


def fit(model: nn.Module, loss: Any, target: Tensor, size: int, metrics: Any, **given: Any) -> Outcome:
    given = {"epochs": 1, **QUIET, **MEMORY, **given}
    return loopwright.fit(model, loss, train=(X, target), val=batches(X, target, size=size), metrics=metrics, **given)


def last(outcome: Outcome, name: str) -> float:
    assert outcome.last is not None
    value = outcome.last[name]
    assert value is not None
    return value


def rmse(predicted: Tensor, target: Tensor) -> Tensor:
    return ((predicted - target) ** 2).mean().sqrt()


def within(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).abs() < 1


def f1(predicted: Tensor, target: Tensor) -> float:
    return float(sklearn_metrics.f1_score(target, predicted > 0.5))


def auroc(predicted: Tensor, target: Tensor) -> float:
    return float(sklearn_metrics.roc_auc_score(target, predicted))


@pytest.mark.parametrize("size", SIZES)
def test_functions_are_averaged_by_sample_or_called_with_the_whole_split(size: int) -> None:
    model = linear()
    given = {
        "rmse": (rmse, "min"),
        "within": (within, "max"),
        "marked": whole_split(rmse),
        "worst": lambda p, t: (p - t).abs().max().item(),
        "numpy": lambda p, t: np.abs(p.numpy() - t.numpy())[:, 0],
    }
    outcome = fit(model, squares, Y, size, given)
    predicted, target = model(X).detach().numpy(), Y.numpy()
    error = np.abs(predicted - target)
    right = math.sqrt(sklearn_metrics.mean_squared_error(target, predicted))
    assert last(outcome, "val_rmse") == pytest.approx(right, rel=1e-6) == pytest.approx(last(outcome, "val_marked"))
    assert last(outcome, "val_within") == pytest.approx((error < 1).mean(), rel=1e-12)
    assert last(outcome, "val_worst") == pytest.approx(error.max(), rel=1e-6)
    assert last(outcome, "val_numpy") == pytest.approx(error.mean(), rel=1e-6)
    assert outcome.last is not None
    assert [name for name in outcome.last if name.startswith("val_")] == [
        "val_loss",
        *(f"val_{name}" for name in given),
    ]


@pytest.mark.parametrize("size", SIZES)
def test_scores_that_are_no_means(size: int) -> None:
    """A batch of three has often one class, of which sklearn has no AUROC and a mean over batches would be nonsense."""
    model = scorer()
    given: Any = {
        "f1": f1,
        "auroc": auroc,
        "area": (BinaryAUROC(), "max"),
        "both": torchmetrics.MetricCollection([BinaryAUROC(), BinaryF1Score()]),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *given, **more: None)
        outcome = fit(model, binary, LABELS, size, given)
    score, label = model(X).detach().numpy(), LABELS.numpy()
    area = sklearn_metrics.roc_auc_score(label, score)
    for name in ("auroc", "area", "both_BinaryAUROC"):
        assert last(outcome, f"val_{name}") == pytest.approx(area, rel=1e-6), name
    for name in ("f1", "both_BinaryF1Score"):
        assert last(outcome, f"val_{name}") == pytest.approx(sklearn_metrics.f1_score(label, score > 0.5), rel=1e-6), (
            name
        )


def test_a_vector_has_a_column_for_each_entry(tmp_path: Path) -> None:
    model = linear(3)
    outcome = fit(
        model,
        nn.CrossEntropyLoss(),
        CLASSES,
        10,
        {
            "recall": MulticlassRecall(3, average=None),
            "table": whole_split(lambda p, t: {"hits": (p.argmax(1) == t).sum(), "of": [len(t), t.sum()]}),
        },
        record={"code": False},
        out=tmp_path,
        epochs=3,
        validate_every="2 epochs",
    )
    predicted = model(X).argmax(1).numpy()
    right = sklearn_metrics.recall_score(CLASSES.numpy(), predicted, average=None)
    assert [last(outcome, f"val_recall_{k}") for k in range(3)] == pytest.approx(right, rel=1e-6)
    assert last(outcome, "val_table_hits") == (predicted == CLASSES.numpy()).sum()
    assert (last(outcome, "val_table_of_0"), last(outcome, "val_table_of_1")) == (47, float(CLASSES.sum()))
    header, *rows = (Path(outcome.run or "") / "metrics.csv").read_text().splitlines()
    assert "val_recall_2" in header.split(",") and len(rows) == 3
    place = header.split(",").index("val_recall_2")
    assert rows[0].split(",")[place] == "" != rows[2].split(",")[place]


def test_what_a_metric_says_of_its_direction_is_believed() -> None:
    given: Any = {"area": BinaryAUROC()}
    outcome = fit(scorer(), binary, LABELS, 10, given, stop={"monitor": "area"}, epochs=3)
    assert (outcome.monitor, outcome.mode) == ("val_area", "max")
    assert outcome.best is not None
    assert outcome.best["val_area"] == max(v for v in outcome.curves["area"] if v is not None)
    collection = torchmetrics.MetricCollection([BinaryAUROC(), BinaryF1Score()])
    for metrics, monitor in ((collection, "BinaryF1Score"), ({"c": collection}, "c_BinaryF1Score")):
        outcome = fit(scorer(), binary, LABELS, 10, metrics, stop={"monitor": monitor})
        assert (outcome.monitor, outcome.mode) == (f"val_{monitor}", "max")
    with pytest.raises(ConfigError, match=r"`stop.monitor` is your metric 'rmse'; say which way is better"):
        fit(linear(), squares, Y, 10, {"rmse": rmse}, stop={"monitor": "rmse"})
    outcome = fit(linear(), squares, Y, 10, {"rmse": rmse}, stop={"monitor": "rmse", "mode": "max"}, epochs=3)
    assert outcome.best is not None and outcome.best["val_rmse"] == max(outcome.curves["rmse"])  # type: ignore[type-var]


def test_the_callers_objects_are_left_alone() -> None:
    area = BinaryAUROC()
    area.update(torch.tensor([0.2, 0.7]), torch.tensor([0, 1]))
    model = scorer()
    fit(model, binary, LABELS, 10, {"area": area}, train_metrics={"area": area})
    assert len(area.preds) == 1 and float(area.compute()) == 1.0
    assert all("preds" not in name for name in model.state_dict())


class Lengths(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Any:
        n = 1 + index % 4
        return X[index, :1].repeat(n, 1), Y[index].repeat(n, 1)


def padded(batch: list[Any]) -> Any:
    return tuple(nn.utils.rnn.pad_sequence(list(one), batch_first=True) for one in zip(*batch, strict=True))


def test_where_lengths_differ_lists_are_given() -> None:
    seen: list[Any] = []

    def keep(predicted: Any, target: Any) -> int:
        seen.append((predicted, target))
        return len(predicted)

    def number(predicted: Any, target: Any) -> float:
        return float(predicted.sum() / target.abs().max())

    val = DataLoader(Lengths(), batch_size=2, collate_fn=padded)
    model = nn.Linear(1, 1)
    outcome = loopwright.fit(
        model, squares, train=val, val=val, epochs=1, metrics={"n": whole_split(keep)}, **QUIET, **MEMORY
    )
    assert last(outcome, "val_n") == 9
    _, target = seen[-1]
    assert [len(one) for one in target] == [2, 2, 4, 4, 2, 2, 4, 4, 1]
    assert torch.equal(torch.stack([one[0] for one in target]), Y[:9])
    with pytest.raises(ConfigError, match=r"'number' returns one number .*\(2, 2, 1\), \(2, 4, 1\)\); mark it with"):
        loopwright.fit(model, squares, train=val, val=val, epochs=1, metrics={"number": number}, **QUIET, **MEMORY)


def test_what_is_put_together() -> None:
    a, b = torch.zeros(2, 3), torch.ones(1, 3)
    assert torch.equal(join([a, b], [2, 1]), torch.cat([a, b]))
    assert [len(one) for one in join([a, torch.ones(1, 5)], [2, 1])] == [3, 3, 5]
    assert join([a, b], [3, 3]) == [a, b] == join([a, b], [None, None])  # no samples first: a list of batches
    both = join([(a, {"x": a[:, 0]}), (b, {"x": b[:, 0]})], [2, 1])
    assert both[0].shape == (3, 3) and both[1]["x"].shape == (3,)
    boxes = [[torch.zeros(4, 1), torch.zeros(1, 1)], [torch.ones(2, 1)]]
    assert [len(one) for one in join(boxes, [2, 1])] == [4, 1, 2]  # a list with an entry per sample
    heads = join([[a, a], [b, b]], [2, 1])
    assert len(heads) == 2 and heads[0].shape == (3, 3)  # a list of two outputs
    odd = [object(), object()]
    assert join(odd, [2, 1]) == odd


def test_columns_of_values() -> None:
    assert columns("m", torch.tensor(2.5)) == {"m": 2.5} == columns("m", [2.5]) == columns("m", np.float32(2.5))
    assert columns("m", [[1, 2], [3, 4]]) == {"m_0_0": 1.0, "m_0_1": 2.0, "m_1_0": 3.0, "m_1_1": 4.0}
    assert columns("m", {"a": 1, "b": torch.tensor([True, False])}) == {"m_a": 1.0, "m_b_0": 1.0, "m_b_1": 0.0}
    with pytest.raises(ConfigError, match="`metrics` 'm' returned 'high'; it should return numbers"):
        columns("m", "high")
    with pytest.raises(ConfigError, match="more than 1,000 columns"):
        columns("m", torch.zeros(40, 40))


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"classes": lambda p, t: torch.zeros(7)}, r"a tensor of shape \(7,\), and the batch has 10 samples"),
        ({"loss": rmse}, "'loss', which is a column already"),
        ({"m": (rmse, "up")}, "the direction 'up'; it should be 'min' or 'max'"),
        ({"m": BinaryAUROC}, "it should be a function of .prediction, target., or an object"),
        ({"m": "accuracy"}, "it should be a function"),
        ({"m": lambda p, t: p[99]}, "index 99 is out of bounds"),
        ({"m": lambda p, t: None}, "returned None; a `return` may be missing"),
        ({"m": lambda p, t: [[1.0], [2.0, 3.0]]}, "it should return numbers"),
    ],
)
def test_what_is_no_metric_is_refused(metrics: Any, message: str) -> None:
    with pytest.raises((ConfigError, IndexError), match=message):
        fit(linear(), squares, Y, 10, metrics)


# --- measured as the training goes ---


def stream(size: int) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, LABELS), batch_size=size, shuffle=True)


def hits(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted > 0.5) == target.bool()


class Keep(nn.Module):
    """Remembers what it has predicted in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = scorer()
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        predicted: Tensor = self.linear(x)
        if self.training:
            self.seen.append(torch.stack([x[:, 0], predicted.detach()], 1))
        return predicted


@pytest.mark.parametrize("accumulate", [1, 3])
def test_training_metrics_are_of_what_training_predicted(accumulate: int) -> None:
    model = Keep()
    given: Any = {"hits": hits, "area": BinaryAUROC(), "both": torchmetrics.MetricCollection([BinaryF1Score()])}
    outcome = loopwright.fit(
        model, binary, train=stream(10), epochs=2, lr=0.1, train_metrics=given, accumulate=accumulate, **QUIET, **MEMORY
    )
    seen = torch.cat(model.seen)[47:]
    label = LABELS[[int((X[:, 0] == one).nonzero()) for one in seen[:, 0]]].numpy()
    score = seen[:, 1].numpy()
    assert last(outcome, "train_hits") == pytest.approx(((score > 0.5) == label).mean())
    assert last(outcome, "train_area") == pytest.approx(sklearn_metrics.roc_auc_score(label, score), rel=1e-6)
    assert last(outcome, "train_both_BinaryF1Score") == pytest.approx(sklearn_metrics.f1_score(label, score > 0.5))


def test_training_metrics_are_exact_over_a_resume(tmp_path: Path) -> None:
    def run(out: Path, **given: Any) -> Outcome:
        return loopwright.fit(
            scorer, binary, train=stream(10), val=(X, LABELS), epochs=2, lr=0.1, name="t", out=out,
            metrics={"area": BinaryAUROC()}, record={"code": False, "checkpoint_every": "2 steps"},
            train_metrics={"area": BinaryAUROC(), "hits": hits, "f1": BinaryF1Score()}, **QUIET, **given,
        )  # fmt: skip

    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "stopped", hooks=[Signal(7)])
    assert stopped.status == "interrupted" and stopped.steps == 7
    ended = run(tmp_path / "stopped", resume=True)
    assert ended.run == stopped.run and ended.last is not None and ended.last["train_area"] is not None
    assert_same(whole.run, ended.run)
    arguments = (read_json(Path(whole.run or "") / "task" / "arguments.json") or {})["arguments"]
    assert {"train_metrics.area", "train_metrics.hits", "metrics.area"} <= arguments.keys()


def changed(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def test_metrics_of_every_kind_are_of_the_identity(tmp_path: Path) -> None:
    def run(**given: Any) -> str | None:
        return loopwright.fit(
            scorer, binary, train=(X, LABELS), val=(X, LABELS), epochs=1, name="t", out=tmp_path, resume=True,
            record={"code": False}, **QUIET, **given,
        ).run  # fmt: skip

    base = {
        "metrics": {"a": BinaryAUROC(), "w": whole_split(f1)},
        "train_metrics": {"h": hits},
        "count": lambda batch: len(batch[0]),
    }
    first = run(**base)
    assert run(**base) == first
    others = [
        {**base, "metrics": {"a": BinaryAUROC(max_fpr=0.5), "w": whole_split(f1)}},
        {**base, "metrics": {"a": BinaryAUROC(), "w": whole_split(auroc)}},
        {**base, "train_metrics": {"h": lambda p, t: p * 0}},
        {**base, "count": lambda batch: len(batch[1])},
    ]
    assert len({first, *(run(**one) for one in others)}) == 5


def test_what_wants_the_whole_split_is_refused_in_training() -> None:
    for metric, message in (
        (whole_split(rmse), "'m', which wants the whole split; while training there is none"),
        (rmse, "'m' returned one number for a batch, which is no mean over the split"),
    ):
        with pytest.raises(ConfigError, match=message):
            loopwright.fit(linear(), squares, train=(X, Y), train_metrics={"m": metric}, epochs=1, **QUIET, **MEMORY)


WRAPPED: dict[str, Callable[[], Any]] = {
    "several outputs": lambda: torchmetrics.MultioutputWrapper(torchmetrics.MeanSquaredError(), 1),
    "bootstrap": lambda: torchmetrics.BootStrapper(torchmetrics.MeanSquaredError(), num_bootstraps=3),
    "lowest and highest": lambda: torchmetrics.MinMaxMetric(torchmetrics.MeanSquaredError()),
    "running": lambda: torchmetrics.wrappers.Running(torchmetrics.MeanSquaredError(), window=2),
    "lists": lambda: torchmetrics.SpearmanCorrCoef(),
    "means": lambda: torchmetrics.R2Score(),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_state_of_any_metric_comes_back(kind: str) -> None:
    batches = [torch.randn(2, 9, 1, generator=torch.Generator().manual_seed(n)) for n in range(4)]
    flat = kind in ("lists", "means")

    def update(meter: TrainMeter, batch: Tensor) -> None:
        torch.manual_seed(1)
        meter.update(*(batch.flatten(1) if flat else batch))

    whole, begun, ended = (TrainMeter("m", WRAPPED[kind](), torch.device("cpu")) for _ in range(3))
    for batch in batches:
        update(whole, batch)
    for batch in batches[:2]:
        update(begun, batch)
    if kind == "lowest and highest":
        begun.compute(), whole.compute()
    kept = snapshot(begun.state_dict())
    check_plain(kept)
    ended.load_state_dict(kept)
    for batch in batches[2:]:
        update(begun, batch), update(ended, batch)
    assert ended.compute() == begun.compute() != {}
    if kind != "lowest and highest":
        assert ended.compute() == whole.compute()


def test_an_object_whose_state_cannot_be_kept_is_refused_in_training() -> None:
    class Own:
        def update(self, predicted: Tensor, target: Tensor) -> None: ...
        def compute(self) -> float:
            return 1.0

        def reset(self) -> None: ...

    assert last(fit(linear(), squares, Y, 10, {"own": Own()}), "val_own") == 1.0
    with pytest.raises(ConfigError, match="'own', whose state no checkpoint can hold"):
        loopwright.fit(linear(), squares, train=(X, Y), train_metrics={"own": Own()}, epochs=1, **QUIET, **MEMORY)


def test_sums_of_half_precision_have_room() -> None:
    """40 times 3000 is more than a float16 can hold; so is the square error times the samples."""
    V = torch.randn(4096, 4, generator=DRAW).half()
    W = V.sum(1, keepdim=True) * 30
    large: Any = {"large": lambda p, t: torch.full((len(p),), 3000.0, dtype=torch.half)}
    outcome = loopwright.fit(
        linear().half(), nn.MSELoss(), train=(V, W), val=(V, W), epochs=1, optimizer="sgd", lr=1e-12,
        batch_size=1024, metrics=large, train_metrics=large, **QUIET, **MEMORY,
    )  # fmt: skip
    assert last(outcome, "val_large") == last(outcome, "train_large") == 3000.0
    with torch.no_grad():
        right = float(((linear().half()(V) - W).double() ** 2).mean())
    assert last(outcome, "val_loss") == pytest.approx(right, rel=1e-2)


def test_lists_of_samples_and_lists_of_outputs_are_not_confused() -> None:
    boxes = [[torch.zeros(2, 1)] * 2, [torch.zeros(2, 1)] * 2]
    with pytest.raises(ConfigError, match="an entry per sample, or several outputs; let several outputs be a tuple"):
        join(boxes, [2, 2])
    assert len(join([*boxes, [torch.zeros(2, 1)] * 3], [2, 2, 3])) == 7


def test_columns_that_meet_are_refused() -> None:
    pair = whole_split(lambda p, t: [7.0, 8.0])
    with pytest.raises(ConfigError, match="`metrics` 'm' has the column 'm_0', as another one has"):
        fit(linear(), squares, Y, 10, {"m_0": rmse, "m": pair})


def test_a_column_of_several_can_be_followed_and_their_metric_cannot() -> None:
    recall = MulticlassRecall(3, average=None)
    given: Any = {"epochs": 3, "stop": {"monitor": "recall_1"}}
    outcome = fit(linear(3), nn.CrossEntropyLoss(), CLASSES, 10, {"recall": recall}, **given)
    assert (outcome.monitor, outcome.mode) == ("val_recall_1", "max") and outcome.best is not None
    with pytest.raises(
        ConfigError, match=r"'val_recall', which the evaluation did not give: it gave val_loss, val_recall_0"
    ):
        fit(linear(3), nn.CrossEntropyLoss(), CLASSES, 10, {"recall": recall}, stop={"monitor": "recall"})


def test_a_squeezed_value_of_the_only_sample_of_a_batch_is_one_of_a_sample() -> None:
    def error(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted.squeeze() - target.squeeze()).abs()

    model = linear()
    outcome = fit(model, squares, Y, 23, {"e": error}, batch_size=23, train_metrics={"e": error})
    assert last(outcome, "val_e") == pytest.approx(float((model(X) - Y).detach().abs().mean()), rel=1e-6)


def test_what_a_training_metric_draws_shifts_nothing() -> None:
    def weights(**given: Any) -> Any:
        make = lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))  # noqa: E731
        return loopwright.fit(
            make, squares, train=(X, Y), epochs=2, accumulate=2, **given, **QUIET, **MEMORY
        ).weights_sha256

    assert weights() == weights(train_metrics={"random": lambda p, t: torch.rand(len(p))})


def test_nested_predictions_are_put_together_too() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"y": self.linear(x), "x": x}

    def loss(predicted: dict[str, Tensor], target: Tensor) -> Tensor:
        return squares(predicted["y"], target)

    model = Both()
    outcome = fit(model, loss, Y, 10, {"rmse": lambda p, t: rmse(p["y"], t)})
    assert last(outcome, "val_rmse") == pytest.approx(float(rmse(model(X)["y"], Y).detach()), rel=1e-6)
