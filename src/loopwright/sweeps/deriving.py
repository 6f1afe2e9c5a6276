"""From what is on the disk, and what the launcher says, to how a point stands."""

from __future__ import annotations

import os
import platform
import signal
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
from loopwright.sweeps.entry import MACHINE, OUTCOMES, Entry, to_number
from loopwright.sweeps.files import changed
from loopwright.sweeps.launcher import INTERRUPTED, JobState
from loopwright.sweeps.launchers.process import CTRL_C


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
    if state is not None:
        tried = tried[before:]
        if state.code == INTERRUPTED:
            return "interrupted", None
        if tried and tried[-1].end == "busy":
            return "waiting", _first_line(tried[-1].facts.get("error"))
    worked = [attempt for attempt in tried if attempt.end != "busy"]
    last = worked[-1] if worked else None
    if state is None and last is None:
        return "waiting", None
    if last is None or last.end is None:
        if state is None and last is not None and _at_work(last):
            return "running", None
        if state is not None and state.code in (1, 2, MACHINE):  # before it could say so, or with no room to say it
            said = _last_line(_tail(directory.log(number)))
            return "crashed" if state.code == MACHINE else "failed", said or _cause(state.code)
        return "crashed", _cause(None if state is None else state.code)
    if last.end == "interrupted":
        if state is not None and last.code == CTRL_C:  # nobody stopped the sweep, and it may be so each time
            return "crashed", "its process was interrupted before it could save a checkpoint"
        return "interrupted", None
    if last.end == "failed":
        status = "crashed" if last.code == MACHINE else "failed"
        return status, _first_line(last.facts.get("error")) or f"exit code {last.code}"
    return "waiting", None  # it had an outcome, and its run has been removed since, or the data have changed


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


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"its process was killed by {signal.Signals(-code).name}"
        return f"its process was killed by signal {-code}"
    return "its process died without a word" if code is None else f"its process ended without a word (exit code {code})"


def _tail(file: Path) -> str:
    """The end of a log."""
    with suppress(OSError), file.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
        return stream.read().decode(errors="replace")
    return ""


def _first_line(text: Any) -> str | None:
    """Of an error: what follows it is advice and details."""
    return next((line.strip() for line in str(text or "").splitlines() if line.strip()), None)


def _last_line(text: str) -> str | None:
    """Of a log."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else None
