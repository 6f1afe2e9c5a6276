"""Tables for the regression task: wave, linear, scikit-learn's diabetes, and the user's own CSV or Parquet file.

Letters of shapes: N rows, F features, O outputs.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import FilePath, Node, setting
from loopwright.config.registry import nearest, register
from loopwright.errors import DataError
from loopwright.streams import Streams

_LARGEST = float(np.finfo(np.float32).max)
Ratios = tuple[float, ...]
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Table:
    """Features x (N, F) and targets y (N, O) in float64, and a hash where they came from outside."""

    x: Array
    y: Array
    fingerprint: str = ""


class TableData(Node):
    """Where the rows come from and how they are split: by a permutation addressed by `seed`, so that the seeds of a
    recipe share their data and their splits."""

    seed: int = setting(0, "draws generated data and the split", ge=0)
    split: Ratios = setting((0.70, 0.15, 0.15), "shares of train, val and (where there are three) test")
    standardize: bool = setting(False, "shift and scale features and real targets by the training split's mean and std")

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if len(self.split) not in (2, 3) or min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-6:
            raise PydanticCustomError(
                "split", "split={given}; give two or three shares above 0 that add up to 1", {"given": list(self.split)}
            )
        return self

    def targets(self) -> tuple[str, ...]:
        """The names of the targets, where they have some."""
        return ()

    @abstractmethod
    def load(self) -> Table:
        """All rows. Raises DataError."""


@register("task/data", "wave")
class Wave(TableData):
    """y = sin(4 pi x) + 0.5 sin(10 pi x) + 1.5 x^2 + noise, x in [0, 1]."""

    name: Literal["wave"] = "wave"
    split: Ratios = setting((0.80, 0.20), "shares of train, val and (where there are three) test")
    rows: int = setting(10_000, "rows to generate", ge=10)
    noise: float = setting(0.05, "standard deviation of the noise", ge=0)

    def load(self) -> Table:
        rng = Streams(self.seed).numpy("wave")
        x = np.clip(np.linspace(0, 1, self.rows) + rng.uniform(0, 0.02, self.rows), 0, 1)
        y = (
            np.sin(4 * np.pi * x)
            + 0.5 * np.sin(10 * np.pi * x)
            + 1.5 * x**2
            + self.noise * rng.standard_normal(self.rows)
        )
        return Table(x[:, None], y[:, None])


@register("task/data", "linear")
class Linear(TableData):
    """y = X w + noise with normal X and w; the quick self-test. `target: binary` keeps the sign of y as 0 or 1."""

    name: Literal["linear"] = "linear"
    rows: int = setting(5000, "rows to generate", ge=10)
    features: int = setting(16, "features", ge=1)
    noise: float = setting(0.1, "standard deviation of the noise", ge=0)
    target: Literal["regression", "binary"] = setting("regression", "a real target, or its sign as 0 and 1")

    def load(self) -> Table:
        rng = Streams(self.seed).numpy("linear")
        x = rng.standard_normal((self.rows, self.features))
        y = x @ rng.standard_normal((self.features, 1)) + self.noise * rng.standard_normal((self.rows, 1))
        return Table(x, (y > 0).astype(np.float64) if self.target == "binary" else y)


@register("task/data", "diabetes")
class Diabetes(TableData):
    """Scikit-learn's diabetes data: 442 patients, 10 features, disease progression after a year (Efron et al. 2004)."""

    name: Literal["diabetes"] = "diabetes"
    standardize: bool = setting(True, "shift and scale features and real targets by the training split's mean and std")

    def load(self) -> Table:
        try:
            from sklearn.datasets import load_diabetes
        except ImportError:
            raise DataError("task.data=diabetes needs scikit-learn; pip install scikit-learn") from None
        data = load_diabetes(scaled=False)
        x, y = np.asarray(data.data, dtype=np.float64), np.asarray(data.target, dtype=np.float64)[:, None]
        return Table(x, y, hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest())


class FileData(TableData):
    """A table file of the user's, with named columns of numbers."""

    standardize: bool = setting(True, "shift and scale features and real targets by the training split's mean and std")
    path: FilePath = setting(..., "the file", trajectory=False)
    target: tuple[str, ...] | str = setting(..., "name of the target column (or several)")
    features: tuple[str, ...] | None = setting(None, "names of the feature columns; null takes all others")

    def targets(self) -> tuple[str, ...]:
        return (self.target,) if isinstance(self.target, str) else self.target

    def load(self) -> Table:
        path = Path(self.path)
        frame = self._read(path)
        targets = self.targets()
        features = list(self.features) if self.features is not None else [c for c in frame.columns if c not in targets]
        for column in (*features, *targets):
            if column not in frame.columns:
                raise DataError(
                    f"{path} has no column {column!r} (it has {_listed(frame.columns)}){nearest(column, frame.columns)}"
                )
        if not features:
            raise DataError(f"{path} has no column beside the target; give task.data.features")
        columns = [_numbers(path, frame, name) for name in (*features, *targets)]
        table = np.stack(columns, axis=1) if frame.height else np.empty((0, len(columns)))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Table(table[:, : len(features)], table[:, len(features) :], digest)

    @abstractmethod
    def _read(self, path: Path) -> Any: ...


@register("task/data", "csv")
class CSV(FileData):
    """A CSV file with a header line."""

    name: Literal["csv"] = "csv"

    def _read(self, path: Path) -> Any:
        return _polars_read(path, "read_csv")


@register("task/data", "parquet")
class Parquet(FileData):
    """A Parquet file."""

    name: Literal["parquet"] = "parquet"

    def _read(self, path: Path) -> Any:
        return _polars_read(path, "read_parquet")


def _polars_read(path: Path, reader: str) -> Any:
    try:
        import polars
    except ImportError:
        raise DataError("task.data=csv and parquet need polars; pip install 'loopwright[tables]'") from None
    if not os.path.isfile(path):  # false as well for a name that is too long
        raise DataError(f"task.data.path={path}: there is no such file")
    try:
        return getattr(polars, reader)(path, glob=False)
    except (Exception, polars.exceptions.PanicException) as error:  # polars panics on some damaged Parquet files
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} cannot be read as {reader.removeprefix('read_')}: {said}") from error


def _listed(columns: list[str]) -> str:
    """Column names in one line, whatever they hold (an open quote makes one of a whole file)."""
    text = ", ".join(name if name.isprintable() else repr(name) for name in columns)
    return text if len(text) <= 500 else f"{text[:500]}..."


def _numbers(path: Path, frame: Any, name: str) -> Array:
    column = frame[name]
    if not (column.dtype.is_numeric() or str(column.dtype) == "Boolean"):
        raise DataError(
            f"{path}: column {name!r} holds {column.dtype}, not numbers; leave it out of task.data.features or recode it"
        )
    values = np.asarray(column.cast(_float64()).to_numpy(), dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{path}: column {name!r} has {len(bad)} missing or infinite values, the first in row {bad[0] + 1}; fill or drop them"
        )
    large = np.flatnonzero(np.abs(values) > _LARGEST)
    if len(large):
        raise DataError(
            f"{path}: column {name!r} has {len(large)} values beyond {_LARGEST:.1e}, the first in row {large[0] + 1}; "
            "rescale it, float32 does not hold them"
        )
    return values


def _float64() -> Any:
    import polars

    return polars.Float64
