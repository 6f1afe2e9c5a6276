"""`loopwright sweep`, and what `loopwright train --multirun` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopwright.cli import options
from loopwright.cli.importing import importing
from loopwright.cli.sweep_shell import cancel, status, wait

if TYPE_CHECKING:
    from loopwright.sweeps.plan import Confirm, Plan


class _WithSubcommands(click.Group):
    """`sweep status DIR` is a command of its own; `sweep` with anything else is this one."""

    allow_interspersed_args = True

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args and args[0] in self.commands:
            # A context of its own above it, or its usage would begin with the arguments of this command.
            above = click.Context(click.Group(self.name), info_name=info_name, parent=parent)
            return self.commands[args[0]].make_context(args[0], args[1:], parent=above, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command("sweep", cls=_WithSubcommands, invoke_without_command=True, subcommand_metavar="", no_args_is_help=False)
@click.argument("given", nargs=-1, metavar="[FILE|NAME] [KEY=VALUE]...")
@click.option("--config", "file", type=click.Path(path_type=Path), help="A recipe's YAML file below the sweep's.")
@options.config_dir
@options.allow_import
@options.out
@click.option("--plan", "plan_only", is_flag=True, help="Show the points and how long they may take, and stop.")
@click.option("--fail-fast", is_flag=True, help="Stop everything with the first run that fails.")
@click.option(
    "--screen", type=click.IntRange(min=1), metavar="SEEDS", help="Screen each configuration with SEEDS first."
)
@click.option(
    "--confirm",
    nargs=2,
    metavar="top=K seeds=N",
    help="Train the K best of the screening again, with N fresh seeds each.",
)
@click.option("--detach", is_flag=True, help="End when all runs are in the queue, where the launcher has one.")
@options.json_line
def command(
    given: tuple[str, ...],
    file: Path | None,
    config_dir: Path | None,
    allow_import: tuple[str, ...],
    out: Path | None,
    plan_only: bool,
    fail_fast: bool,
    screen: int | None,
    confirm: tuple[str, str] | None,
    detach: bool,
    json_line: bool,
) -> int:
    """Train every point of a sweep: of FILE.yaml, of the sweep NAME, or of overrides such as optim.lr=1e-3,3e-4.

    The same command again skips what is finished, goes on with what was interrupted, and tries again what failed. The
    directory of a sweep is <out>/sweeps/<name>, without a name the hash of its plan; docs/how-to/sweeps.md tells more.

    Exit codes: 0 every point has an outcome, 1 some failed, 5 some crashed beyond the retries, 75 interrupted.
    """
    from loopwright.sweeps.asked import check_stages, parse_confirm, source_and_overrides

    source, overrides = source_and_overrides(given)
    check_stages(screen, confirm)
    return sweep(
        source,
        overrides,
        file=file,
        config_dir=config_dir,
        allow_import=allow_import,
        out=out,
        plan_only=plan_only,
        fail_fast=fail_fast,
        screen=screen,
        confirm=None if confirm is None else parse_confirm(confirm),
        detach=detach,
        json_line=json_line,
    )


def sweep(
    source: str | None,
    overrides: Sequence[str],
    *,
    file: Path | None,
    config_dir: Path | None,
    allow_import: Sequence[str],
    out: Path | None,
    plan_only: bool = False,
    fail_fast: bool = False,
    screen: int | None = None,
    confirm: Confirm | None = None,
    detach: bool = False,
    json_line: bool = False,
) -> int:
    """Expand, train, print; returns the exit code."""
    with importing():
        from loopwright.sweeps.expand import expand

    from loopwright.cli.sweep_text import Screen, ended
    from loopwright.console import start_logging
    from loopwright.sweeps.run import run_sweep

    plan = expand(
        source,
        overrides,
        file=file,
        config_dir=config_dir,
        allow_import=allow_import,
        screen=screen,
        confirm=confirm,
    )
    if plan_only:
        return _show_plan(plan, out, json_line)
    start_logging()
    watcher = Screen()
    try:
        outcome = run_sweep(
            plan,
            out=out,
            allow_import=allow_import,
            config_dir=config_dir,
            fail_fast=fail_fast,
            wait=not detach,
            watcher=watcher,
        )
    finally:
        watcher.close()
    return ended(outcome, json_line)


def _show_plan(plan: Plan, out: Path | None, json_line: bool) -> int:
    from loopwright.record.files import dumps
    from loopwright.record.run import writable_root
    from loopwright.sweeps.directory import sweep_directory
    from loopwright.sweeps.estimate import plan_lines
    from loopwright.sweeps.ledger import finished_keys

    root = writable_root(out, plan.points[0].recipe.env.runs)
    directory = sweep_directory(root, plan)
    finished = finished_keys(directory)
    for line in plan_lines(plan, finished=finished):
        click.echo(line)
    if json_line:
        points = [
            {"label": point.label, "seed": point.seed, "finished": point.key in finished} for point in plan.points
        ]
        click.echo(dumps({"sweep": str(directory.path.absolute()), "hash": plan.hash, "points": points}))
    return 0


for _command in (status, wait, cancel):
    command.add_command(_command)
