"""`History`: the rows of a run so far. Epoch, best value and patience are derived from it, never stored beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch

Row = dict[str, float | None]
TIMES = ("epoch_seconds", "samples_per_second", "max_memory_mib")
_WHOLE = ("epoch", "step")


class History:
    """A list of rows, one per closed period (an epoch unless `train.validate_every` is given in steps).

    A value is None where the row has none (no validation, a metric without samples).
    """

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = rows or []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def append(self, row: Row) -> None:
        self.rows.append(row)

    @property
    def last(self) -> Row | None:
        return self.rows[-1] if self.rows else None

    def column(self, name: str) -> list[float | None]:
        return [row.get(name) for row in self.rows]

    def best_index(self, monitor: str, mode: Literal["min", "max"]) -> int | None:
        """The row with the best value: strictly better than all before it, NaN and inf never. None where there is none yet."""
        best: int | None = None
        for index, value in enumerate(self.column(monitor)):
            if value is not None and math.isfinite(value):
                held = None if best is None else self.rows[best][monitor]
                if held is None or better(value, held, mode):
                    best = index
        return best

    @property
    def elapsed_seconds(self) -> float:
        return sum(row.get("epoch_seconds") or 0.0 for row in self.rows)

    def state_dict(self) -> dict[str, Any]:
        """Column names and a float64 tensor, a mask of the values that are there, and the times in a tensor of their own."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
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


def better(value: float, than: float, mode: Literal["min", "max"]) -> bool:
    """Strictly better, in the metric's direction."""
    return value < than if mode == "min" else value > than


def _tensor(rows: list[Row], columns: list[str]) -> torch.Tensor:
    values = [[math.nan if (v := row.get(name)) is None else float(v) for name in columns] for row in rows]
    return torch.tensor(values, dtype=torch.float64).reshape(len(rows), len(columns))
