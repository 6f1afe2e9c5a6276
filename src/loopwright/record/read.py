"""Reading records: finding runs and what they say. Plain files only; nothing here imports torch or executes content."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loopwright.errors import RunError
from loopwright.record.lock import DirectoryLock

_NAME = re.compile(r"(?P<time>\d{8}T\d{6}Z)-(?P<recipe>[0-9a-f]{10})-s(?P<seed>\d+)(-\d+)?")


@dataclass(frozen=True, slots=True)
class Found:
    """A run on disk, known by its directory's name."""

    path: Path
    name: str
    started: str
    recipe_id: str
    seed: int

    @property
    def identity(self) -> str:
        return f"{self.recipe_id}-s{self.seed}"

    @property
    def result(self) -> dict[str, Any] | None:
        return read_json(self.path / "result.json")

    @property
    def status(self) -> str:
        """How it ended; `running` while a process holds it, else `unfinished`."""
        result = self.result
        if result is not None:
            return str(result.get("status"))
        return "running" if DirectoryLock(self.path / ".lock").is_held() else "unfinished"


def find_runs(root: Path, name: str | None = None) -> list[Found]:
    """Every run below a root, oldest first; those of one second in the order in which they were made."""
    found = list(_runs_below(root, name))
    return sorted(found, key=lambda run: (run.started, _made_ns(run.path), run.path.name))


def _made_ns(path: Path) -> int:
    """When a run's recipe was written: once, before anything else."""
    try:
        return (path / "config.yaml").stat().st_mtime_ns
    except FileNotFoundError:  # removed meanwhile
        return 0


def _runs_below(root: Path, name: str | None) -> Iterator[Found]:
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.is_dir() or folder.name.startswith(".") or (name is not None and folder.name != name):
            continue
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / "config.yaml").is_file():
                yield Found(path, folder.name, match["time"], match["recipe"], int(match["seed"]))


def resolve_run(given: str, root: Path) -> Path:
    """The run a person means: a path, `last` for the newest, or the beginning of a directory's name. Raises RunError."""
    path = Path(given)
    if (path / "config.yaml").is_file():
        return path
    runs = find_runs(root)
    if given == "last" and runs:
        return runs[-1].path
    matches = (
        [run.path for run in runs if run.path.name.startswith(given) or run.recipe_id.startswith(given)]
        if given
        else []
    )
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise RunError(f"{given!r} fits {len(matches)} runs below {root}; give more of its name, or its path")
    raise RunError(
        f"{given!r} is no run: neither a run directory nor the name of one below {root}; `loopwright runs` lists them"
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file. Raises RunError where it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds a {type(value).__name__}")
    return value


def read_config(run: Path) -> dict[str, Any]:
    """A run's recorded recipe as plain values. Raises RunError where it is missing or damaged."""
    path = run / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run} is not a run: it has no config.yaml") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(tree, dict):
        raise RunError(f"{path} is damaged: it holds a {type(tree).__name__}")
    return tree


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """The processes that worked on a run, oldest first; lines that do not parse are left out."""
    rows = []
    try:
        lines = (run / "sessions.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
