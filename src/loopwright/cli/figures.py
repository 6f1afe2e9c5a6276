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
    from loopwright.report.frame import Record

    where = resolve_run(run, options.root(out))
    check_contained(where)
    for path in redraw(where):
        click.echo(path)
    preset = Record(where).preset
    unmeasured = preset in ("none", "minimal") and not any((where / "evaluation").glob("*_best_views.npz"))
    if unmeasured and (where / "model.pt").exists():
        click.echo(
            f"with plots={preset} nothing was measured for more figures than these; `loopwright evaluate {where.name}` "
            "measures what its task can show",
            err=True,
        )
    return 0
