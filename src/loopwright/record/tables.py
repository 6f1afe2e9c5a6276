"""`Table`: a CSV file of numbers that grows row by row, and by a column where a later row has one, and rewinds on resume."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.record.files import AppendFile

# A column more is the whole file anew. Who needs more than this gives the columns of every row other names.
_MOST_GROWTHS = 100


def csv_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as the text of a CSV file, with the columns of all of them; empty without rows. Floats read back to the same bits."""
    rows = list(rows)
    columns = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO()
    if columns:
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


class Table:
    """A CSV file of numbers, which are written so that they read back to the same bits.

    Its columns are those of its first row, and then those that a later row brings: the file is replaced by one that has
    the column as its last, blank in the rows before. `check` is asked before that.
    """

    def __init__(self, path: Path, length: int | None = None, check: Callable[[], None] = lambda: None) -> None:
        """Open a table; `length` cuts it to its first bytes (0 starts it anew)."""
        self._file = AppendFile(path, length)
        self._check = check
        self._columns: list[str] = []
        self._growths = 0
        if self._file.length:
            with path.open(newline="", encoding="utf-8") as file:
                self._columns = next(csv.reader(file), [])

    @property
    def length(self) -> int:
        return self._file.length

    def mark(self) -> tuple[int, str]:
        return self._file.mark()

    def append(self, row: Mapping[str, float | None]) -> None:
        """Add a row. Raises RuntimeError where every row has other columns."""
        self.extend([row])

    def extend(self, rows: Sequence[Mapping[str, float | None]]) -> None:
        """Add rows. Handed to the file as one text: half the cost of a row of steps.csv (2.5 us) was the handing over."""
        if rows and not self._columns:
            self._columns = list(rows[0])
            self._file.append(_header(self._columns))
        lines: list[str] = []
        for row in rows:
            if list(row) != self._columns:
                new = [name for name in row if name not in self._columns]
                if new:
                    self._file.append("".join(lines))
                    lines = []
                    self._grow(new)
                row = {name: row.get(name) for name in self._columns}
            lines.append(",".join(["" if value is None else repr(value) for value in row.values()]) + "\n")
        self._file.append("".join(lines))

    def _grow(self, new: list[str]) -> None:
        self._growths += 1
        if self._growths > _MOST_GROWTHS:
            raise RuntimeError(
                f"{self._file.path.name} would get new columns for the {self._growths}th time ({', '.join(new)}); give the "
                "parts of the losses, and the metrics, the same names every time"
            )
        self._check()
        columns = [*self._columns, *new]
        before, after = (_header(names).encode() for names in (self._columns, columns))
        blanks = b"," * len(new) + b"\n"
        self._file.rewrite(lambda data: after + data[len(before) :].replace(b"\n", blanks))
        self._columns = columns

    def flush(self) -> None:
        self._file.flush()

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()


def as_before(path: Path, length: int, digest: str) -> bytes | None:
    """The first `length` bytes of a table as they were before it gained columns, known by their SHA-256.

    A column that came later is blank in the rows before, so leaving it out gives them back. None where the file never
    began with such bytes.
    """
    data = path.read_bytes()
    columns = next(csv.reader(io.StringIO(data.decode(errors="replace"), newline="")), [])
    body = data[len(_header(columns).encode()) :]
    for width in range(len(columns) - 1, 0, -1):
        blanks = b"," * (len(columns) - width) + b"\n"
        found, size = [_header(columns[:width]).encode()], len(_header(columns[:width]).encode())
        for line in body.splitlines(keepends=True):
            if size >= length or not line.endswith(blanks):
                break
            found.append(line[: -len(blanks)] + b"\n")
            size += len(found[-1])
        former = b"".join(found)
        if size == length and hashlib.sha256(former).hexdigest() == digest:
            return former
    return None


def _header(columns: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(columns)
    return text.getvalue()
