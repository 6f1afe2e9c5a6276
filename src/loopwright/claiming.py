"""Which run directory a training works on: a new one, the newest of its identity, or a finished one's outcome."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.building import Built
from loopwright.config.identity import differing_keys
from loopwright.config.schema import plain
from loopwright.engine.outcome import Outcome
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import Found, check_contained, find_runs, read_config, read_json
from loopwright.record.run import Run
from loopwright.results import outcome_of

log = logging.getLogger("loopwright")


def claim(
    built: Built, root: Path, name: str, resume: bool, overrides: Sequence[str], path: Path | None
) -> tuple[Run | None, Outcome | None]:
    """The run to work on, locked; or the outcome of one that is finished already."""
    if path is not None:
        return Run.open(path), None
    config = plain(built.recipe)
    if not resume:
        return Run.create(root, name, built.run_id, config, overrides), None
    (root / name).mkdir(parents=True, exist_ok=True)
    # Two starts at one instant: the second waits outside until the first has claimed a directory, then finds it taken.
    turn = DirectoryLock(root / name / f".lock-{built.run_id}").acquire(wait_seconds=30.0)
    try:
        same_name = find_runs(root, name)
        mine = [found for found in same_name if found.identity == built.run_id and not _is_child(found.path)]
        if mine:
            newest = mine[-1]
            ended = newest.result
            if ended is not None and ended.get("status") not in ("interrupted", "failed"):
                log.info("already finished (%s): nothing is trained again; --new starts afresh", ended.get("status"))
                Run.tidy(newest.path)
                return None, outcome_of(newest.path)
            check_contained(newest.path)
            return Run.open(newest.path), None
        if same_name:
            _say_what_differs(same_name[-1], config, built)
        return Run.create(root, name, built.run_id, config, overrides), None
    finally:
        turn.release()


def _is_child(path: Path) -> bool:
    """A child went another way before its recipe applied, so it is not the training that its identity names."""
    return (read_json(path / "environment.json") or {}).get("parent") is not None


def _say_what_differs(newest: Found, config: Mapping[str, Any], built: Built) -> None:
    lines = differing_keys(read_config(newest.path), config)
    recorded = read_json(newest.path / "environment.json") or {}
    if recorded.get("data_sha256", "") != built.task.fingerprint():
        lines.append("the data (their content has another hash)")
    log.warning(
        "no run of this recipe to resume, so a new one starts; the newest of the same name, %s, differs in: %s",
        newest.path.name,
        "; ".join(lines) or "nothing that is recorded",
    )
