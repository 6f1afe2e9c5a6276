"""What happened to a job: a file of its own, to which each process that works on it appends a line at its start and end.

Only the processes themselves write it, so no two writers meet where one runs; a start without an end is a process that
was killed. Nothing of it is ever rewritten.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loopwright import clock
from loopwright.record.files import dumps, explained

_OF_THE_LINE = ("host", "pid", "end", "code")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process: where and when it began, and how it ended (`end` is None for one that was killed, or still works).

    `run` is the run directory it worked on, None before it had one.
    """

    started_at: str
    host: str
    pid: int
    where: str = ""
    end: str | None = None
    code: int | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    run: str | None = None


def begin(file: Path, where: str = "", *, durable: bool = True) -> None:
    """Note that this process begins. `where` is what its launcher calls it.

    `durable=False` does not wait for the disk: for who can do without the line after a power cut.
    """
    _append(file, {"started_at": clock.stamp(), **_process(), "where": where}, durable)


def works_on(file: Path, run: str | None) -> None:
    """Note the run directory that this process trains in: who is killed says no more than that."""
    _append(file, {**_process(), "run": run})


def end(file: Path, status: str, code: int, *, durable: bool = True, **facts: Any) -> None:
    """Note how this process ends: a status of an outcome, `failed` or `busy`, and what else is worth knowing."""
    _append(file, {"ended_at": clock.stamp(), **_process(), "end": status, "code": code, **facts}, durable)


def read(file: Path) -> list[Attempt]:
    """The attempts of a job, oldest first. A line that a kill tore is left out."""
    attempts: list[Attempt] = []
    for row in _rows(file):
        host, pid = str(row.get("host", "")), row.get("pid")
        pid = pid if isinstance(pid, int) else 0
        if isinstance(row.get("started_at"), str):
            attempts.append(Attempt(row["started_at"], host, pid, str(row.get("where", ""))))
            continue
        # A second process may find the job busy and end while the first still works.
        mine = (a for a in reversed(range(len(attempts))) if _same(attempts[a], host, pid))
        index = next(mine, None)
        if index is None:
            continue
        run = row["run"] if isinstance(row.get("run"), str) else attempts[index].run
        attempts[index] = replace(attempts[index], run=run)
        if isinstance(row.get("end"), str):
            facts = {name: value for name, value in row.items() if name not in _OF_THE_LINE}
            code = row.get("code")
            attempts[index] = replace(
                attempts[index], end=row["end"], code=code if isinstance(code, int) else None, facts=facts
            )
    return attempts


def crashes(tried: Iterable[Attempt]) -> int:
    """How many of the processes of a job that crashed did, one at least: some launchers start a job again by themselves,
    after it has died (Ray) and after it was interrupted (Slurm)."""
    return max(1, sum(attempt.end in (None, "failed") for attempt in tried))


def _same(attempt: Attempt, host: str, pid: int) -> bool:
    return attempt.end is None and (attempt.host, attempt.pid) == (host, pid)


def _process() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid()}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        with suppress(ValueError, RecursionError):
            row = json.loads(line)
            if isinstance(row, dict):
                yield row


def _append(file: Path, row: dict[str, Any], durable: bool = True) -> None:
    line = dumps(row)
    with explained(file, len(line)), file.open("a+b") as stream:
        if stream.tell() and _torn(file):
            line = f"\n{line}"
        stream.write(f"{line}\n".encode())
        stream.flush()
        if durable:
            os.fsync(stream.fileno())


def _torn(file: Path) -> bool:
    """Whether the last line has no end: its writer was killed in it."""
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) != b"\n"
