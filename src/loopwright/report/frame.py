"""A run's tables as columns of numbers, read from the record alone."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from loopwright.errors import RunError

Columns = dict[str, list[float | None]]


def metrics(run_dir: Path) -> Columns:
    """The columns of `metrics.csv`, a row per epoch; no columns where there is no table yet."""
    return read_columns(Path(run_dir) / "metrics.csv")


def steps(run_dir: Path) -> Columns:
    """The columns of `steps.csv`, a row per optimizer step; no columns where there is no table."""
    return read_columns(Path(run_dir) / "steps.csv")


def read_columns(path: Path) -> Columns:
    """A CSV file of numbers: name -> values, None for an empty cell.

    A last line without its newline is being written, or was torn by a kill, and is left out. Raises RunError, naming
    the line, for a row that does not fit the header or a cell that is not a number.
    """
    try:
        # Tables are ASCII; a damaged byte shall be reported as a cell that is no number, not as an encoding.
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); restore the file") from None
    rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    try:
        return _columns(path, rows)
    except csv.Error as error:
        raise RunError(f"{path} line {rows.line_num} is not CSV ({error}); restore the file") from None


def _columns(path: Path, rows: Any) -> Columns:
    header: list[str] = next(rows, [])
    if len(set(header)) != len(header):
        raise RunError(f"{path} has two columns of one name; restore the file")
    values: list[list[float | None]] = [[] for _ in header]
    for row in rows:
        if len(row) != len(header):
            raise RunError(
                f"{path} line {rows.line_num} has {len(row)} cells instead of {len(header)}; restore the file"
            )
        for name, cell, column in zip(header, row, values, strict=True):
            try:
                column.append(float(cell) if cell else None)
            except ValueError:
                raise RunError(
                    f"{path} line {rows.line_num}: {name} is {cell!r}, which is not a number; restore the file"
                ) from None
    return dict(zip(header, values, strict=True))
