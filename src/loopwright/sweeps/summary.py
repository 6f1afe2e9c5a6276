"""The summary of a sweep: a row per configuration, that is of the points that differ in nothing but the seed.

Of each: the monitor's best value on val, the test metrics of the best weights, epochs and seconds, as mean and sample
standard deviation over the seeds. A diverged seed has the worst value there is, and so has the mean, as in
`seeds.SeedsOutcome`. No torch: it is shown wherever the ledger is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.record.files import write_atomic
from loopwright.record.tables import csv_text
from loopwright.sweeps.entry import Entry, counts


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation of `n` values; None where there are too few, or one is not finite."""

    n: int = 0
    mean: float | None = None
    std: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the seeds of a configuration came to. `points` were asked for, `val.n` of them have a value."""

    points: int = 0
    val: Spread = Spread()
    test: Mapping[str, Spread] = field(default_factory=dict)
    epochs: float | None = None
    seconds: float | None = None
    statuses: Mapping[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every seed has a finite value."""
        return self.points == self.val.n > 0 and self.val.mean is not None and math.isfinite(self.val.mean)


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration. `screened` is what its screening showed, in a sweep that screens first; then `measured` is of the
    fresh seeds it was confirmed with, empty where it was not."""

    key: str
    label: str
    monitor: str | None
    mode: str | None
    measured: Measured
    screened: Measured | None = None


@dataclass(frozen=True, slots=True)
class SweepOutcome:
    """How a sweep stands: a line per point, a row per configuration (best first), and the exit code of its command."""

    directory: Path
    lines: tuple[Entry, ...]
    rows: tuple[Row, ...]
    exit_code: int


def summarise(entries: Iterable[Entry], points: Mapping[int, Mapping[str, Any]]) -> list[Row]:
    """The rows, best first; `points` are the plan's, by number. Of a screening, those that were confirmed come first."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(str(points[entry.point]["key"]).rpartition("-s")[0], []).append(entry)
    rows = [_row(key, group) for key, group in found.items()]
    monitors = list(dict.fromkeys(row.monitor for row in rows if row.monitor is not None))

    def rank(row: Row) -> tuple[bool, int, bool, float]:
        unconfirmed = row.screened is not None and row.measured.points == 0
        mean = (row.screened if unconfirmed and row.screened else row.measured).val.mean
        order = monitors.index(row.monitor) if row.monitor is not None else len(monitors)
        return unconfirmed, order, mean is None, _lower_is_better(mean or 0.0, row.mode)

    return sorted(rows, key=rank)


def write_summary(file: Path, rows: Sequence[Row]) -> None:
    """Replace summary.csv. Floats read back to the same bits."""
    write_atomic(file, csv_text(as_plain(rows)), durable=False)


def as_plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of summary.csv as JSON values."""
    metrics = list(dict.fromkeys(name for row in rows for name in row.measured.test))
    return [dict(_cells(row, metrics)) for row in rows]


def shown_metrics(rows: Sequence[Row], most: int = 3) -> list[str]:
    """The test metrics that a table for a person shows: the monitor's own first, and a few others."""
    monitors = [row.monitor.removeprefix("val_") for row in rows if row.monitor is not None]
    metrics = dict.fromkeys(name for row in rows for name in row.measured.test)
    return [*dict.fromkeys([*(name for name in monitors if name in metrics), *metrics])][:most]


def _row(key: str, group: list[Entry]) -> Row:
    screened = [entry for entry in group if entry.stage == "screen"]
    rest = [entry for entry in group if entry.stage != "screen"]
    with_monitor = next((entry for entry in group if entry.monitor is not None), group[0])
    return Row(
        key,
        group[0].label,
        with_monitor.monitor,
        with_monitor.mode,
        _measured(rest),
        _measured(screened) if screened else None,
    )


def _measured(entries: list[Entry]) -> Measured:
    ended = [entry for entry in entries if entry.has_outcome]
    metrics = dict.fromkeys(name for entry in ended for name in entry.test or {})
    return Measured(
        points=len(entries),
        val=_spread(_worst(entry.mode) if entry.status == "diverged" else entry.best for entry in ended),
        test={name: _test(ended, name) for name in metrics},
        epochs=_spread(entry.epochs for entry in ended).mean,
        seconds=_spread(entry.seconds for entry in ended).mean,
        statuses=counts(entries),
    )


def _test(ended: list[Entry], metric: str) -> Spread:
    """Of the weights that were best on val. Which way a metric is better is known of the monitor's own only."""
    diverged = [entry for entry in ended if entry.status == "diverged"]
    if not diverged:
        return _spread((entry.test or {}).get(metric) for entry in ended)
    if diverged[0].monitor != f"val_{metric}":
        return Spread(len(ended))
    return _spread(
        _worst(entry.mode) if entry.status == "diverged" else (entry.test or {}).get(metric) for entry in ended
    )


def _spread(given: Iterable[float | None]) -> Spread:
    values = [float(value) for value in given if value is not None]
    if not values:
        return Spread()
    if not all(map(math.isfinite, values)):
        return Spread(len(values), next(value for value in values if not math.isfinite(value)))
    std = statistics.stdev(values) if len(values) > 1 else None
    return Spread(len(values), math.fsum(values) / len(values), std)


def _worst(mode: str | None) -> float:
    return -math.inf if mode == "max" else math.inf


def _lower_is_better(value: float, mode: str | None) -> float:
    return -value if mode == "max" else value


def _cells(row: Row, metrics: Sequence[str]) -> Iterator[tuple[str, Any]]:
    yield "configuration", row.label
    yield "monitor", row.monitor
    screened, measured = row.screened, row.measured
    if screened is not None:
        yield "screened_points", screened.points
        yield "screened_n", screened.val.n
        yield "screened_val_mean", screened.val.mean
        yield "screened_val_std", screened.val.std
    yield "points", measured.points
    yield "n", measured.val.n
    yield "val_mean", measured.val.mean
    yield "val_std", measured.val.std
    for name in metrics:
        spread = measured.test.get(name, Spread())
        yield f"test_{name}_mean", spread.mean
        yield f"test_{name}_std", spread.std
    # Of a configuration that was screened and no more, what the screening took.
    shown = measured if measured.points or screened is None else screened
    yield "epochs", shown.epochs
    yield "seconds", shown.seconds
    statuses = dict(measured.statuses)
    for status, number in (screened.statuses if screened is not None else {}).items():
        statuses[status] = statuses.get(status, 0) + number
    yield "diverged", statuses.pop("diverged", 0)
    yield "failed", statuses.pop("failed", 0)
    yield "crashed", statuses.pop("crashed", 0)
    yield "unfinished", sum(statuses.get(status, 0) for status in ("waiting", "queued", "running", "interrupted"))
