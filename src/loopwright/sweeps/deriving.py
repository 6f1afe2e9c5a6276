"""From what is on the disk, and what the launcher says, to how a point stands."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopwright.errors import RunError
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import read_result
from loopwright.sweeps import attempts
from loopwright.sweeps.attempts import Attempt
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.ending import how_it_ended
from loopwright.sweeps.entry import OUTCOMES, Entry, to_number
from loopwright.sweeps.files import changed
from loopwright.sweeps.launcher import JobState


def derive(
    directory: SweepDirectory,
    number: int,
    point: Mapping[str, Any],
    state: JobState | None = None,
    before: int = 0,
) -> Entry:
    """A point's line. `state` is what the launcher says of its job: None where there is none that anybody knows of.

    Where a job has ended, only the attempts after the first `before` are its own.
    """
    tried = attempts.read(directory.attempts_file(number))
    worked = [attempt for attempt in tried if attempt.end != "busy"]
    run = next((attempt.run for attempt in reversed(worked) if attempt.run is not None), None)
    here = run is not None and (Path(run) / "config.yaml").is_file()
    facts, damage = _result(Path(run)) if run is not None and here else ({}, None)
    if worked and changed(point["recipe"], worked[-1].facts.get("data")):
        facts = {}  # its run may not be that of the data there are now: a job finds out by their content
    error: str | None = None
    if state is not None and state.phase != "ended":
        status: str = state.phase
    elif facts.get("status") in OUTCOMES:
        status = facts["status"]
    else:
        status, error = _how_it_stands(directory, number, tried, state, before)
        if damage is not None:
            status, error = "failed", damage
    if not (here and status in OUTCOMES):
        facts = {}
    return Entry(
        point=number,
        label=str(point["label"]),
        overrides=tuple(point["overrides"]),
        seed=int(point["seed"]),
        stage=str(point["stage"]),
        identity="-".join(Path(run).name.split("-")[1:3]) if run is not None and here else None,
        run=run if here else None,
        attempts=len(worked),
        status=status,
        error=error,
        where=(state.where if state is not None else "") or (tried[-1].where if tried else ""),
        log=str(directory.log(number)),
        **{name: value for name, value in facts.items() if name != "status"},
    )


def _how_it_stands(
    directory: SweepDirectory, number: int, tried: list[Attempt], state: JobState | None, before: int
) -> tuple[str, str | None]:
    """Status and error of a point without an outcome, that is not in the launcher's hands."""
    worked = [attempt for attempt in tried if attempt.end != "busy"]
    if state is None and not worked:
        return "waiting", None
    if state is None and worked[-1].end is None and _at_work(worked[-1]):
        return "running", None
    kind, error = how_it_ended(tried[before:] if state is not None else tried, state, directory.log(number))
    # An outcome without a result: its run has been removed since, or the data have changed.
    return ("waiting" if kind in ("busy", "outcome") else kind), error


def _result(run: Path) -> tuple[dict[str, Any], str | None]:
    """What a run's result says of a point, and what is wrong with it. Empty where it has none."""
    try:
        result = read_result(run)
    except RunError as error:
        return {}, str(error)
    if result is None:
        return {}, None
    monitor = result["monitor"]
    best, test = result.get("best") or {}, (result.get("test") or {}).get("best")
    return {
        "status": result["status"],
        "monitor": monitor,
        "mode": result["mode"],
        "best": to_number(best.get(monitor)),
        "value": to_number(result.get("value")),
        "test": None if test is None else {name: to_number(value) for name, value in test.items()},
        "epochs": result["epochs"],
        "seconds": float(result["elapsed_seconds"]),
    }, None


def _at_work(attempt: Attempt) -> bool:
    """Whether a process that has not said how it ended is still there, as far as can be told from here."""
    with suppress(OSError):
        if attempt.run is not None:
            return DirectoryLock(Path(attempt.run) / ".lock").is_held()
        if attempt.host == platform.node() and attempt.pid > 0:
            os.kill(attempt.pid, 0)
            return True
    return False
