"""The set-prediction task: from the last W events, score every part for the next one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.config.node import FilePath, Node, setting
from loopwright.config.registry import register
from loopwright.data.splits import Ratios
from loopwright.data.tensors import TensorLoader
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Metrics, Split, Sums, Task
from loopwright.models.base import SequenceModel, measured
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig
from loopwright.tasks.set_prediction.chance import chance_interval, chance_table, verdict
from loopwright.tasks.set_prediction.history import file_hash, read_history
from loopwright.tasks.set_prediction.metrics import KS, per_sample, ranking, ranking_sums
from loopwright.tasks.set_prediction.predict import score
from loopwright.tasks.set_prediction.synthetic import Synthetic, make_history
from loopwright.tasks.set_prediction.validate import NUM_PARTS, PARTS_PER_EVENT
from loopwright.tasks.set_prediction.windows import split_by_time, windows

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_EVALUATION_BATCH = 4096
_METRICS: Mapping[str, Direction] = {
    "loss": "min",
    "recall_at_5": "max",
    "recall_at_20": "max",
    "hit_at_5": "max",
    "hit_at_20": "max",
    "mrr": "max",
}


class SyntheticData(Node):
    """A generated history."""

    rows: int = setting(2000, "events to generate", ge=2, le=1_000_000)
    signal: float = setting(0.8, "0: pure chance; 1: the last event fixes the next one", ge=0.0, le=1.0)
    seed: int = setting(0, "draws the hidden rule and the events", ge=0)


class SetPredictionData(Node):
    """Where the events come from and how they are cut into samples."""

    path: FilePath | None = setting(
        None, "a CSV file of 45 columns; without it the history is synthetic", trajectory=False
    )
    window: int = setting(21, "events the model sees", ge=7, le=90)
    shuffle: bool = setting(False, "train in a shuffled order instead of the order of time")
    split: Ratios = setting((0.70, 0.15, 0.15), "shares of train, val and test, in the order of time")
    synthetic: SyntheticData = setting(SyntheticData(), "the history when no path is given")

    @model_validator(mode="after")
    def _one_source(self) -> SetPredictionData:
        if self.path is not None and self.synthetic != SyntheticData():
            raise PydanticCustomError(
                "one_source",
                "path={path} and synthetic are both given; leave one of them out",
                {"path": repr(self.path)},
            )
        return self


class SetLoss(Node):
    """Binary cross-entropy on the logits, mean over batch and parts; optionally a penalty on how many are expected."""

    cardinality_weight: float = setting(0.0, "weight of (sum of sigmoid(logits) - 5)^2, mean over the batch", ge=0.0)


@register("task", "set_prediction")
class SetPredictionConfig(TaskConfig):
    """Which 5 of 39 parts come next."""

    models: ClassVar[type[Node] | None] = SequenceModel
    default_model: ClassVar[str | None] = "gru"
    monitor: ClassVar[str] = "recall_at_20"

    name: Literal["set_prediction"] = "set_prediction"
    data: SetPredictionData = setting(SetPredictionData(), "the history and its samples")
    loss: SetLoss = setting(SetLoss(), "what is minimised")

    def metrics(self) -> Mapping[str, Direction]:
        """Loss, recall and hits among the 5 and 20 highest, and the mean reciprocal rank of the best true part."""
        return _METRICS

    def metrics_of(self, model: Node | None) -> Metrics:
        """`metrics`, then what the model measures of itself (the firing rates of a spiking one)."""
        return {**self.metrics(), **(model.metrics() if isinstance(model, SequenceModel) else {})}

    def build(
        self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device
    ) -> SetPredictionTask:
        """Read or generate the history and put it on the device. Raises DataError for data that cannot be used."""
        assert isinstance(model, SequenceModel)
        return SetPredictionTask(self, model, batch_size, streams, device)


class SetPredictionTask(Task):
    """Windows of a history to the next event, split by time; the whole history lives on the device.

    Letters of shapes: B samples, W events in a window, F parts (39).
    """

    monitor = SetPredictionConfig.monitor

    def __init__(
        self, config: SetPredictionConfig, model: SequenceModel, batch_size: int, streams: Streams, device: torch.device
    ) -> None:
        data = config.data
        self.config, self.model_config, self.batch_size = config, model, batch_size
        self.metrics = config.metrics_of(model)
        self.synthetic: Synthetic | None = None
        if data.path is None:
            self.synthetic = make_history(data.synthetic.rows, data.synthetic.signal, data.synthetic.seed)
            self.history, self._fingerprint = self.synthetic.history, ""
        else:
            self.history, self._fingerprint = read_history(Path(data.path)), file_hash(data.path)
        self.x, self.y = windows(torch.from_numpy(self.history.vectors).to(device), data.window)
        self.slices = dict(zip(_SPLITS, split_by_time(len(self.y), data.split), strict=True))
        # The seed rather than the streams: a task is picklable, a hash object is not.
        self._order_seed = streams.root if data.shuffle else None
        self.cardinality_weight = config.loss.cardinality_weight

    def build_model(self) -> nn.Module:
        return self.model_config.build(NUM_PARTS, self.config.data.window)

    def loader(self, split: Split) -> TensorLoader:
        rows = self.slices[split]
        tensors = (self.x[rows], self.y[rows])
        if split != "train":
            return TensorLoader(tensors, _EVALUATION_BATCH)
        streams = None if self._order_seed is None else Streams(self._order_seed)
        return TensorLoader(tensors, self.batch_size, streams)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x_BWF, y_BF = batch
        logits_BF = model(x_BWF, at.generator)
        bce = F.binary_cross_entropy_with_logits(logits_BF, y_BF)
        count = len(y_BF)
        if self.cardinality_weight == 0.0:
            yield Loss(bce, count)
            return
        penalty = _cardinality(logits_BF).mean()
        parts = {"bce": (bce.detach() * count, count), "cardinality": (penalty.detach() * count, count)}
        yield Loss(bce + self.cardinality_weight * penalty, count, parts)

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x_BWF, y_BF = batch
        logits_BF, own = measured(model, x_BWF)
        loss = F.binary_cross_entropy_with_logits(logits_BF, y_BF)
        if self.cardinality_weight > 0.0:
            loss = loss + self.cardinality_weight * _cardinality(logits_BF).mean()
        return {"loss": (loss.double() * len(y_BF), len(y_BF)), **ranking_sums(logits_BF, y_BF), **own}

    def fingerprint(self) -> str:
        return self._fingerprint

    def facts(self) -> Mapping[str, Any]:
        splits = {split: self._dates(split) for split in _SPLITS}
        ranked = [name for name in _METRICS if name != "loss"]
        chance = chance_table(ranked, {split: dates["count"] for split, dates in splits.items()})
        facts: dict[str, Any] = {"splits.json": splits, "chance.json": chance}
        if self.synthetic is not None:
            best = {f"best_recall_at_{k}": value for k, value in self.synthetic.best_recall_at_k.items()}
            facts["synthetic.json"] = {**self.config.data.synthetic.model_dump(), **best}
        return facts

    def remarks(self, split: Split, metrics: Mapping[str, float | None]) -> list[str]:
        """Where recall@20 stands to chance, and for a synthetic history to the best reachable."""
        value = metrics.get("recall_at_20")
        if value is None or not isfinite(value):
            return []
        rows = self.slices[split]
        count = rows.stop - rows.start
        lines = [f"{split} {verdict('recall_at_20', value, count)}"]
        if self.synthetic is not None:
            best = self.synthetic.best_recall_at_k[20]
            lines.append(f"the best reachable recall_at_20 on this synthetic history is {best:.4f}")
            chance = chance_interval("recall_at_20", count)[1]
            if best - chance > 1e-9:
                lines[-1] += f"; {split} closes {(value - chance) / (best - chance):.0%} of the gap from chance"
        return lines

    def views(self, model: nn.Module, batch: Any, split: Split, at: At) -> Mapping[str, Tensor]:
        """`probability` and `target`, (S, F): how likely the model holds each part to be in the next event, and whether it is."""
        x_SWF, y_SF = batch
        return {"probability": model(x_SWF).sigmoid(), "target": y_SF}

    def examples(self, model: nn.Module, split: Split, device: torch.device) -> Iterator[Mapping[str, Any]]:
        """A row per window; `index` is t, the first of its events counted from 0, `date` the day of the target."""
        rows = self.slices[split]
        index = rows.start
        for x_BWF, y_BF in TensorLoader((self.x[rows], self.y[rows]), _EVALUATION_BATCH).epoch(0):
            order_BF = ranking(score(model, x_BWF.to(device)))
            values = per_sample(order_BF, y_BF.to(device))
            columns = [values[f"{kind}_at_{k}"].tolist() for kind in ("recall", "hit") for k in KS]
            top_B20 = (order_BF[:, : KS[-1]] + 1).tolist()
            for top, recall_5, recall_20, hit_5, hit_20 in zip(top_B20, *columns, strict=True):
                target = index + self.config.data.window
                yield {
                    "index": index,
                    "date": self.history.dates[target].isoformat(),
                    "true_parts": " ".join(map(str, sorted(self.history.parts[target].tolist()))),
                    "predicted_top_20": " ".join(map(str, top)),
                    "recall_at_5": recall_5,
                    "recall_at_20": recall_20,
                    "hit_at_5": int(hit_5),
                    "hit_at_20": int(hit_20),
                }
                index += 1

    def _dates(self, split: Split) -> dict[str, Any]:
        """Count of a split and the days of its first and last target."""
        rows, window = self.slices[split], self.config.data.window
        first, last = (self.history.dates[sample + window].isoformat() for sample in (rows.start, rows.stop - 1))
        return {"count": rows.stop - rows.start, "first_date": first, "last_date": last}


def _cardinality(logits_BF: Tensor) -> Tensor:
    """(B,): the squared distance of the expected number of parts from 5."""
    return (logits_BF.sigmoid().sum(1) - PARTS_PER_EVENT) ** 2
