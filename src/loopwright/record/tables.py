"""`Table`: a CSV file of numbers that grows row by row and rewinds on resume."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.errors import RunError
from loopwright.record.files import AppendFile


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a CSV file, with the columns of the first; empty without rows. Floats read back to the same bits."""
    text = io.StringIO()
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()


class Table:
    """A CSV file whose columns are those of its first row. Floats are written so that they read back to the same bits."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open a table; `length` cuts it to its first bytes (0 starts it anew)."""
        self._file = AppendFile(path, length)
        self._columns: list[str] = []
        self._continued = bool(self._file.length)
        if self._file.length:
            with path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file), [])

    @property
    def length(self) -> int:
        return self._file.length

    def mark(self) -> tuple[int, str]:
        return self._file.mark()

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add a row. Raises RuntimeError for a column that the first row did not have, RunError where that was recorded."""
        self.extend([row])

    def extend(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Add rows. Handed to the file as one text: half the cost of a row of steps.csv (2.5 us) was the handing over."""
        if rows and not self._columns:
            self._columns = list(rows[0])
            header = io.StringIO()
            csv.writer(header, lineterminator="\n").writerow(self._columns)
            self._file.append(header.getvalue())
        lines = []
        for row in rows:
            if list(row) != self._columns:
                row = self._in_order(row)
            lines.append(",".join(["" if value is None else repr(value) for value in row.values()]) + "\n")
        self._file.append("".join(lines))

    def _in_order(self, row: Mapping[str, float | None]) -> dict[str, float | None]:
        new = sorted(set(row) - set(self._columns))
        if new and self._continued:
            raise RunError(
                f"{self._file.path} has no column {', '.join(new)}, which the recipe now writes: a run keeps the columns "
                "that it, or its parent, began with; leave out the key that adds them, or start a new run"
            )
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
