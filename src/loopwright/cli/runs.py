"""`loopwright runs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from loopwright.cli import options


@click.group("runs", invoke_without_command=True)
@options.out
@options.json_line
@click.pass_context
def command(ctx: click.Context, out: Path | None, json_line: bool) -> int:
    """List the runs below the root; `runs show RUN`, `runs remove RUN`."""
    ctx.obj = out
    if ctx.invoked_subcommand is None:
        return listing(out, json_line)
    return 0


@command.command("list")
@options.out
@options.json_line
@click.pass_obj
def list_(root: Path | None, out: Path | None, json_line: bool) -> int:
    """A table: name, seed, status, best, epochs, time, path."""
    return listing(out or root, json_line)


@command.command("show")
@options.run_argument
@options.out
@click.pass_obj
def show(root: Path | None, run: str, out: Path | None) -> int:
    """One run: what was asked for, how it ended, which files it has."""
    from loopwright.record.read import read_result, read_sessions, resolve_run
    from loopwright.text import printable

    path = resolve_run(run, options.root(out or root))
    result = read_result(path) or {"status": "unfinished"}
    for key in (
        "status",
        "reason",
        "monitor",
        "best",
        "last",
        "test",
        "epochs",
        "steps",
        "elapsed_seconds",
        "weights_sha256",
    ):
        if result.get(key) is not None:
            click.echo(f"{key}: {printable(_shown(result[key]))}")
    click.echo(f"processes: {len(read_sessions(path))}")
    for file in sorted(path.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts):
            click.echo(f"  {printable(str(file.relative_to(path)))}  {file.stat().st_size:,} bytes")
    return 0


@command.command("remove")
@options.run_argument
@options.out
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def remove(root: Path | None, run: str, out: Path | None, yes: bool) -> int:
    """Delete a run directory that no process holds."""
    import shutil

    from loopwright.record.read import resolve_run
    from loopwright.record.run import Run

    path = resolve_run(run, options.root(out or root))
    if not yes:
        click.confirm(f"delete {path} and everything in it?", abort=True)
    held = Run.open(path)
    try:
        shutil.rmtree(path)
    finally:
        held.close()
    click.echo(f"removed {path}")
    return 0


def listing(out: Path | None, json_line: bool) -> int:
    from loopwright.errors import RunError
    from loopwright.record.read import find_runs

    rows: list[dict[str, Any]] = []
    for found in find_runs(options.root(out)):
        try:
            result = found.result or {}
            status = found.status
        except RunError:
            result, status = {}, "damaged"
        monitor, best = result.get("monitor"), result.get("best") or {}
        rows.append(
            {
                "name": found.name,
                "seed": found.seed,
                "status": status,
                "monitor": monitor,
                "best": best.get(monitor),
                "epochs": result.get("epochs"),
                "seconds": result.get("elapsed_seconds"),
                "path": str(found.path),
            }
        )
    if json_line:
        import json

        click.echo(json.dumps(rows))
        return 0
    if not rows:
        click.echo(f"no runs below {options.root(out)}; `loopwright train` makes one")
        return 0
    from loopwright.text import number, table

    cells = [["name", "seed", "status", "best", "epochs", "time", "path"]]
    for row in rows:
        best = "-" if row["best"] is None else f"{row['monitor']} {number(row['best'])}"
        took = "-" if row["seconds"] is None else _time(row["seconds"])
        cells.append([row["name"], str(row["seed"]), row["status"], best, str(row["epochs"] or 0), took, row["path"]])
    click.echo(table(cells, left=(0, 2, 3, 6)))
    return 0


def _time(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    return f"{rest:.1f}s" if minutes < 1 else f"{int(minutes)}m{int(rest):02d}s"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
