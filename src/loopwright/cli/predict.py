"""`loopwright predict`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from loopwright.cli import options
from loopwright.cli.importing import importing


@click.command("predict")
@options.run_argument
@click.option("--asof", type=click.DateTime(["%Y-%m-%d"]), help="Use events up to this day.  [default: all of them]")
@click.option("--top-k", type=click.IntRange(1, 39), default=20, show_default=True, help="How many parts to show.")
@click.option("--checkpoint", default="best", show_default=True, help="best, last, gate, or a step number.")
@options.allow_import
@options.config_dir
@options.out
@options.json_line
def command(
    run: str,
    asof: datetime | None,
    top_k: int,
    checkpoint: str,
    allow_import: tuple[str, ...],
    config_dir: Path | None,
    out: Path | None,
    json_line: bool,
) -> int:
    """Rank the parts most likely to come next, from the last events up to a day."""
    from loopwright.console import start_logging
    from loopwright.record.files import dumps
    from loopwright.record.read import resolve_run
    from loopwright.text import table

    with importing():
        from loopwright.prediction import predict_run

    start_logging()
    ranked = predict_run(
        resolve_run(run, options.root(out)),
        asof=asof.date() if asof else None,
        top_k=top_k,
        checkpoint=checkpoint,
        allow_import=allow_import,
        config_dir=config_dir,
    )
    click.echo(table([["rank", "part", "score"], *([str(r), str(part), f"{score:.6f}"] for r, part, score in ranked)]))
    if json_line:
        click.echo(dumps([{"rank": r, "part": part, "score": score} for r, part, score in ranked]))
    return 0
