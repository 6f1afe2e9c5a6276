"""The three files that grow with a run, and whether they still hold what a checkpoint remembers of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.errors import RunError
from loopwright.record.files import sha256_of_beginning, write_atomic
from loopwright.record.tables import as_before

LOGS = {"metrics": "metrics.csv", "steps": "steps.csv", "events": "events.jsonl"}


def check_logs(run: Path, saved: Mapping[str, Any]) -> None:
    """Compare the beginnings of a run's logs with a checkpoint's lengths and hashes. Raises RunError naming the file."""
    lengths = saved.get("log_lengths")
    if not isinstance(lengths, Mapping) or not all(type(n) is int and n >= 0 for n in map(lengths.get, LOGS)):
        raise RunError("it does not say how long the logs were")
    for name in LOGS:
        _former(run, saved, name)


def rewind_columns(run: Path, saved: Mapping[str, Any]) -> None:
    """Take columns that came after a checkpoint out of the tables, which then begin with the bytes it remembers."""
    for name in LOGS:
        former = _former(run, saved, name)
        if former is not None:
            write_atomic(run / LOGS[name], former)


def _former(run: Path, saved: Mapping[str, Any], name: str) -> bytes | None:
    """What a log held at a checkpoint, where a table has gained columns since; None where it begins with just that."""
    path, length = run / LOGS[name], saved["log_lengths"][name]
    found = sha256_of_beginning(path, length).hexdigest()
    digest = saved.get("log_sha256", {}).get(name, found)
    if digest == found:
        return None
    former = as_before(path, length, digest) if path.suffix == ".csv" else None
    if former is None:
        raise RunError(f"{path} is damaged: its first {length} bytes are not those its checkpoint remembers")
    return former
