"""The three files that grow with a run, and whether they still hold what a checkpoint remembers of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.errors import RunError
from loopwright.record.files import sha256_of_beginning

LOGS = {"metrics": "metrics.csv", "steps": "steps.csv", "events": "events.jsonl"}


def check_logs(run: Path, saved: Mapping[str, Any]) -> None:
    """Compare the beginnings of a run's logs with a checkpoint's lengths and hashes. Raises RunError naming the file."""
    hashes, lengths = saved.get("log_sha256", {}), saved.get("log_lengths")
    if not isinstance(lengths, Mapping) or not all(type(n) is int and n >= 0 for n in map(lengths.get, LOGS)):
        raise RunError("it does not say how long the logs were")
    for name, length in [(name, lengths[name]) for name in LOGS]:
        path = run / LOGS[name]
        digest = sha256_of_beginning(path, length).hexdigest()
        if hashes.get(name, digest) != digest:
            raise RunError(f"{path} is damaged: its first {length} bytes are not those its checkpoint remembers")
