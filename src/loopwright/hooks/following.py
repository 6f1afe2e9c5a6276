"""The process beside a training that shows its record to one tracker: `python -m loopwright.hooks.following NAME RUN`.

It is told nothing but the end, by its standard input: once a second it reads what `metrics.csv` has grown by. Whatever
goes wrong here goes wrong here only. What it has to say is a line on its standard output. Nothing in it imports torch.
"""

from __future__ import annotations

import csv
import fcntl
import importlib
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from loopwright.errors import RunError
from loopwright.record.read import read_config, read_json, read_result, read_sessions

_POLL_SECONDS = 1.0
# A process whose training was killed shows what there is and ends; its successor waits so long for that.
_LOCK_SECONDS = 60.0
_MACHINE = ("_seconds", "_per_second", "_mib")


@dataclass(frozen=True, slots=True)
class Point:
    """A row of metrics.csv: its optimizer step, when it came about (seconds since 1970), its numbers by shown name."""

    step: int
    at: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class About:
    """What a tracker is told of a run beside its rows. `born` tells it from every other run, whatever their names."""

    run: Path
    config: Mapping[str, Any]
    recipe_id: str
    run_id: str
    born: str


class View(Protocol):
    """A tracker. It is made as `View(about, folder, say)`, in an empty folder; `say` passes a line to the person."""

    def add(self, points: Sequence[Point]) -> None:
        """Show rows, in the order of their steps."""

    def finish(self, result: Mapping[str, Any] | None) -> None:
        """Show how the run ended, and let go. `result` is what result.json says, None where it was cut short."""


def shown(column: str) -> str:
    """The name under which a column is tracked.

    >>> [shown(name) for name in ("train_loss", "val_recall_at_20", "lr", "epoch_seconds", "epoch")]
    ['train/loss', 'val/recall_at_20', 'train/lr', 'machine/epoch_seconds', 'epoch']
    """
    for split in ("train", "val"):
        if column.startswith(f"{split}_"):
            return f"{split}/{column.removeprefix(f'{split}_')}"
    if column == "lr":
        return "train/lr"
    return f"machine/{column}" if column.endswith(_MACHINE) else column


def final(result: Mapping[str, Any]) -> dict[str, float | str]:
    """What is tracked of a result: how it ended, the best row, the test with the best and the last weights."""
    facts: dict[str, Any] = {
        name: result.get(name) for name in ("status", "reason", "epochs", "steps", "monitor", "value")
    }
    facts |= {f"best/{shown(name)}": value for name, value in (result.get("best") or {}).items()}
    for weights, metrics in (result.get("test") or {}).items():
        facts |= {f"test/{weights}/{name}": value for name, value in metrics.items()}
    kept = {name: value for name, value in facts.items() if value is not None and "/machine/" not in name}
    return {name: float(value) if value in ("nan", "inf", "-inf") else value for name, value in kept.items()}


class Rows:
    """The rows of a metrics.csv that grows, each read once.

    A row's moment is the start of the first session plus the seconds of work up to it: pauses do not count, and it is
    the same however often the record is shown. The rows that a child has from its parent lie before its start.
    """

    def __init__(self, run: Path) -> None:
        self._path = run / "metrics.csv"
        first = next(iter(read_sessions(run)), {})
        born = first.get("started_at")
        self._moment = datetime.fromisoformat(born).timestamp() if isinstance(born, str) else time.time()
        self._inherited = first.get("step_from") or 0
        self._header = b""
        self._columns: list[str] = []
        self._position = 0
        self._seen = 0

    def new(self) -> list[Point]:
        """The rows that were written since the last call; what is torn is left for the next one."""
        with suppress(FileNotFoundError), self._path.open("rb") as file:
            header, known = file.readline(), 0
            if not header.endswith(b"\n"):
                return []
            first = not self._header
            if header != self._header:  # a table that gains a column is replaced by a longer one
                self._header, self._position, known = header, len(header), self._seen
                self._columns = next(csv.reader([header.decode()]))
            file.seek(self._position)
            text, whole, _ = file.read().rpartition(b"\n")
            self._position += len(text) + len(whole)
            rows = [self._numbers(line) for line in csv.reader(text.decode().splitlines())][known:]
            self._seen += len(rows)
            if first:
                self._moment -= sum(_seconds(row) for row in rows if row["step"] <= self._inherited)
            return [self._point(row) for row in rows]
        return []

    def _numbers(self, line: Sequence[str]) -> dict[str, float]:
        return {name: float(cell) for name, cell in zip(self._columns, line, strict=True) if cell}

    def _point(self, row: Mapping[str, float]) -> Point:
        self._moment += _seconds(row)
        values = {shown(name): value for name, value in row.items() if name != "step"}
        return Point(int(row["step"]), self._moment, values)


def _seconds(row: Mapping[str, float]) -> float:
    return row.get("epoch_seconds", 0.0)


def follow(run: Path, view: View, over: Callable[[float], bool]) -> None:
    """Show a run's rows as they come, until `over` (which waits so many seconds) says that there will be no more."""
    rows, last = Rows(run), False
    while not last:
        last = over(_POLL_SECONDS)
        points = rows.new()
        if points:
            view.add(points)
    view.finish(read_result(run))


def about(run: Path) -> About:
    """What is told of a run. Raises RunError where its record is damaged."""
    environment = read_json(run / "environment.json") or {}
    first = next(iter(read_sessions(run)), {})
    born = " ".join(str(first.get(name)) for name in ("host", "pid", "started_at"))
    recipe_id, run_id = (str(environment.get(name, "")) for name in ("recipe_id", "run_id"))
    return About(run.resolve(), read_config(run), recipe_id, run_id, born)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """A block for one process at a time, as far as the file system knows locks. Raises RunError after a minute."""
    until = time.monotonic() + _LOCK_SECONDS
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise RunError("an earlier process of this run is still sending") from None
                time.sleep(0.05)
            except OSError:  # a file system without locks
                break
        yield


def main(name: str, path: str) -> int:
    """Follow a run until standard input has something to read or ends. 1 where the tracker failed."""
    voice = os.dup(1)
    os.dup2(2, 1)  # trackers print

    def say(line: str) -> None:
        with suppress(OSError):  # nobody listens any more
            os.write(voice, f"{' '.join(line.split())[:500]}\n".encode())

    def over(seconds: float) -> bool:
        return bool(select.select([0], [], [], seconds)[0])

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):  # a scheduler's are for the training
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)  # the training goes first
    try:
        run = Path(path)
        told = about(run)  # first of all: it refuses a run with links that leave it, where the next lines would remove
        folder = run / "trackers" / name
        with alone(folder.with_name(f".{name}.lock")):
            if folder.is_dir():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            view = importlib.import_module(f"loopwright.hooks.{name}").View(told, folder, say)
            follow(run, view, over)
    except Exception as error:
        say(f"{name} failed and is switched off, the training goes on: {type(error).__name__}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
