"""`History`: the rows of a run so far. Epoch, best value and patience are derived from it, never stored beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch

Row = dict[str, float | None]
_Mode = Literal["min", "max"]
TIMES = ("epoch_seconds", "samples_per_second", "max_memory_mib")
_WHOLE = ("epoch", "step")


class History:
    """A list of rows, one per closed period (an epoch unless `train.validate_every` is given in steps).

    A value is None where the row has none (no validation, a metric without samples). All rows have the columns of all:
    one that a later row brings is None in those before.
    """

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = []
        for row in rows or ():
            self.append(row)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def append(self, row: Row) -> None:
        columns = self.rows[-1] if self.rows else row
        if not row.keys() <= columns.keys():
            # In the order in which a checkpoint gives them back.
            known = dict.fromkeys((*columns, *row))
            columns = dict.fromkeys([name for name in known if name not in TIMES] + [n for n in known if n in TIMES])
            self.rows = [{name: held.get(name) for name in columns} for held in self.rows]
        self.rows.append({name: row.get(name) for name in columns})

    @property
    def last(self) -> Row | None:
        return self.rows[-1] if self.rows else None

    def column(self, name: str) -> list[float | None]:
        return [row.get(name) for row in self.rows]

    def columns(self) -> dict[str, list[float | None]]:
        """Every column by its name."""
        return {name: self.column(name) for name in self.rows[-1]} if self.rows else {}

    def best_index(self, ranking: Ranking) -> int | None:
        """The row that ranks strictly before all earlier ones, NaN and inf never. None where there is none yet."""
        best: int | None = None
        for index, value in enumerate(self.column(ranking.monitor)):
            if (
                value is not None
                and math.isfinite(value)
                and (best is None or ranking.before(self.rows[index], self.rows[best]))
            ):
                best = index
        return best

    def best(self, ranking: Ranking) -> Row | None:
        """That row itself."""
        index = self.best_index(ranking)
        return None if index is None else self.rows[index]

    @property
    def elapsed_seconds(self) -> float:
        return sum(row.get("epoch_seconds") or 0.0 for row in self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Column names and a float64 tensor, a mask of the values that are there, and the times in a tensor of their own."""
        columns = list(self.rows[-1]) if self.rows else []
        content = [name for name in columns if name not in TIMES]
        times = [name for name in columns if name in TIMES]
        return {
            "columns": content,
            "values": _tensor(self.rows, content),
            "present": torch.tensor([[row.get(n) is not None for n in content] for row in self.rows], dtype=torch.bool),
            "time_columns": times,
            "times": _tensor(self.rows, times),
        }

    @classmethod
    def from_state_dict(cls, saved: Mapping[str, Any]) -> History:
        rows: list[Row] = []
        for values, present, times in zip(
            saved["values"].tolist(), saved["present"].tolist(), saved["times"].tolist(), strict=True
        ):
            row: Row = {}
            for name, value, there in zip(saved["columns"], values, present, strict=True):
                row[name] = (int(value) if name in _WHOLE else value) if there else None
            row |= dict(zip(saved["time_columns"], times, strict=True))
            rows.append(row)
        return cls(rows)


class Ranking(NamedTuple):
    """Which of two rows is better: by the monitored column, among equal values by those of `ties`, in their order."""

    monitor: str
    mode: _Mode
    ties: tuple[tuple[str, _Mode], ...] = ()

    def before(self, row: Row, other: Row) -> bool:
        """Whether a row is strictly better than another; a missing or undefined value is worse than any."""
        for name, mode in ((self.monitor, self.mode), *self.ties):
            worst = math.inf if mode == "min" else -math.inf
            a, b = (worst if (v := r.get(name)) is None or math.isnan(v) else v for r in (row, other))
            if a != b:
                return better(a, b, mode)
        return False


def better(value: float, than: float, mode: _Mode) -> bool:
    """Strictly better, in the metric's direction."""
    return value < than if mode == "min" else value > than


def _tensor(rows: list[Row], columns: list[str]) -> torch.Tensor:
    values = [[math.nan if (v := row.get(name)) is None else float(v) for name in columns] for row in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(columns))
