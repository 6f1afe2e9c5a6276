"""The process that trains one point of a sweep, wherever a launcher starts it: `python -m loopwright.sweeps.worker`.

It goes on with the newest run of the point's identity, or starts one; a finished one costs nothing.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopwright.errors import LockError, LoopwrightError
from loopwright.sweeps import attempts
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.files import stamps
from loopwright.sweeps.launcher import label
from loopwright.sweeps.launchers.process import CTRL_C

# What the processes of all points import: once, where they are forked. Nothing that brings threads of its own (polars),
# for those do not survive a fork.
IMPORTS = ("torch", "loopwright.experiment", "loopwright.config.compose", "loopwright.console", "loopwright.plugins")


def main(arguments: Sequence[str]) -> int:
    """Train point NUMBER of the sweep in DIRECTORY and note how it went. Returns the exit code of a training."""
    parser = argparse.ArgumentParser("loopwright.sweeps.worker")
    parser.add_argument("directory", type=Path)
    parser.add_argument("number", type=int)
    parser.add_argument("--allow-import", action="append", default=[])
    given = parser.parse_args(arguments)
    directory = SweepDirectory(given.directory)
    file = directory.attempts_file(given.number)
    try:
        attempts.begin(file, label())
        plan = directory.plan()
        point = plan["points"][str(given.number)]
        data = stamps(point["recipe"])
        outcome = _train(directory, given.number, plan, point, given.allow_import)
    except LockError as error:  # the process before it is still ending, or another sweep trains the same point
        _end(file, "busy", error.exit_code, error=str(error))
        _say(f"busy: {error}")
        return error.exit_code
    except LoopwrightError as error:
        _end(file, "failed", error.exit_code, error=str(error))
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:  # the second one
        _end(file, "interrupted", CTRL_C)
        raise
    except (Exception, SystemExit) as error:
        _end(file, "failed", 1, error=f"{type(error).__name__}: {error}")
        traceback.print_exc()  # last: a task may have closed stderr
        return 1
    _end(file, outcome.status, outcome.exit_code, run=outcome.run, data=data)
    return int(outcome.exit_code)


def _say(text: str) -> None:
    """Into the job's log, if that takes anything."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201


def _end(file: Path, status: str, code: int, **facts: Any) -> None:
    """Note how it ended. On a disk that takes nothing more, the exit code and the log have to do."""
    with suppress(LoopwrightError):
        attempts.end(file, status, code, **facts)


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
