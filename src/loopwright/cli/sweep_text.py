"""What `loopwright sweep` prints: a line per point that ends, one that is refreshed on a terminal, and the tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import click

from loopwright import clock
from loopwright.record.files import dumps
from loopwright.sweeps.entry import Entry, counts
from loopwright.sweeps.launcher import INTERRUPTED
from loopwright.sweeps.progress import Progress, Watcher
from loopwright.sweeps.summary import Measured, Row, Spread, SweepOutcome, as_plain, shown_metrics
from loopwright.text import number, printable, table

_REDRAW_SECONDS = 0.2


class Screen(Watcher):
    """Prints what happens to stdout; on a terminal the last line says how the sweep stands."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._drawn = -math.inf
        self._line = ""

    def ended(self, entry: Entry, progress: Progress) -> None:
        best = "" if entry.best is None else f"  {entry.monitor} {number(entry.best)}"
        took = "" if entry.seconds is None else f"  {duration(entry.seconds)}"
        left = progress.seconds_left
        rest = f"  about {duration(left)} left" if left else ""
        self._say(f"{progress.done}/{progress.total}  {entry.status}  {entry.title}{best}{took}{rest}")

    def failed(self, entry: Entry, progress: Progress) -> None:
        self._say(f"{progress.done}/{progress.total}  {entry.status}  {entry.title}: {entry.error}")
        self._say(f"  log: {entry.log}")

    def again(self, entry: Entry, crashes: int, retries: int) -> None:
        self._say(f"  {entry.title}: {entry.error}; started again ({crashes} of {retries} retries)")

    def standing(self, counted: Mapping[str, int], progress: Progress) -> None:
        now = clock.monotonic()
        if not self._terminal or now < self._drawn + _REDRAW_SECONDS:
            return
        self._drawn = now
        left = f", about {duration(progress.seconds_left)} left" if progress.seconds_left else ""
        line = f"{progress.done}/{progress.total} done: {said(counted)}{left}"
        if line != self._line:
            self._echo(f"\r\x1b[K{line}")
            self._line = line

    def close(self) -> None:
        """Take the refreshed line away."""
        if self._line:
            self._echo("\r\x1b[K")
            self._line = ""

    def _say(self, text: str) -> None:
        self.close()
        self._echo(f"{printable(text)}\n")

    def _echo(self, text: str) -> None:
        with suppress(BrokenPipeError):  # whoever read this has gone (`| head`); the runs go on
            click.echo(text, nl=False)


def ended(outcome: SweepOutcome, json_line: bool) -> int:
    """Print how a sweep stands when its command ends, and give the exit code."""
    click.echo()
    click.echo(summary_table(outcome.rows))
    click.echo(said(counts(outcome.lines)))
    for line in troubles(outcome.lines):
        click.echo(line)
    if outcome.exit_code == INTERRUPTED:
        click.echo("not finished: the same command, given again, goes on with it")
    click.echo(f"sweep: {outcome.directory}")
    if json_line:
        facts = {
            "sweep": str(outcome.directory),
            "exit_code": outcome.exit_code,
            "counts": counts(outcome.lines),
            "rows": as_plain(outcome.rows),
        }
        click.echo(dumps(facts))
    return outcome.exit_code


def said(counted: Mapping[str, int]) -> str:
    """`58 completed, 2 failed`."""
    return ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counted.items()) or "no points"


def duration(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{int(hours)}h{int(minutes):02d}m"
    if minutes:
        return f"{int(minutes)}m{int(rest):02d}s"
    return f"{rest:.1f}s" if rest >= 1 else f"{rest:.2f}s"


def summary_table(rows: Sequence[Row]) -> str:
    """The configurations, best first: val, test with the weights that were best on val, seeds, epochs, time."""
    screening = any(row.screened is not None for row in rows)
    monitors = list(dict.fromkeys(row.monitor for row in rows if row.monitor is not None))
    val = monitors[0] if len(monitors) == 1 else "val"
    metrics = shown_metrics(rows)
    head = ["configuration", *([f"screened {val}", "n"] if screening else []), val, *(f"test_{m}" for m in metrics)]
    cells = [[*head, "n", "epochs", "time", "remarks"]]
    for row in rows:
        done, first = row.measured, row.screened
        shown = done if done.points or first is None else first
        cells.append(
            [
                row.label,
                *([_spread(first.val) if first else "-", str(first.val.n) if first else "-"] if screening else []),
                _spread(done.val),
                *(_spread(done.test.get(metric, Spread())) for metric in metrics),
                str(done.val.n),
                "-" if shown.epochs is None else f"{shown.epochs:.4g}",
                "-" if shown.seconds is None else duration(shown.seconds),
                ", ".join(filter(None, [_remark(first), _remark(done)])),
            ]
        )
    if not any(line[-1] for line in cells[1:]):
        cells = [line[:-1] for line in cells]
    last = len(cells[0]) - 1
    return table(cells, left=(0, last) if cells[0][-1] == "remarks" else (0,))


def points_table(entries: Sequence[Entry], directory: Path) -> str:
    """Every point: how it stands, where it runs, its log below the sweep's `directory`, and the name of its run."""
    cells = [["point", "configuration", "seed", "status", "best", "attempts", "where", "log", "run"]]
    for entry in entries:
        best = "-" if entry.best is None else f"{entry.monitor} {number(entry.best)}"
        seed, tries = str(entry.seed), str(entry.attempts)
        where = entry.where if entry.status in ("queued", "running") else "-"
        log = entry.log.removeprefix(f"{directory}/")
        run = Path(entry.run).name if entry.run else "-"
        cells.append([str(entry.point), entry.label, seed, entry.status, best, tries, where or "-", log, run])
    return table(cells, left=(1, 3, 4, 6, 7, 8))


def troubles(entries: Sequence[Entry]) -> list[str]:
    """What failed or crashed, with its error and its log; points with the same error are named once."""
    alike: dict[tuple[str, str | None], list[Entry]] = {}
    for entry in entries:
        if entry.status in ("failed", "crashed"):
            alike.setdefault((entry.status, entry.error), []).append(entry)
    lines = []
    for (status, error), (first, *others) in alike.items():
        more = f" and {len(others)} more" if others else ""
        lines += [f"{status}: {first.title}{more}: {error}", f"  log: {first.log}"]
    return [printable(line) for line in lines]


def _spread(spread: Spread) -> str:
    """Mean and spread with the same decimals: as many as show two digits of the spread, at least four."""
    if spread.mean is None:
        return "-"
    mean, std = spread.mean, spread.std
    if std is None:
        return number(mean)
    if 1e-8 <= std < 1e4 and abs(mean) < 1e4:
        decimals = max(4, 1 - math.floor(math.log10(std)))
        return f"{mean:.{decimals}f} ± {std:.{decimals}f}"
    return f"{number(mean)} ± {number(std)}"


def _remark(measured: Measured | None) -> str:
    """What a person should know who reads the mean."""
    if measured is None:
        return ""
    names = ("diverged", "gate_failed", "failed", "crashed", "interrupted")
    return said({name: measured.statuses[name] for name in names if measured.statuses.get(name)}).replace(
        "no points", ""
    )
