"""`loopwright data`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from loopwright.cli import options


@click.group("data")
def command() -> None:
    """Make or check data files."""


@command.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
def validate_(file: Path) -> int:
    """Check a CSV history of task=set_prediction, or an HDF5 file of task.data=events.

    All checks run even if an earlier one fails; exit 2 when one does.
    """
    from loopwright.tasks.autoencoder.validate import is_hdf5

    if is_hdf5(file):
        from loopwright.tasks.autoencoder.validate import validate as validate_events

        return _reported(validate_events(file))
    from loopwright.tasks.set_prediction.validate import validate

    return _reported(validate(file))


def _reported(report: Any) -> int:
    for line in report.lines():
        click.echo(line)
    return 0 if report.ok else 2


@command.group("make")
def make() -> None:
    """Make data with a known answer."""


@make.command("set_prediction")
@click.option("--rows", type=click.IntRange(2, 1_000_000), default=2000, show_default=True, help="Events.")
@click.option(
    "--signal", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="0: chance; 1: fully determined."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", "file", type=click.Path(path_type=Path), required=True, help="The CSV file to write.")
@options.json_line
def set_prediction(rows: int, signal: float, seed: int, file: Path, json_line: bool) -> int:
    """A history with a planted signal, and the best recall that any model can reach on it."""
    from loopwright.errors import DataError
    from loopwright.record.files import dumps
    from loopwright.tasks.set_prediction.history import write_history
    from loopwright.tasks.set_prediction.synthetic import make_history

    made = make_history(rows, signal, seed)
    try:
        write_history(file, made.history)
    except OSError as error:
        raise DataError(f"--out {file} cannot be written: {error.strerror}") from error
    best = {f"recall_at_{k}": value for k, value in made.best_recall_at_k.items()}
    click.echo(f"wrote {file}: {rows} events, signal {signal:g}")
    click.echo("best reachable: " + ", ".join(f"{name} {value:.4f}" for name, value in best.items()))
    if json_line:
        click.echo(dumps({"file": str(file), "rows": rows, "signal": signal, "best_reachable": best}))
    return 0


@make.command("events")
@click.option("--rows", type=click.IntRange(7), default=20_000, show_default=True, help="Events of all three sets.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--out", "file", type=click.Path(path_type=Path), required=True, help="The HDF5 file to write.")
@options.json_line
def events(rows: int, seed: int, file: Path, json_line: bool) -> int:
    """Collision events with planted laws, for task.data=events: momentum is conserved, pairs have a mass."""
    from loopwright.record.files import dumps
    from loopwright.tasks.autoencoder.write import write_events

    counts = write_events(file, rows, seed, _progress(rows))
    sets = ", ".join(f"{split} {count:,}" for split, count in counts.items())
    click.echo(f"wrote {file}: {rows:,} events ({sets})")
    if json_line:
        click.echo(dumps({"file": str(file), "rows": rows, "seed": seed, "sets": counts}))
    return 0


def _progress(rows: int) -> Callable[[int], None]:
    """A line on stderr for every tenth of a long work (a million rows take some seconds)."""
    tenths = 0

    def written(done: int) -> None:
        nonlocal tenths
        if rows >= 1_000_000 and done * 10 // rows > tenths:
            tenths = done * 10 // rows
            click.echo(f"{tenths * 10} %: {done:,} of {rows:,} events", err=True)

    return written
