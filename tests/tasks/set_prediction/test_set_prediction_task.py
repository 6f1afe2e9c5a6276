"""The task as the engine sees it, its configuration, and predictions."""

import json
import pickle
from datetime import date, timedelta

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from loopwright.config.registry import lookup
from loopwright.engine.task import At
from loopwright.errors import DataError, UserError
from loopwright.models.base import SequenceModel
from loopwright.models.frequency import FrequencyConfig
from loopwright.models.gru import GRUConfig
from loopwright.streams import Streams
from loopwright.tasks.set_prediction.history import file_hash, write_history
from loopwright.tasks.set_prediction.predict import predict
from loopwright.tasks.set_prediction.synthetic import make_history
from loopwright.tasks.set_prediction.task import SetLoss, SetPredictionConfig, SetPredictionData, SyntheticData

CPU = torch.device("cpu")
METRICS = ["loss", "recall_at_5", "recall_at_20", "hit_at_5", "hit_at_20", "mrr"]


class LastEvent(nn.Module):
    """A linear layer on the last event; records the noise that it was given."""

    def __init__(self, num_features):
        super().__init__()
        self.readout = nn.Linear(num_features, num_features)
        self.seen = []

    def forward(self, x, noise=None):
        self.seen.append(None if noise is None else noise("dropout/0").initial_seed())
        return self.readout(x[:, -1])


class Counts(nn.Module):
    """Counts over the window; no parameters."""

    def forward(self, x, noise=None):
        return x.sum(1)


class LastEventConfig(SequenceModel):
    def build(self, num_features, window):
        return LastEvent(num_features)


def make_task(model=None, batch_size=64, *, weight=0.0, signal=0.8, rows=300, **data):
    data = {"synthetic": SyntheticData(rows=rows, signal=signal)} | data
    config = SetPredictionConfig(data=SetPredictionData(**data), loss=SetLoss(cardinality_weight=weight))
    return config.build(model or LastEventConfig(), batch_size=batch_size, streams=Streams(42), device=CPU)


def at(step=1):
    return At(Streams(42), step, 1, CPU)


def evaluate(task, model, split):
    with torch.inference_mode():
        return task.evaluate(model, split, at())


def train(task, epochs):
    with Streams(42).fork("weights"):
        model = task.build_model()
    optimizer = torch.optim.Adam(task.groups(model)["main"], lr=1e-3)
    for epoch in range(epochs):
        for batch in task.loader("train").epoch(epoch):
            for loss in task.losses(model, batch, at()):
                optimizer.zero_grad()
                loss.mean.backward()
                optimizer.step()
    return model


def test_it_is_registered_with_its_defaults():
    config = lookup("task", "set_prediction")()
    assert isinstance(config, SetPredictionConfig)
    assert config.models is SequenceModel and config.default_model == "gru"
    assert (config.monitor, list(config.metrics())) == ("recall_at_20", METRICS)
    assert config.model_dump() == {
        "name": "set_prediction",
        "data": {
            "path": None,
            "window": 21,
            "shuffle": False,
            "split": (0.70, 0.15, 0.15),
            "synthetic": {"rows": 2000, "signal": 0.8, "seed": 0},
        },
        "loss": {"cardinality_weight": 0.0},
    }
    extras = {name: field.json_schema_extra for name, field in SetPredictionData.model_fields.items()}
    assert [name for name, extra in extras.items() if not extra["trajectory"]] == ["path"]


@pytest.mark.parametrize(
    ("node", "values", "message"),
    [
        (SetPredictionData, {"window": 6}, "greater than or equal to 7"),
        (SetPredictionData, {"window": 91}, "less than or equal to 90"),
        (SetPredictionData, {"split": (0.7, 0.2, 0.2)}, r"split\n  the ratios sum to 1.1; make them sum to 1"),
        (
            SetPredictionData,
            {"path": "a.csv", "synthetic": SyntheticData(rows=99)},
            "a.csv' and synthetic are both",
        ),
        (SyntheticData, {"signal": 1.5}, "less than or equal to 1"),
        (SetLoss, {"cardinality_weight": -1.0}, "greater than or equal to 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(node, values, message):
    with pytest.raises(ValidationError, match=message):
        node(**values)


def test_samples_are_split_by_time_in_order():
    task = make_task(window=21)
    sizes = {split: task.loader(split).num_samples for split in ("train", "val", "test")}
    assert sizes == {"train": 195, "val": 41, "test": 43}
    assert len(task.loader("train")) == 4 and len(task.loader("test")) == 1
    vectors = torch.from_numpy(task.history.vectors).float()
    targets = torch.cat([y for split in sizes for _, y in task.loader(split).epoch(0)])
    assert torch.equal(targets, vectors[21:])
    x, _ = next(task.loader("val").epoch(0))
    assert torch.equal(x[0], vectors[195 : 195 + 21])


def test_training_is_shuffled_only_when_asked_and_by_epoch():
    plain, shuffled = make_task(), make_task(shuffle=True)

    def order(task, epoch):
        return torch.cat([y for _, y in task.loader("train").epoch(epoch)])

    assert torch.equal(order(plain, 0), order(plain, 1))
    assert not torch.equal(order(shuffled, 0), order(shuffled, 1))
    assert torch.equal(order(shuffled, 1), order(make_task(shuffle=True), 1))
    assert torch.equal(next(shuffled.loader("val").epoch(0))[1], next(plain.loader("val").epoch(0))[1])


def test_the_loss_is_the_mean_over_batch_and_parts():
    task = make_task()
    model = task.build_model()
    x, y = next(task.loader("train").epoch(0))
    (loss,) = task.losses(model, (x, y), at())
    assert torch.equal(loss.mean, F.binary_cross_entropy_with_logits(model.readout(x[:, -1]), y))
    assert (loss.count, dict(loss.parts), loss.group) == (64, {}, "main")
    loss.mean.backward()
    assert model.readout.weight.grad.abs().sum() > 0


def test_the_cardinality_penalty_adds_its_weighted_mean_and_shows_its_parts():
    task = make_task(weight=0.25)
    model = task.build_model()
    x, y = next(task.loader("train").epoch(0))
    (loss,) = task.losses(model, (x, y), at())
    assert loss.mean.requires_grad
    loss = loss._replace(mean=loss.mean.detach())
    logits = model.readout(x[:, -1]).detach()
    bce = F.binary_cross_entropy_with_logits(logits, y)
    penalty = ((logits.sigmoid().sum(1) - 5) ** 2).mean()
    assert float(penalty) > 1.0
    assert float(loss.mean) == pytest.approx(float(bce + 0.25 * penalty), rel=1e-6)
    assert list(loss.parts) == ["bce", "cardinality"]
    parts = {name: float(total) / count for name, (total, count) in loss.parts.items()}
    assert parts == pytest.approx({"bce": float(bce), "cardinality": float(penalty)}, rel=1e-6)
    assert all(not total.requires_grad for total, _ in loss.parts.values())
    measured, count = task.measure(model, (x, y), at())["loss"]
    assert float(measured.detach()) / count == pytest.approx(float(loss.mean), rel=1e-6)


def test_noise_is_addressed_in_training_and_absent_in_evaluation():
    task = make_task()
    model = task.build_model()
    batch = next(task.loader("train").epoch(0))
    for step in (1, 2, 1):
        list(task.losses(model, batch, at(step)))
    task.measure(model, batch, at())
    first, second, again, evaluation = model.seen
    assert first == again != second and evaluation is None


def test_metrics_are_per_sample_whatever_the_batches():
    task = make_task(rows=600)
    model = task.build_model()
    whole = evaluate(task, model, "train")
    assert list(whole) == list(task.metrics) == METRICS
    assert task.metrics["loss"] == "min" and set(task.metrics.values()) == {"min", "max"}
    assert task.monitor == "recall_at_20"
    batch = tuple(torch.cat(tensors) for tensors in zip(*task.loader("train").epoch(0), strict=True))
    sums = task.measure(model, batch, at()).items()
    at_once = {name: float(total.detach()) / count for name, (total, count) in sums}
    assert whole == pytest.approx(at_once, rel=1e-6)


def test_a_model_without_parameters_has_a_loss_and_metrics():
    task = make_task(FrequencyConfig())
    model = task.build_model()
    assert list(task.groups(model)["main"]) == []
    (loss,) = task.losses(model, next(task.loader("train").epoch(0)), at())
    assert torch.isfinite(loss.mean) and not loss.mean.requires_grad
    assert evaluate(task, model, "test") == evaluate(task, model, "test")


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_task_does_not_change(shuffle):
    task = make_task(shuffle=shuffle, weight=0.1)
    before = pickle.dumps(task)
    model = train(task, epochs=1)
    evaluate(task, model, "val")
    list(task.examples(model, "test", CPU))
    assert pickle.dumps(task) == before
    back = pickle.loads(before)
    for (x, y), (x_back, y_back) in zip(task.loader("train").epoch(1), back.loader("train").epoch(1), strict=True):
        assert torch.equal(x, x_back) and torch.equal(y, y_back)


def test_a_gru_closes_the_gap_at_signal_08():
    task = make_task(GRUConfig(), signal=0.8, rows=2000)
    value = evaluate(task, train(task, epochs=8), "test")["recall_at_20"]
    best = task.synthetic.best_recall_at_k[20]
    assert (value - 20 / 39) / (best - 20 / 39) >= 0.8
    verdict, ceiling = task.remarks("test", {"recall_at_20": value})
    assert verdict.startswith("test recall_at_20 0.8") and "is above chance (99 % interval" in verdict
    assert f"{best:.4f}" in ceiling and "of the gap from chance" in ceiling


def test_at_signal_0_the_summary_says_chance():
    task = make_task(FrequencyConfig(), signal=0.0)
    remarks = task.remarks("test", evaluate(task, task.build_model(), "test"))
    assert "is at chance (99 % interval" in remarks[0] and "of 43 windows)" in remarks[0]
    assert "gap" not in remarks[1]
    assert task.remarks("test", {"recall_at_20": None}) == task.remarks("test", {}) == []
    assert task.remarks("test", {"recall_at_20": float("nan")}) == []


def test_the_record_keeps_the_dates_of_every_split():
    task = make_task(rows=100)
    facts = json.loads(json.dumps(task.facts()))
    dates = [day.isoformat() for day in task.history.dates]
    assert facts["splits.json"] == {
        "train": {"count": 55, "first_date": dates[21], "last_date": dates[75]},
        "val": {"count": 11, "first_date": dates[76], "last_date": dates[86]},
        "test": {"count": 13, "first_date": dates[87], "last_date": dates[99]},
    }
    assert facts["synthetic.json"]["signal"] == 0.8
    assert facts["synthetic.json"]["best_recall_at_20"] == pytest.approx(0.8938, abs=1e-4)


def test_a_file_enters_by_its_contents(tmp_path):
    path = tmp_path / "history.csv"
    write_history(path, make_history(100, 0.8, 7).history)
    task = make_task(path=str(path), synthetic=SyntheticData())
    assert task.fingerprint() == file_hash(path) and len(task.history) == 100
    assert list(task.facts()) == ["splits.json", "chance.json"]
    assert len(task.remarks("test", {"recall_at_20": 0.5})) == 1
    assert make_task().fingerprint() == ""
    with pytest.raises(DataError, match="does not exist"):
        make_task(path=str(tmp_path / "none.csv"), synthetic=SyntheticData())


def test_too_few_rows_are_a_data_error():
    with pytest.raises(DataError, match="21 rows is too short"):
        make_task(rows=21)
    with pytest.raises(DataError, match="leaves val none of the 4 windows"):
        make_task(rows=25)


def test_examples_have_a_row_per_window():
    task = make_task(shuffle=True)
    model = task.build_model()
    for split in ("train", "test"):
        rows = list(task.examples(model, split, CPU))
        assert model.training
        metrics = evaluate(task, model, split)
        assert list(rows[0]) == [
            "index", "date", "true_parts", "predicted_top_20", "recall_at_5", "recall_at_20", "hit_at_5", "hit_at_20",
        ]  # fmt: skip
        assert [row["index"] for row in rows] == list(range(task.slices[split].start, task.slices[split].stop))
        for name in ("recall_at_5", "recall_at_20", "hit_at_5", "hit_at_20"):
            assert sum(row[name] for row in rows) / len(rows) == pytest.approx(metrics[name], rel=1e-9)
        for row in rows:
            true, top = ([int(part) for part in row[key].split()] for key in ("true_parts", "predicted_top_20"))
            assert len(top) == len(set(top)) == 20 and row["recall_at_20"] == len(set(true) & set(top)) / 5
            target = row["index"] + 21
            assert row["date"] == task.history.dates[target].isoformat()
            assert true == task.history.parts[target].tolist()


def test_a_prediction_uses_the_last_events_up_to_the_day():
    history = make_history(60, 0.8, 0).history
    model = Counts()
    for asof, end in [(None, 60), (history.dates[40], 41), (history.dates[-1] + timedelta(days=9), 60)]:
        counts = history.vectors[end - 21 : end].sum(0).tolist()
        expected = sorted(range(1, 40), key=lambda part: (-counts[part - 1], part))
        rows = predict(model, history, 21, asof, 20)
        assert rows == [(rank, part, float(counts[part - 1])) for rank, part in enumerate(expected[:20], 1)]
    assert len(predict(model, history, 21, None, 39)) == 39


def test_a_prediction_in_training_mode_is_an_evaluation():
    class Dropped(nn.Module):
        def forward(self, x, noise=None):
            return F.dropout(x.sum(1), 0.5, self.training)

    model, history = Dropped(), make_history(30, 0.8, 0).history
    assert predict(model, history, 21) == predict(model, history, 21) == predict(Counts(), history, 21)
    assert model.training


def test_a_prediction_leaves_every_module_in_its_own_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5).eval(), nn.Linear(21 * 39, 39))
    predict(model, make_history(30, 0.8, 0).history, 21)
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_a_prediction_that_cannot_be_is_refused():
    history = make_history(60, 0.8, 0).history
    with pytest.raises(DataError, match=rf"20 events up to {history.dates[19]}, fewer than the window of 21"):
        predict(Counts(), history, 21, history.dates[19], 20)
    assert len(predict(Counts(), history, 21, history.dates[20], 20)) == 20
    with pytest.raises(DataError, match="0 events up to 1999-01-01"):
        predict(Counts(), history, 21, date(1999, 1, 1), 20)
    for top_k in (0, 40):
        with pytest.raises(UserError, match=f"top_k is {top_k}; use 1 to 39"):
            predict(Counts(), history, 21, None, top_k)
