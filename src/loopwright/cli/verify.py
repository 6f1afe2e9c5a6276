"""`loopwright verify`."""

from __future__ import annotations

from pathlib import Path

import click

from loopwright.cli import options
from loopwright.cli.importing import importing


@click.command("verify")
@options.run_argument
@click.argument("other", required=False, metavar="[OTHER]")
@click.option(
    "--kill", type=click.IntRange(min=1), metavar="N", help="Train it in processes that are killed N times and resumed."
)
@click.option("--rerun", is_flag=True, help="Train RUN and OTHER again and name the first tensor that differs.")
@click.option(
    "--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep what is trained in this directory."
)
@options.allow_import
@options.config_dir
@options.out
@options.json_line
def command(
    run: str,
    other: str | None,
    kill: int | None,
    rerun: bool,
    keep: Path | None,
    allow_import: tuple[str, ...],
    config_dir: Path | None,
    out: Path | None,
    json_line: bool,
) -> int:
    """Train RUN again from its record and compare bit for bit; exit with 3 where anything differs.

    With OTHER: the first divergence between two runs, from their records alone.
    """
    from loopwright.errors import UserError

    if other is None and rerun:
        raise UserError("--rerun compares two runs; name the other one")
    if other is not None and kill:
        raise UserError("--kill is for one run; leave the other one out")
    if keep is not None and other is not None and not rerun:
        raise UserError("--keep keeps what is trained, and two records are compared without training; add --rerun")
    from loopwright.console import observers, start_logging
    from loopwright.record.files import dumps
    from loopwright.record.read import resolve_run
    from loopwright.text import printable

    with importing():
        from loopwright.proof.verify import verify_pair, verify_run

    start_logging()
    path = resolve_run(run, options.root(out))
    if other is None:
        verdict = verify_run(
            path, kill=kill or 0, keep=keep, allow_import=allow_import, config_dir=config_dir, hooks=observers(1)
        )
    else:
        verdict = verify_pair(
            path,
            resolve_run(other, options.root(out)),
            rerun=rerun,
            keep=keep,
            allow_import=allow_import,
            config_dir=config_dir,
            hooks=observers(1),
        )
    for line in verdict.lines():
        click.echo(printable(line))
    if json_line:
        click.echo(dumps(verdict.plain()))
    return verdict.exit_code
