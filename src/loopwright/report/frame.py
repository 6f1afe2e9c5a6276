"""What a figure reads of a run: its tables as columns of numbers, and `Record`, everything else in the directory."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.errors import RunError
from loopwright.record.read import read_config, read_json
from loopwright.report.captures import Capture, find_captures

Array = np.ndarray[Any, np.dtype[np.float64]]
Columns = dict[str, list[float | None]]
_MOST_CHARACTERS = 10_000  # of an event that says how a run began
# A metric over the samples of some lengths only: val_token_accuracy_len_6_10, both bounds included.
LENGTH_BIN = re.compile(r"(?:val_)?(?P<metric>.+)_len_(?P<low>\d+)_(?P<high>\d+)$", re.ASCII)


@dataclass(frozen=True)
class Record:
    """A run's directory, each part read once, when it is first asked for. Nothing is ever written.

    With `epoch` the record as it stood at the end of that epoch.
    """

    path: Path
    epoch: int | None = None

    @cached_property
    def epochs(self) -> Columns:
        """The columns of `metrics.csv`. Raises RunError where it is damaged."""
        return self._until(metrics(self.path))

    @cached_property
    def steps(self) -> Columns:
        """The columns of `steps.csv`. Raises RunError where it is damaged."""
        return self._until(steps(self.path))

    def _until(self, columns: Columns) -> Columns:
        if self.epoch is None or "epoch" not in columns:
            return columns
        kept = [row for row, epoch in enumerate(columns["epoch"]) if epoch is not None and epoch <= self.epoch]
        return {name: [values[row] for row in kept] for name, values in columns.items()}

    @cached_property
    def result(self) -> dict[str, Any]:
        """What `result.json` says; while the run goes on, or where the file is damaged, what `best` follows at most."""
        try:
            ended = read_json(self.path / "result.json") if self.epoch is None else None
        except RunError:
            ended = None
        return ended or self._followed

    @cached_property
    def _followed(self) -> dict[str, Any]:
        """`monitor` and `mode`, of the first event; nothing where it is missing or damaged."""
        try:
            with (self.path / "events.jsonl").open(encoding="utf-8") as file:
                began = json.loads(file.readline(_MOST_CHARACTERS))
        except (OSError, ValueError, RecursionError):
            return {}
        facts = {name: began.get(name) for name in ("monitor", "mode")} if isinstance(began, dict) else {}
        return {name: value for name, value in facts.items() if isinstance(value, str)}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The recipe in `config.yaml`; nothing where there is none. Raises RunError where it is damaged."""
        return read_config(self.path) if (self.path / "config.yaml").exists() else {}

    @cached_property
    def preset(self) -> str | None:
        """The recipe's `plots`; None where it names none. Raises RunError where `config.yaml` is damaged."""
        plots = self.config.get("plots")
        return plots.get("name") if isinstance(plots, dict) else None

    @cached_property
    def token_names(self) -> list[str]:
        """The names of the tokens by their id, from `task/vocabulary.json`; none where there is no such file.

        Raises RunError where it is damaged.
        """
        path = self.path / "task" / "vocabulary.json"
        vocabulary = read_json(path)
        names = [] if vocabulary is None else vocabulary.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RunError(f"{path} is damaged: 'names' is no list of names")
        return names

    @cached_property
    def captures(self) -> tuple[Capture, ...]:
        """The captured steps in `captures/`, the oldest first; an array is read from them when it is asked for."""
        found = find_captures(self.path / "captures")
        if self.epoch is None:
            return found
        newest = max((step for step in self.epochs.get("step", ()) if step is not None), default=0)
        return tuple(capture for capture in found if capture.step <= newest)

    @cached_property
    def views(self) -> Capture | None:
        """What the best weights make of a few samples of the test split (val without one); of an epoch, its weights.

        None where it was not measured: `loopwright evaluate RUN` does.
        """
        names = [f"evaluation/{split}_best_views.npz" for split in ("test", "val", "train")]
        if self.epoch is not None:
            names = [f"captures/epoch_{self.epoch:04d}.npz"]
        return next((Capture(self.path / name) for name in names if (self.path / name).is_file()), None)


def metrics(run_dir: Path) -> Columns:
    """The columns of `metrics.csv`, a row per epoch or per period; no columns where there is no table yet."""
    return read_columns(Path(run_dir) / "metrics.csv")


def steps(run_dir: Path) -> Columns:
    """The columns of `steps.csv`, a row per optimizer step; no columns where there is no table."""
    return read_columns(Path(run_dir) / "steps.csv")


def row_axis(epochs: Columns) -> str:
    """The column of `metrics.csv` that tells its rows apart: `epoch` where each epoch has one, else `step`."""
    numbers, _ = series(epochs, "epoch", "epoch")
    steps, _ = series(epochs, "epoch", "step")
    return "step" if len(set(numbers.tolist())) < len(numbers) == len(steps) else "epoch"


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


def series(columns: Columns, x: str, y: str) -> tuple[Array, Array]:
    """Two columns as arrays, rows with an empty cell left out; an infinite y becomes a gap (nan), like nan itself."""
    pairs = [(a, b) for a, b in zip(columns.get(x, ()), columns.get(y, ()), strict=False) if None not in (a, b)]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], np.where(np.isfinite(table[:, 1]), table[:, 1], np.nan)
