"""`loopwright sweep status|wait|cancel`: a sweep from another shell. Torch is imported by a `wait` that drives, if at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loopwright.cli import options
from loopwright.cli.importing import importing

if TYPE_CHECKING:
    from loopwright.cli.sweep_text import Screen
    from loopwright.sweeps.directory import SweepDirectory
    from loopwright.sweeps.summary import SweepOutcome

_LOOK_SECONDS = 0.5
_ASK_SECONDS = 2.0  # between two questions to a cluster

sweep_argument = click.argument("sweep", metavar="DIR")


@click.command("status")
@sweep_argument
@options.out
@options.allow_import
@options.json_line
def status(sweep: str, out: Path | None, allow_import: tuple[str, ...], json_line: bool) -> int:
    """How the points of a sweep stand. DIR is its directory, or its name or hash below the root."""
    from loopwright.cli.sweep_text import points_table, said, troubles
    from loopwright.sweeps.entry import counts
    from loopwright.sweeps.standing import find_sweep, standing

    directory = find_sweep(sweep, options.root(out))
    entries, driven = standing(directory, allow_import)
    if json_line:
        from loopwright.record.files import dumps
        from loopwright.sweeps.entry import as_plain

        points = [as_plain(entry) for entry in entries]
        click.echo(dumps({"sweep": str(directory.path), "driven": driven, "counts": counts(entries), "points": points}))
        return 0
    click.echo(points_table(entries, directory.path))
    click.echo(said(counts(entries)))
    for line in troubles(entries):
        click.echo(line)
    if not driven and any(not entry.has_outcome for entry in entries):
        click.echo("no process drives it; the sweep's command, given again, goes on with it")
    click.echo(f"sweep: {directory.path}")
    return 0


@click.command("wait")
@sweep_argument
@options.out
@options.allow_import
@options.json_line
def wait(sweep: str, out: Path | None, allow_import: tuple[str, ...], json_line: bool) -> int:
    """Wait until a sweep has ended; exit as it does. Drives it where its runs are in a queue and nobody does."""
    from loopwright.cli.sweep_text import Screen, ended
    from loopwright.sweeps.standing import find_sweep, goes_on, is_at_work

    directory = find_sweep(sweep, options.root(out))
    watcher = Screen()
    if directory.lock.is_held():
        _watch(directory, watcher)
    else:
        while directory.cancelled.exists() and is_at_work(directory, allow_import):
            time.sleep(_ASK_SECONDS)  # for the last words of runs that were cancelled; none of them is started again
        if goes_on(directory, allow_import):
            with importing():
                from loopwright.sweeps.run import recorded_plan, run_sweep
            from loopwright.console import start_logging

            start_logging()
            plan = recorded_plan(directory, allow_import)
            root, config_dir = directory.plan()["root"], directory.plan().get("config_dir")
            try:
                outcome = run_sweep(
                    plan,
                    out=root,
                    allow_import=allow_import,
                    config_dir=Path(config_dir) if config_dir else None,
                    watcher=watcher,
                )
            finally:
                watcher.close()
            return ended(outcome, json_line)
    return ended(_as_it_stands(directory, allow_import), json_line)


@click.command("cancel")
@sweep_argument
@options.out
@options.allow_import
def cancel(sweep: str, out: Path | None, allow_import: tuple[str, ...]) -> int:
    """Stop a sweep, its runs after a checkpoint. The sweep's command, given again, goes on with it."""
    from loopwright.sweeps import standing

    directory = standing.find_sweep(sweep, options.root(out))
    click.echo(f"{standing.cancel(directory, allow_import)} ({directory.path})")
    return 0


def _watch(directory: SweepDirectory, watcher: Screen) -> None:
    """Look at what the process that drives a sweep writes until it has ended, and say which points have meanwhile."""
    from loopwright.sweeps.entry import counts
    from loopwright.sweeps.ledger import read_ledger
    from loopwright.sweeps.progress import Progress

    told: set[int] | None = None
    driven = True
    while driven:
        driven = directory.lock.is_held()
        entries = read_ledger(directory)
        done = {entry.point: entry for entry in entries if entry.has_outcome}
        progress = Progress(len(done), len(entries), None)
        for number in sorted(done.keys() - (done.keys() if told is None else told)):
            watcher.ended(done[number], progress)
        told = set(done)
        watcher.standing(counts(entries), progress)
        if driven:
            time.sleep(_LOOK_SECONDS)
    watcher.close()


def _as_it_stands(directory: SweepDirectory, allow_import: Sequence[str]) -> SweepOutcome:
    from loopwright.sweeps.entry import exit_code
    from loopwright.sweeps.standing import standing
    from loopwright.sweeps.summary import SweepOutcome, summarise

    entries, _ = standing(directory, allow_import)
    rows = summarise(entries, directory.points())
    return SweepOutcome(directory.path, tuple(entries), tuple(rows), exit_code(entries))
