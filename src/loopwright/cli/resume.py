"""`loopwright resume`."""

from __future__ import annotations

from pathlib import Path

import click

from loopwright.cli import options
from loopwright.cli.importing import importing


@click.command("resume")
@options.run_argument
@options.overrides
@options.allow_import
@options.config_dir
@options.out
@options.require_gate
@options.json_line
def command(
    run: str,
    overrides: tuple[str, ...],
    allow_import: tuple[str, ...],
    config_dir: Path | None,
    out: Path | None,
    require_gate: bool,
    json_line: bool,
) -> int:
    """Go on with RUN (a directory, the beginning of its name, or `last`) to the same bits.

    Overrides (train.epochs=100, stop.patience=0) start a child run from its newest checkpoint instead.
    """
    from loopwright.console import observers, start_logging
    from loopwright.record.read import read_config, resolve_run

    with importing():
        from loopwright.resuming import resume_run

    start_logging()
    path = resolve_run(run, options.root(out))
    record = read_config(path).get("record")
    console_every = record.get("console_every", 1) if isinstance(record, dict) else 1
    outcome = resume_run(
        path, overrides, allow_import=allow_import, config_dir=config_dir, hooks=observers(int(console_every))
    )
    return options.ended(outcome, as_line=json_line, gate_required=require_gate)
