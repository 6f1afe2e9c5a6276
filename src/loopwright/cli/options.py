"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

C = TypeVar("C", bound=Callable[..., Any])

out = click.option(
    "--out", type=click.Path(path_type=Path), envvar="LOOPWRIGHT_RUNS", help="Root of the runs.  [default: runs]"
)
json_line = click.option(
    "--json", "json_line", is_flag=True, help="End with one JSON object on the last line of stdout."
)
allow_import = click.option(
    "--allow-import",
    "allow_import",
    multiple=True,
    metavar="MODULE",
    help="Import this module's tasks and models first.",
)
config_dir = click.option(
    "--config-dir", type=click.Path(path_type=Path), help="A directory with config groups of your own."
)
require_gate = click.option("--require-gate", is_flag=True, help="Exit with 3 unless the gate was passed.")
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")


def run_argument(function: C) -> C:
    return click.argument("run", metavar="RUN")(function)


def root(given: Path | None) -> Path:
    return given or Path("runs")


def ended(outcome: Any, *, as_line: bool, gate_required: bool) -> int:
    """Print how a training ended and give its exit code."""
    from loopwright.cli.show import as_json, summary
    from loopwright.errors import CheckFailed

    summary(outcome)
    if as_line:
        click.echo(as_json(outcome))
    outcomes = getattr(outcome, "runs", (outcome,))
    if gate_required and outcome.exit_code == 0 and not all(each.gate_passed for each in outcomes):
        raise CheckFailed("--require-gate: the gate was not passed")
    return int(outcome.exit_code)
