"""The process that trains one point of a sweep, wherever a launcher starts it: `python -m loopwright.sweep.worker`.

It goes on with the newest run of the point's identity, or starts one; a finished one costs nothing.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loopwright.errors import LockError, LoopwrightError
from loopwright.sweep import attempts
from loopwright.sweep.directory import SweepDirectory
from loopwright.sweep.launcher import label

# What the processes of all points import: once, where they are forked. Nothing that brings threads of its own (polars),
# for those do not survive a fork.
IMPORTS = ("torch", "loopwright.experiment", "loopwright.config.compose", "loopwright.console", "loopwright.plugins")


def main(arguments: Sequence[str]) -> int:
    """Train point NUMBER of the sweep in DIRECTORY and note how it went. Returns the exit code of a training."""
    parser = argparse.ArgumentParser("loopwright.sweep.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--allow-import", action="append", default=[])
    given = parser.parse_args(arguments)
    directory = SweepDirectory(given.directory)
    file = directory.attempts_file(given.number)
    attempts.begin(file, label())
    try:
        outcome = _train(directory, given.number, given.allow_import)
    except LockError as error:  # the process before it is still ending, or another sweep trains the same point
        attempts.end(file, "busy", error.exit_code, error=str(error))
        print(f"busy: {error}", file=sys.stderr)  # noqa: T201 - into the job's log
        return error.exit_code
    except LoopwrightError as error:
        attempts.end(file, "failed", error.exit_code, error=str(error))
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    except KeyboardInterrupt:  # the second one
        attempts.end(file, "interrupted", 130)
        raise
    except Exception as error:
        traceback.print_exc()
        attempts.end(file, "failed", 1, error=f"{type(error).__name__}: {error}")
        return 1
    attempts.end(file, outcome.status, outcome.exit_code, run=outcome.run)
    return int(outcome.exit_code)


def _train(directory: SweepDirectory, number: int, allow_import: Sequence[str]) -> Any:
    from loopwright.config.compose import compose
    from loopwright.console import observers, start_logging
    from loopwright.engine.hooks import Hook, Info
    from loopwright.experiment import run

    class NoteRun(Hook):
        """Writes down the run's directory before its first step: a process that is killed says no more."""

        def on_start(self, info: Info) -> None:
            attempts.works_on(directory.attempts_file(number), info.run)

    start_logging()
    plan = directory.plan()
    point = plan["points"][str(number)]
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
