"""How a job ended, from the lines that its processes noted, the launcher's word, and its log."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from loopwright.sweeps.attempts import Attempt
from loopwright.sweeps.entry import MACHINE
from loopwright.sweeps.launcher import INTERRUPTED, JobState
from loopwright.sweeps.launchers.process import CTRL_C

# How long a job rests whose run another process holds, or whose process somebody signalled: doubled each time.
FIRST_REST, LONGEST_REST = 0.5, 30.0


class Ending(NamedTuple):
    """`outcome`: trained to its end; `failed`: with an error that would come again; `crashed`: its process died, or the
    machine gave out; `interrupted`: after a checkpoint; `busy`: another process holds the run."""

    kind: Literal["outcome", "failed", "crashed", "interrupted", "busy"]
    error: str | None = None


def how_it_ended(tried: Sequence[Attempt], state: JobState | None, log: Path) -> Ending:
    """The end of a job. `tried` are its processes; `state` is the launcher's last word, None where it has none."""
    if state is not None and state.code == INTERRUPTED:
        return Ending("interrupted")
    if state is not None and tried and tried[-1].end == "busy":
        return Ending("busy", _first_line(tried[-1].facts.get("error")))
    last = next((attempt for attempt in reversed(tried) if attempt.end != "busy"), None)
    if last is None or last.end is None:
        if state is not None and state.code in (1, 2, MACHINE):  # before it could say so, or with no room to say it
            said = _last_line(_tail(log))
            return Ending("crashed" if state.code == MACHINE else "failed", said or _cause(state.code))
        return Ending("crashed", _cause(None if state is None else state.code))
    if last.end == "interrupted":
        if state is not None and last.code == CTRL_C:  # nobody stopped the driver, and it may be so each time
            return Ending("crashed", "its process was interrupted before it could save a checkpoint")
        return Ending("interrupted")
    if last.end == "failed":
        error = _first_line(last.facts.get("error")) or f"exit code {last.code}"
        return Ending("crashed" if last.code == MACHINE else "failed", error)
    return Ending("outcome")


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
