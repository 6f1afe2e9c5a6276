"""The regression task: any vector model on a table, with a loss by name. The generic supervised case."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.config.node import Node, setting
from loopwright.config.registry import Choice, register
from loopwright.data.splits import split_rows
from loopwright.data.tensors import TensorLoader
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Split, Sums, Task
from loopwright.errors import DataError
from loopwright.models.base import VectorModel
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig
from loopwright.tasks.confusion import MOST_CLASSES, confusion
from loopwright.tasks.regression.data import Table, TableData
from loopwright.tasks.regression.losses import LossConfig

_EVALUATION_BATCH = 4096
_MOST_CLASSES = 1_000_000
_FAR = 100  # levels over spread: up to there the variance keeps 11 of its 16 digits
_ROUNDING = 1e-14  # of a mean of squares in float64, that of thousands of values
_REAL: Mapping[str, Direction] = {"loss": "min", "mae": "min", "rmse": "min", "r2": "max"}
_CLASSES: Mapping[str, Direction] = {"loss": "min", "accuracy": "max"}


@register("task", "regression")
class RegressionConfig(TaskConfig):
    """A table to one or more targets; with bce_with_logits or cross_entropy, to classes."""

    models: ClassVar[type[Node] | None] = VectorModel
    default_model: ClassVar[str | None] = "mlp"

    name: Literal["regression"] = "regression"
    data: Choice("task/data", TableData, default="diabetes") = setting("diabetes", "where the rows come from")  # type: ignore[valid-type]
    loss: Choice("task/loss", LossConfig, default="mse") = setting("mse", "what is minimised, averaged by sample")  # type: ignore[valid-type]
    shuffle: bool = setting(True, "train in a new addressed order every epoch")

    def metrics(self) -> Mapping[str, Direction]:
        """Loss, mean absolute error, root mean square error and R^2, with several targets also of each of them that has a
        name; accuracy where the targets are classes."""
        if self.loss.targets != "real":
            return _CLASSES
        return {**_REAL, **dict.fromkeys(self.r2_names(), "max")}

    def r2_names(self) -> list[str]:
        """The metric of each target; none where there is one target, or they have no names."""
        names = self.data.targets()
        return [f"r2_{name}" for name in names] if len(names) > 1 else []

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> RegressionTask:
        """Load the table onto the device. Raises DataError."""
        assert isinstance(model, VectorModel)
        return RegressionTask(self, model, batch_size, streams.root, device)


class RegressionTask(Task):
    """Rows of a table on the device; shape letters: B samples, F features, O outputs."""

    def __init__(
        self, config: RegressionConfig, model: VectorModel, batch_size: int, seed: int, device: torch.device
    ) -> None:
        self.config, self.model_config, self.batch_size, self.seed = config, model, batch_size, seed
        self.metrics = config.metrics()
        table: Table = config.data.load()
        rows = split_rows(len(table.x), config.data.split, config.data.seed)
        x, y = table.x, table.y
        self.scale: dict[str, Any] = {}
        if config.data.standardize:
            x, self.scale["x"] = _standardized(x, rows["train"])
            if config.loss.targets == "real":
                y, self.scale["y"] = _standardized(y, rows["train"])
        self.num_outputs = y.shape[1]
        dtype = torch.float32
        if config.loss.targets == "binary" and not np.isin(y, (0, 1)).all():
            raise DataError(
                "task.loss=bce_with_logits needs targets of 0 and 1; use task.loss=mse or recode the target"
            )
        if config.loss.targets == "classes":
            if y.shape[1] != 1 or not np.equal(y, np.floor(y)).all() or y.min() < 0 or y.max() >= _MOST_CLASSES:
                raise DataError(
                    "task.loss=cross_entropy needs one target column of class numbers 0, 1, 2, ... "
                    f"(below {_MOST_CLASSES:,})"
                )
            self.num_outputs, y, dtype = int(y.max()) + 1, y[:, 0], torch.int64
        self.num_inputs = x.shape[1]
        self.splits = {
            name: (
                torch.as_tensor(x[chosen], dtype=torch.float32, device=device),
                torch.as_tensor(y[chosen], dtype=dtype, device=device),
            )
            for name, chosen in rows.items()
        }
        self._fingerprint = table.fingerprint
        self.criterion = config.loss.build()
        self.about_O = torch.as_tensor(_far_level(y[rows["train"]]) if "r2" in self.metrics else 0.0, device=device)

    def build_model(self) -> nn.Module:
        return self.model_config.build(self.num_inputs, self.num_outputs)

    def loader(self, split: Split) -> TensorLoader | None:
        if split not in self.splits:
            return None
        if split == "train":
            return TensorLoader(
                self.splits[split], self.batch_size, Streams(self.seed) if self.config.shuffle else None
            )
        return TensorLoader(self.splits[split], _EVALUATION_BATCH)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x_BF, y_BO = batch
        yield Loss(self.criterion(model(x_BF, at.generator), y_BO), len(y_BO))

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x_BF, y_BO = batch
        predicted_BO, count = model(x_BF), len(y_BO)
        sums: dict[str, tuple[Tensor | float, int]] = {"loss": (self.criterion(predicted_BO, y_BO) * count, count)}
        if "accuracy" in self.metrics:
            if self.config.loss.targets == "classes":
                right = predicted_BO.argmax(1) == y_BO
            else:
                right = ((predicted_BO > 0) == (y_BO > 0.5)).all(1)
            return {**sums, "accuracy": (right.sum(), count)}
        error_BO = predicted_BO - y_BO
        y64_BO = y_BO.double() - self.about_O
        return {
            **sums,
            "mae": (error_BO.abs().sum(), y_BO.numel()),
            "squared": (_by_target(error_BO.double().square()), count),
            "y": (_by_target(y64_BO), count),
            "y_squared": (_by_target(y64_BO.square()), count),
        }

    def finish(self, sums: Mapping[str, tuple[Any, float]]) -> dict[str, float | None]:
        if "accuracy" in self.metrics:
            return super().finish(sums)
        means = super().finish({name: sums[name] for name in ("loss", "mae")})
        squared, y, y_squared = (_means(*sums[name]) for name in ("squared", "y", "y_squared"))
        r2 = [_r2(*of_target) for of_target in zip(squared, y, y_squared, strict=True)]
        known = [value for value in r2 if value is not None]
        names = self.config.r2_names()
        return {
            **means,
            "rmse": (math.fsum(squared) / len(squared)) ** 0.5,
            "r2": math.fsum(known) / len(known) if known else None,
            **(dict(zip(names, r2, strict=True)) if names else {}),
        }

    def views(self, model: nn.Module, batch: Any, split: Split, at: At) -> Mapping[str, Tensor]:
        """`x` (S, F), `y` and `predicted` (S, O) in the units of the data; `class_confusion` (C, C) of classes, where few."""
        x_SF, y = batch
        raw_SO = model(x_SF)
        if "accuracy" not in self.metrics:
            arrays = {"x": (x_SF, "x"), "y": (y, "y"), "predicted": (raw_SO, "y")}
            return {name: self._in_units(values, scale) for name, (values, scale) in arrays.items()}
        if self.config.loss.targets == "classes":
            few, true_S, predicted_S, num_classes = True, y, raw_SO.argmax(1), self.num_outputs
        else:  # several outputs of a binary loss are as many questions, not classes
            few, true_S, predicted_S, num_classes = y.shape[1] == 1, y[:, 0] > 0.5, raw_SO[:, 0] > 0, 2
        if not few or num_classes > MOST_CLASSES:
            return {}
        return {"class_confusion": confusion(true_S.long(), predicted_S.long(), num_classes)}

    def _in_units(self, values: Tensor, name: str) -> Tensor:
        """What the standardization of `x` or `y` made of the data's own numbers, undone."""
        scale = self.scale.get(name)
        if scale is None:
            return values
        mean, std = (torch.as_tensor(scale[key], dtype=values.dtype, device=values.device) for key in ("mean", "std"))
        return values * std + mean

    def fingerprint(self) -> str:
        return self._fingerprint

    def facts(self) -> Mapping[str, Any]:
        counts = {name: len(x) for name, (x, _) in self.splits.items()}
        return {
            "data.json": {"rows": counts, "features": self.num_inputs, "outputs": self.num_outputs, "scale": self.scale}
        }


def _standardized(
    values: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    """Zero mean and unit std over the given rows, column by column; a constant column is only shifted."""
    mean, std = values[rows].mean(0), values[rows].std(0)
    std = np.where(std > 0, std, 1.0)
    return (values - mean) / std, {"mean": mean.tolist(), "std": std.tolist()}


def _far_level(y_NO: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """What to take from each target before it is squared: a value of its own where its level is far beyond its spread,
    whose square would leave few digits to the variance; else 0."""
    first, level, spread = y_NO[0].astype(np.float32).astype(np.float64), np.abs(y_NO.mean(0)), y_NO.std(0)
    far: np.ndarray[Any, Any] = np.where(level > _FAR * spread, first, 0.0)
    return far


def _by_target(values_BO: Tensor) -> Tensor:
    """The sum of each column, a number where there is one."""
    return values_BO.sum(0) if values_BO.shape[1] > 1 else values_BO.sum()


def _means(total: Any, count: float) -> list[float]:
    """Of each target; 0 without rows."""
    return [value / count if count else 0.0 for value in (total if isinstance(total, list) else [total])]


def _r2(squared: float, y: float, y_squared: float) -> float | None:
    """From the means of squared errors, targets and their squares; None for a constant target, up to rounding."""
    variance = y_squared - y * y
    return 1 - squared / variance if variance > _ROUNDING * y_squared else None
