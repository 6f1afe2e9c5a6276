"""Every check of an events file, all run even where an earlier one fails."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loopwright.errors import DataError
from loopwright.tasks.autoencoder.hdf5 import Stored, find
from loopwright.tasks.autoencoder.layout import CHECKS, LARGEST_TYPE, NUM_COLUMNS, SETS, failures, types_of
from loopwright.tasks.autoencoder.rows import numbered, read

# An HDF5 file starts with these bytes, or has them after a block of the user's of 512 bytes or a power of two more.
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5")


@dataclass(frozen=True)
class CheckResult:
    """One check: its title, how many rows (or sets) fail it, and the first problem in words."""

    title: str
    failing: int
    problem: str


@dataclass(frozen=True)
class Report:
    """What `validate` found: the rows of each set, the token types, and the outcome of every check."""

    rows: tuple[tuple[str, int | None], ...]
    types: tuple[int, ...]
    tokens_per_event: float | None
    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not any(check.failing for check in self.checks)

    def lines(self) -> list[str]:
        """The report as text, one line per fact and per check."""
        rows = ", ".join(f"{name} {'none' if count is None else f'{count:,}'}" for name, count in self.rows)
        tokens = "none" if self.tokens_per_event is None else f"{self.tokens_per_event:.2f} an event"
        text = [f"rows    {rows}", f"tokens  {tokens}", f"types   {' '.join(map(str, self.types[:50])) or 'none'}"]
        for check in self.checks:
            failed = f"FAIL  {check.title}: {check.failing:,} failing; {check.problem}"
            text.append(failed if check.failing else f"pass  {check.title}")
        return text


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5 by its first bytes, or is meant to be one by its name."""
    if path.suffix.lower() in _SUFFIXES:
        return True
    with suppress(OSError, ValueError), path.open("rb") as file:
        size, offset = path.stat().st_size, 0
        while offset + len(_SIGNATURE) <= size:
            file.seek(offset)
            if file.read(len(_SIGNATURE)) == _SIGNATURE:
                return True
            offset = max(512, 2 * offset)
    return False


def validate(path: Path) -> Report:
    """Run every check on every set. Raises nothing for what a file holds: a set that cannot be read fails the first."""
    found: list[Stored] = []
    unread: list[str] = []
    rows: list[tuple[str, int | None]] = []
    for name in SETS.values():
        try:
            found.append(find(path, name))
            rows.append((name, found[-1].num_rows))
        except DataError as error:
            unread.append(str(error))
            rows.append((name, None))
    failing, first = [0] * len(CHECKS), [""] * len(CHECKS)
    types: set[int] = set()
    num_tokens = num_rows = 0
    for stored in found:
        try:
            for start, slice_ in numbered(read(path, stored)):
                num_rows += len(slice_)
                real = types_of(slice_)
                real = real[(real > 0) & (real <= LARGEST_TYPE)]
                num_tokens += len(real)
                types.update(np.unique(real.astype(np.int64)).tolist())
                for number, count, said in failures(stored.name, start, slice_):
                    failing[number] += count
                    first[number] = first[number] or said
        except DataError as error:
            unread.append(str(error))
    sets = f"{', '.join(SETS.values())} are datasets of (rows, {NUM_COLUMNS}) floats in the file"
    checks = [CheckResult(sets, len(unread), unread[0] if unread else "")]
    for (title, _), count, said in zip(CHECKS, failing, first, strict=True):
        none_read = not num_rows
        checks.append(CheckResult(title, count or int(none_read), said or ("no row can be read" if none_read else "")))
    return Report(tuple(rows), tuple(sorted(types)), num_tokens / num_rows if num_rows else None, tuple(checks))
