"""`loopwright search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loopwright.cli import options
from loopwright.cli.importing import importing
from loopwright.sweeps.launcher import INTERRUPTED
from loopwright.text import number, printable

if TYPE_CHECKING:
    from loopwright.searches.results import Ended


@click.command("search")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@options.overrides
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Trials in all, instead of the file's.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Trials at one time: launcher.workers=N.")
@options.out
@options.config_dir
@options.allow_import
@options.json_line
def command(
    file: Path,
    overrides: tuple[str, ...],
    trials: int | None,
    workers: int | None,
    out: Path | None,
    config_dir: Path | None,
    allow_import: tuple[str, ...],
    json_line: bool,
) -> int:
    """Search for the best values of a recipe's keys, as FILE says: what is trained, what is searched, and how.

    Overrides lie over the file's `recipe`. The same command again goes on with the study, which is in
    <out>/searches/<name>; docs/how-to/search.md tells more.

    Exit codes: 0 the study has its trials, 1 too many failed in a row, 5 too many crashed, 75 interrupted.
    """
    from loopwright.searches.installed import check_installed

    check_installed()
    with importing():
        from loopwright.searches.run import run_search
    from loopwright.console import start_logging
    from loopwright.searches.study import read_study

    start_logging()
    outcome = run_search(
        read_study(file),
        overrides,
        trials=trials,
        workers=workers,
        out=out,
        config_dir=config_dir,
        allow_import=allow_import,
        watcher=_printer(),
    )
    click.echo()
    for line in outcome.findings.lines:
        click.echo(line)
    if outcome.exit_code in (1, 5):
        click.echo("the last trials failed one after the other, so no more were asked for; their errors are above")
    if outcome.exit_code == INTERRUPTED:
        click.echo("not finished: the same command, given again, goes on with it")
    if any(file.parent.name == "figures" for file in outcome.findings.files):
        click.echo(f"figures: {outcome.directory / 'figures'}")
    click.echo(f"study: {outcome.directory}")
    if json_line:
        from loopwright.record.files import dumps

        facts = {"study": str(outcome.directory), "exit_code": outcome.exit_code, "counts": dict(outcome.counts)}
        click.echo(dumps({**facts, **outcome.findings.facts}))
    return outcome.exit_code


def _printer() -> Any:
    from optuna.trial import FrozenTrial

    from loopwright.searches.progress import Progress, Watcher

    class Printer(Watcher):
        """Prints a line per trial that ends."""

        def told(self, trial: FrozenTrial, ended: Ended, progress: Progress) -> None:
            start = f"{progress.done}/{progress.trials}  trial {trial.number}"
            params = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
            if ended.kind != "outcome":
                self._say(f"{start}  {ended.kind}  {params}: {ended.error}")
                self._say(f"  log: {progress.log}")
                return
            values = ", ".join(number(value) for value in trial.values or ())
            status = "" if ended.status == "completed" else f"  {ended.status.replace('_', ' ')}"
            best = "" if progress.best is None else f"  best {number(progress.best)} (trial {progress.best_number})"
            self._say(f"{start}  {values or '-'}{status}{best}  {params}")

        def again(self, trial_id: int, error: str) -> None:
            self._say(f"  trial with id {trial_id}: {error}; started again")

        def _say(self, text: str) -> None:
            click.echo(printable(text))

    return Printer()


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
