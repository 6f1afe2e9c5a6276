"""`loopwright evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from loopwright.cli import options
from loopwright.cli.importing import importing


@click.command("evaluate")
@options.run_argument
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--checkpoint", default="best", show_default=True, help="best, last, gate, or a step number.")
@options.allow_import
@options.config_dir
@options.out
@options.json_line
def command(
    run: str,
    split: str,
    checkpoint: str,
    allow_import: tuple[str, ...],
    config_dir: Path | None,
    out: Path | None,
    json_line: bool,
) -> int:
    """Measure a split with a checkpoint of RUN; writes evaluation/<split>_<checkpoint>_metrics.json."""
    from loopwright.console import start_logging
    from loopwright.record.files import dumps
    from loopwright.record.read import resolve_run
    from loopwright.text import number, table

    with importing():
        from loopwright.evaluation import evaluate_run

    start_logging()
    found = evaluate_run(
        resolve_run(run, options.root(out)),
        split,  # type: ignore[arg-type]  # click has checked it
        checkpoint,
        allow_import=allow_import,
        config_dir=config_dir,
    )
    click.echo(f"{split} with {checkpoint} (epoch {found.epoch}, step {found.step})")
    click.echo(table([[name, number(value)] for name, value in found.metrics.items()]))
    for line in (*found.remarks, *(f"wrote {file}" for file in found.files)):
        click.echo(line)
    if json_line:
        click.echo(dumps({"run": found.run, "split": split, "checkpoint": checkpoint, "metrics": dict(found.metrics)}))
    return 0
