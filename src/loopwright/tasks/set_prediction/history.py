"""`History`: events over time, each a set of five parts of 39; read from and written to the 45-column CSV format."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.errors import DataError
from loopwright.tasks.set_prediction.validate import (
    CHECKS,
    COLUMNS,
    NUM_PARTS,
    PART_COLUMNS,
    parse_date,
    read_table,
)


@dataclass(frozen=True, eq=False)
class History:
    """Events in order of time.

    `dates` has one day per event, `parts` (rows, 5) int64 the part numbers from 1 to 39, `vectors` (rows, 39) uint8 the
    same as 0/1, part p in column p - 1.
    """

    dates: tuple[date, ...]
    parts: NDArray[np.int64]
    vectors: NDArray[np.uint8]

    @classmethod
    def of(cls, dates: tuple[date, ...], parts: NDArray[Any]) -> History:
        """A history from its dates and its part numbers (rows, 5)."""
        parts = np.asarray(parts, dtype=np.int64)
        vectors = np.zeros((len(parts), NUM_PARTS), dtype=np.uint8)
        vectors[np.arange(len(parts))[:, None], parts - 1] = 1
        return cls(dates, parts, vectors)

    def __len__(self) -> int:
        return len(self.dates)


def read_history(path: str | Path) -> History:
    """Read a file that passes every check of `validate`.

    Raises DataError, naming the file, the line and the fix, for the first problem of the first check that fails.
    """
    table = read_table(path)
    for _, check in CHECKS:
        for line, problem in check(table):
            raise DataError(f"{path} line {line} {problem}")
    days = (parse_date(cells[0]) for _, cells in table.rows)
    last = 1 + len(PART_COLUMNS)
    parts = np.array([[int(cell) for cell in cells[1:last]] for _, cells in table.rows], dtype=np.int64)
    return History.of(tuple(day for day in days if day is not None), parts)


def write_history(path: str | Path, history: History) -> None:
    """Write the 45 columns, dates as ISO, lines ended by LF. Raises DataError when the place cannot be written to."""
    rows = zip(history.dates, history.parts.tolist(), history.vectors.tolist(), strict=True)
    lines = [",".join(COLUMNS), *(",".join(map(str, (day, *parts, *vector))) for day, parts, vector in rows)]
    try:
        Path(path).write_bytes(("\n".join(lines) + "\n").encode())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); give a file in a folder that exists") from None


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes in hex: how a history enters a run's identity. Raises DataError like `read_history`."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the path of a CSV file") from None
