"""The file format of a history of events, and the five checks that a file has to pass.

A comma-separated file of 45 columns: `date`, the five parts `m_1..m_5` (1 to 39), and `P_1..P_39` (1 where the part is
in the event, else 0). Lines count from 1, the header being line 1. A byte-order mark, CRLF and blank lines are
tolerated.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path

from loopwright.errors import DataError

NUM_PARTS = 39
PARTS_PER_EVENT = 5
PART_COLUMNS = tuple(f"m_{i}" for i in range(1, PARTS_PER_EVENT + 1))
VECTOR_COLUMNS = tuple(f"P_{i}" for i in range(1, NUM_PARTS + 1))
COLUMNS = ("date", *PART_COLUMNS, *VECTOR_COLUMNS)

_ISO = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
_AMERICAN = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})")
_SHOWN = 10

Problem = tuple[int, str]  # the line it stands on; what is wrong there and how to mend it


@dataclass(frozen=True)
class Table:
    """The cells of a file as text: the header, and (line, cells) for every row that is not blank."""

    header: list[str]
    rows: list[tuple[int, list[str]]]

    def position(self, column: str) -> int:
        """Where a column stands: by its name, else where the format has it, so that every check can run."""
        return self.header.index(column) if column in self.header else COLUMNS.index(column)

    def picker(self, columns: tuple[str, ...]) -> Callable[[list[str]], tuple[str, ...]]:
        """A function from a row's cells to those of some columns (two or more); raises IndexError on a short row."""
        return itemgetter(*map(self.position, columns))


@dataclass(frozen=True)
class CheckResult:
    """One check: its title, every line that fails it, and the first problem in words."""

    title: str
    failing: tuple[int, ...]
    problem: str

    @property
    def passed(self) -> bool:
        """Whether no line fails."""
        return not self.failing


@dataclass(frozen=True)
class Report:
    """What `validate` found: the size of a history and the outcome of all five checks."""

    rows: int
    first_date: date | None
    last_date: date | None
    parts_seen: tuple[int, ...]
    checks: tuple[CheckResult, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def lines(self) -> list[str]:
        """The report as text, one line per fact and per check, with the first ten failing lines of the file."""
        never = [str(part) for part in range(1, NUM_PARTS + 1) if part not in self.parts_seen]
        text = [
            f"rows        {self.rows}",
            f"first date  {self.first_date or 'none'}",
            f"last date   {self.last_date or 'none'}",
            f"parts seen  {len(self.parts_seen)} of {NUM_PARTS}" + (f" (never: {' '.join(never)})" if never else ""),
        ]
        for check in self.checks:
            if check.passed:
                text.append(f"pass  {check.title}")
                continue
            count = len(check.failing)
            shown = ", ".join(map(str, check.failing[:_SHOWN])) + (", ..." if count > _SHOWN else "")
            text.append(f"FAIL  {check.title}: {count} failing (line {shown}); line {check.failing[0]} {check.problem}")
        return text


def validate(path: str | Path) -> Report:
    """Run all five checks on a file, whatever fails. Raises DataError only when the file cannot be read as text."""
    table = read_table(path)
    checks = []
    for title, check in CHECKS:
        problems = list(check(table))
        checks.append(CheckResult(title, tuple(line for line, _ in problems), problems[0][1] if problems else ""))
    position = table.position("date")
    dates = [day for _, cells in table.rows if position < len(cells) and (day := parse_date(cells[position]))]
    at = [table.position(column) for column in VECTOR_COLUMNS]
    seen = {part for _, cells in table.rows for part, i in enumerate(at, 1) if i < len(cells) and cells[i] == "1"}
    first, last = (dates[0], dates[-1]) if dates else (None, None)
    return Report(len(table.rows), first, last, tuple(sorted(seen)), tuple(checks))


def read_table(path: str | Path) -> Table:
    """The cells of a file. Raises DataError when it is missing, unreadable, not UTF-8, or not separated values."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a CSV file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the path of a CSV file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path} line {line} is not UTF-8 text; save the file as a UTF-8 CSV") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        rows = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise DataError(f"{path} line {reader.line_num} is not CSV ({error}); save the file as a UTF-8 CSV") from None
    return Table(rows[0][1] if rows else [], rows[1:])


def parse_date(text: str) -> date | None:
    """The day of an ISO (2020-06-15) or M/D/YYYY (6/15/2020) date; None for anything else."""
    try:
        if match := _ISO.fullmatch(text.strip()):
            year, month, day = map(int, match.groups())
        elif match := _AMERICAN.fullmatch(text.strip()):
            month, day, year = map(int, match.groups())
        else:
            return None
        return date(year, month, day)
    except ValueError:
        return None


def _column_count(table: Table) -> Iterator[Problem]:
    if not table.header:
        yield 1, "is missing: the file is empty; it needs a header and a row per event"
        return
    for line, cells in [(1, table.header), *table.rows]:
        if len(cells) != len(COLUMNS):
            yield line, f"has {len(cells)} columns; write {len(COLUMNS)}, by commas: date, m_1..m_5, P_1..P_39"
    if not table.rows:
        yield 1, "is the only one: no event follows the header; add a row per event"


def _column_names(table: Table) -> Iterator[Problem]:
    for number, (found, expected) in enumerate(zip_longest(table.header, COLUMNS), 1):
        if found != expected:
            is_ = "is missing" if found is None else f"is {found!r}"
            yield 1, f"column {number} {is_}; " + (f"name it {expected!r}" if expected else "remove it")
            return


def _dates(table: Table) -> Iterator[Problem]:
    position, previous = table.position("date"), None
    for line, cells in table.rows:
        text = cells[position] if position < len(cells) else ""
        day = parse_date(text)
        if day is None:
            yield line, f"has the date {text!r}; write it as YYYY-MM-DD or M/D/YYYY"
        elif previous is not None and day < previous:
            yield line, f"has the date {text!r}, before the {previous} above it; put the events in order of time"
        else:
            previous = day


def _sums(table: Table) -> Iterator[Problem]:
    pick = table.picker(VECTOR_COLUMNS)
    for line, cells in table.rows:
        try:
            vector = pick(cells)
        except IndexError:
            yield line, f"has {len(cells)} columns and lacks some of P_1..P_39; add them"
            continue
        ones = vector.count("1")
        if ones + vector.count("0") != NUM_PARTS:
            part, cell = next((i, cell) for i, cell in enumerate(vector, 1) if cell not in ("0", "1"))
            yield line, f"has {cell!r} in P_{part}; write 0 or 1"
        elif ones != PARTS_PER_EVENT:
            yield line, f"has {ones} ones in P_1..P_39; mark exactly {PARTS_PER_EVENT} parts"


def _agreement(table: Table) -> Iterator[Problem]:
    pick_parts, pick_vector = table.picker(PART_COLUMNS), table.picker(VECTOR_COLUMNS)
    for line, cells in table.rows:
        try:
            named = set(map(int, pick_parts(cells)))
            marked = {part for part, cell in enumerate(pick_vector(cells), 1) if cell == "1"}
        except IndexError:
            yield line, f"has {len(cells)} columns and lacks some of m_1..m_5 or P_1..P_39; add them"
        except ValueError:
            yield line, f"has {' '.join(pick_parts(cells))!r} in m_1..m_5; write whole numbers from 1 to {NUM_PARTS}"
        else:
            if named != marked:
                m, p = (" ".join(map(str, sorted(parts))) for parts in (named, marked))
                yield line, f"names parts {m} in m_1..m_5 and marks {p} in P_1..P_39; make them the same"


CHECKS: tuple[tuple[str, Callable[[Table], Iterator[Problem]]], ...] = (
    (f"every line has {len(COLUMNS)} columns", _column_count),
    ("the columns have their names and order", _column_names),
    ("dates parse and never decrease", _dates),
    (f"P_1..P_39 are 0 or 1 and sum to {PARTS_PER_EVENT}", _sums),
    ("m_1..m_5 and P_1..P_39 agree", _agreement),
)
