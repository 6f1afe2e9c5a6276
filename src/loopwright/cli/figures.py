"""`loopwright figures`."""

from __future__ import annotations

from pathlib import Path

import click

from loopwright.cli import options


@click.command("figures")
@options.run_argument
@options.out
def command(run: str, out: Path | None) -> int:
    """Draw the figures of RUN again from its record."""
    from loopwright.record.read import check_contained, resolve_run
    from loopwright.report.draw import redraw

    where = resolve_run(run, options.root(out))
    check_contained(where)
    for path in redraw(where):
        click.echo(path)
    return 0
