"""The process that trains one point of a sweep, wherever a launcher starts it: `python -m loopwright.sweeps.worker`.

It goes on with the newest run of the point's identity, or starts one; a finished one costs nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.sweeps import attempts
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.files import stamps
from loopwright.sweeps.noting import Trained, noted

# What the processes of all points import: once, where they are forked. Nothing that brings threads of its own (polars),
# for those do not survive a fork.
IMPORTS = ("torch", "loopwright.experiment", "loopwright.config.compose", "loopwright.console")


def main(arguments: Sequence[str]) -> int:
    """Train point NUMBER of the sweep in DIRECTORY and note how it went. Returns the exit code of a training."""
    parser = argparse.ArgumentParser("loopwright.sweeps.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--allow-import", action="append", default=[])
    given = parser.parse_args(arguments)
    directory = SweepDirectory(given.directory)

    def train() -> Trained:
        plan = directory.plan()
        point = plan["points"][str(given.number)]
        data = stamps(point["recipe"])
        outcome = _train(directory, given.number, plan, point, given.allow_import)
        return Trained(outcome.status, outcome.exit_code, {"run": outcome.run, "data": data})

    return noted(directory.attempts_file(given.number), train)


def _train(
    directory: SweepDirectory,
    number: int,
    plan: Mapping[str, Any],
    point: Mapping[str, Any],
    allow_import: Sequence[str],
) -> Any:
    from loopwright.config.compose import compose
    from loopwright.console import observers, start_logging
    from loopwright.engine.hooks import Hook, Info
    from loopwright.experiment import run

    class NoteRun(Hook):
        """Writes down the run's directory before its first step: a process that is killed says no more."""

        def on_start(self, info: Info) -> None:
            attempts.works_on(directory.attempts_file(number), info.run)

    start_logging()
    config_dir = plan.get("config_dir")
    recipe = compose(
        base=point["recipe"], config_dir=Path(config_dir) if config_dir else None, allow_import=allow_import
    ).recipe
    return run(
        recipe,
        out=plan["root"],
        resume=True,
        overrides=point["overrides"],
        hooks=[NoteRun(), *observers(recipe.record.console_every)],
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
