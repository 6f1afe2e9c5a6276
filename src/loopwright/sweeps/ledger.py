"""The ledger: a line per point, derived from its attempts, its run's result and what the launcher says. Never the truth.

Nothing here imports torch: `loopwright sweep status` answers from any login shell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from types import MappingProxyType

from loopwright.errors import RunError
from loopwright.record.files import dumps, write_atomic
from loopwright.sweeps.deriving import derive
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.entry import Entry, as_plain, to_number
from loopwright.sweeps.launcher import JobState


class Ledger:
    """The lines of the points that are asked for, as their driver keeps them."""

    def __init__(self, directory: SweepDirectory, known: Mapping[int, Entry] = MappingProxyType({})) -> None:
        """`known` are lines of this command already: a launcher may have said what no file tells."""
        self.directory = directory
        self.points = directory.points()
        self.entries: dict[int, Entry] = {}
        self._texts: dict[int, str] = {}
        for number in self.points:
            if number in known:
                self._set(known[number])
            else:
                self.update(number)

    def update(self, number: int, state: JobState | None = None, before: int = 0) -> Entry:
        """Look at a point again. `before` is how many attempts it had when its job was started."""
        entry = derive(self.directory, number, self.points[number], state, before)
        self._set(entry)
        return entry

    def _set(self, entry: Entry) -> None:
        self.entries[entry.point] = entry
        self._texts[entry.point] = dumps(as_plain(entry)) + "\n"

    @property
    def lines(self) -> tuple[Entry, ...]:
        return tuple(self.entries.values())

    def write(self) -> None:
        """Replace ledger.jsonl."""
        write_atomic(self.directory.ledger_file, "".join(self._texts.values()), durable=False)


def view(directory: SweepDirectory, states: Mapping[int, JobState] | None = None) -> list[Entry]:
    """How the points of a sweep stand, for whoever does not drive it. Raises RunError where there is no plan."""
    known = states or {}
    written = {entry.point: entry for entry in read_ledger(directory)}
    lines = []
    for number, point in directory.points().items():
        line = derive(directory, number, point, known.get(number))
        was = written.get(number)
        seen = line.status in ("waiting", "crashed") and number not in known
        if seen and was is not None and was.status in ("failed", "crashed") and was.attempts == line.attempts:
            line = replace(
                line, status=was.status, error=was.error
            )  # its launcher told the driver more than files tell
        lines.append(line)
    return lines


def read_ledger(directory: SweepDirectory) -> list[Entry]:
    """The lines that the driver wrote last; those that do not parse are left out."""
    names = {field.name for field in fields(Entry)}
    found: list[Entry] = []
    try:
        lines = directory.ledger_file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            row = {name: value for name, value in json.loads(line).items() if name in names}
            test = row.get("test")
            found.append(
                Entry(
                    **{
                        **row,
                        "point": int(row["point"]),
                        "overrides": tuple(row["overrides"]),
                        "best": to_number(row.get("best")),
                        "value": to_number(row.get("value")),
                        "test": None if test is None else {key: to_number(value) for key, value in test.items()},
                    }
                )
            )
    return found


def finished_keys(directory: SweepDirectory) -> frozenset[str]:
    """The keys of the points that have an outcome; none where the sweep has not begun. Raises RunError."""
    try:
        points = directory.points()
    except RunError:
        if directory.path.exists() and any(directory.path.glob("plan.json")):
            raise
        return frozenset()
    return frozenset(str(points[entry.point]["key"]) for entry in view(directory) if entry.has_outcome)
