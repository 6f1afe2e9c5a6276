"""What the commands print when a training has ended: a summary, one JSON line where it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from loopwright.engine.outcome import Outcome
from loopwright.record.files import dumps
from loopwright.seeds import SeedsOutcome
from loopwright.text import number, table

_WIDEST = 100


def summary(outcome: Outcome | SeedsOutcome) -> None:
    """Print how it ended: best and last on val and test, the chance level where there is one, and where the run is."""
    if isinstance(outcome, SeedsOutcome):
        for each in outcome.runs:
            summary(each)
        click.echo(f"{outcome.runs[0].monitor}, mean over {len(outcome.counted)} seeds: {number(outcome.value)}")
        left_out = len(outcome.runs) - len(outcome.counted)
        if left_out:
            click.echo(f"{left_out} of {len(outcome.runs)} seeds are left out: no value, or the gate not passed")
        return
    click.echo()
    click.echo(f"{outcome.status}: {outcome.reason}")
    columns: dict[str, Mapping[str, float | None]] = {}
    for name, row in (("best", outcome.best), ("last", outcome.last)):
        if row is not None:
            at = f"epoch {int(row['epoch'] or 0)}"
            columns[f"val, {name} ({at})"] = {k.removeprefix("val_"): v for k, v in row.items() if k.startswith("val_")}
    for name in ("best", "last"):
        if outcome.test and name in outcome.test:
            columns[f"test, {name}"] = outcome.test[name]
    if columns:
        names = list(dict.fromkeys(key for values in columns.values() for key in values))
        rows = [
            ["", *names],
            *([title, *(number(values.get(key)) for key in names)] for title, values in columns.items()),
        ]
        lying = table(rows)
        # Many metrics read better as rows than as a table wider than a terminal.
        wide = max(map(len, lying.splitlines())) > _WIDEST
        click.echo(table([list(column) for column in zip(*rows, strict=True)]) if wide else lying)
    if outcome.best is not None:
        click.echo(f"best: {'lowest' if outcome.mode == 'min' else 'highest'} {outcome.monitor}")
    for line in outcome.remarks:
        click.echo(line)
    if outcome.run is not None:
        click.echo(f"run: {outcome.run}")


def as_json(outcome: Outcome | SeedsOutcome) -> str:
    """The `--json` line."""
    if isinstance(outcome, SeedsOutcome):
        runs = [_facts(each) for each in outcome.runs]
        recipe_id = str(outcome.runs[0].run or "").rsplit("/", 1)[-1].split("-")
        return dumps(
            {
                "runs": runs,
                "status": outcome.status,
                "value": outcome.value,
                "recipe_id": recipe_id[1] if len(recipe_id) > 1 else None,
            }
        )
    return dumps(_facts(outcome))


def _facts(outcome: Outcome) -> dict[str, Any]:
    return {
        "run": outcome.run,
        "status": outcome.status,
        "reason": outcome.reason,
        "best": outcome.best,
        "last": outcome.last,
        "test": outcome.test,
        "value": outcome.value,
        "weights_sha256": outcome.weights_sha256,
        "epochs": outcome.epochs,
        "steps": outcome.steps,
        "seconds": outcome.seconds,
        **({} if outcome.gate_passed is None else {"gate_passed": outcome.gate_passed}),
    }
