"""`Table`: a CSV file of numbers that grows row by row and rewinds on resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from loopwright.record.files import AppendFile


class Table:
    """A CSV file whose columns are those of its first row. Floats are written so that they read back to the same bits."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open a table; `length` cuts it to its first bytes (0 starts it anew)."""
        self._file = AppendFile(path, length)
        self._columns: list[str] = []
        if self._file.length:
            with path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file), [])

    @property
    def length(self) -> int:
        return self._file.length

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add a row. Raises RuntimeError for a column that the first row did not have."""
        if not self._columns:
            self._columns = list(row)
            header = io.StringIO()
            csv.writer(header, lineterminator="\n").writerow(self._columns)
            self._file.append(header.getvalue())
        if list(row) != self._columns:
            row = self._in_order(row)
        cells = ["" if value is None else repr(value) for value in row.values()]
        self._file.append(",".join(cells) + "\n")

    def _in_order(self, row: Mapping[str, float | None]) -> dict[str, float | None]:
        new = sorted(set(row) - set(self._columns))
        if new:
            raise RuntimeError(
                f"{self._file.path.name} has no column {', '.join(new)}: a run's first row fixes its columns"
            )
        return {name: row.get(name) for name in self._columns}

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
