"""Reading records: finding runs and what they say. Plain files only; nothing here imports torch or executes content."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from loopwright.errors import RunError
from loopwright.record.lock import DirectoryLock

# A recipe has about a hundred values; aliases in a YAML of a kilobyte can stand for billions.
_MOST_VALUES = 100_000
_NUMBER = (int, float)
# What result.json must hold where it holds it; a number may be the text that stands for nan or inf.
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("status", "reason", "monitor", "mode", "weights_sha256"), (str,)),
    **dict.fromkeys(("best", "last", "test", "curves"), (dict, type(None))),
    **dict.fromkeys(("epochs", "steps"), (int,)),
    "elapsed_seconds": _NUMBER,
    "value": (*_NUMBER, str, type(None)),
    "remarks": (list,),
}
_NEEDED = ("status", "reason", "monitor", "mode", "weights_sha256", "epochs", "steps", "elapsed_seconds")
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
        return read_result(self.path)

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
    for folder in sorted(root.iterdir()) if os.path.isdir(root) else []:  # false for a name that no file can have
        if not folder.is_dir() or folder.name.startswith(".") or (name is not None and folder.name != name):
            continue
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match and (path / "config.yaml").is_file():
                yield Found(path, folder.name, match["time"], match["recipe"], int(match["seed"]))


def resolve_run(given: str, root: Path) -> Path:
    """The run a person means: a path, `last` for the newest, or the beginning of a directory's name. Raises RunError."""
    path = Path(given)
    with suppress(OSError):  # a name too long for a file
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
    except (ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged: it holds a {type(value).__name__}")
    return value


def read_result(run: Path) -> dict[str, Any] | None:
    """A run's result.json; None where there is none. Raises RunError where it says what no run would say."""
    path = run / "result.json"
    result = read_json(path)
    if result is None:
        return None
    missing = [name for name in _NEEDED if name not in result]
    if missing:
        raise RunError(f"{path} is damaged: it has no {missing[0]!r}")
    for name, kinds in _KINDS.items():
        if name in result and (not isinstance(result[name], kinds) or isinstance(result[name], bool)):
            raise RunError(f"{path} is damaged: {name!r} is a {type(result[name]).__name__}")
    tests = (result.get("test") or {}).values()
    if not all(isinstance(row, dict) for row in tests):
        raise RunError(f"{path} is damaged: 'test' holds no metrics")
    for row in (result.get("best") or {}, result.get("last") or {}, *tests):
        for name, value in row.items():
            if not _is_number(value):
                raise RunError(f"{path} is damaged: {name!r} is {value!r:.80}, which is no number")
    return result


def _is_number(value: Any) -> bool:
    return value is None or type(value) in _NUMBER or value in ("nan", "inf", "-inf")


def check_contained(run: Path) -> None:
    """Refuse a run directory with a link that leaves it: what is written there would land elsewhere. Raises RunError."""
    home = run.resolve()
    for path in run.iterdir() if run.is_dir() else ():
        leftover = path.name.startswith(".") and path.name.endswith(".tmp")  # removed before anything is written
        if path.is_symlink() and not leftover and not path.resolve().is_relative_to(home):
            raise RunError(
                f"{path} is a link that leaves the run directory; put what it points to in its place (a link to the "
                "whole run directory is fine)"
            )


def read_config(run: Path) -> dict[str, Any]:
    """A run's recorded recipe as plain values. Raises RunError where it is missing or damaged, or the run has links out."""
    check_contained(run)
    path = run / "config.yaml"
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run} is not a run: it has no config.yaml") from None
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise RunError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(tree, dict):
        raise RunError(f"{path} is damaged: it holds a {type(tree).__name__}")
    _check_size(path, tree)
    return tree


def _check_size(path: Path, tree: Any) -> None:
    """Raise RunError for a tree of more values than a recipe has, however few bytes stand for them, or of one in itself."""
    waiting, seen = [tree], 0
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        seen += 1
        if seen + len(waiting) > _MOST_VALUES:
            raise RunError(f"{path} is damaged: it holds more than {_MOST_VALUES:,} values")


def read_sessions(run: Path) -> list[dict[str, Any]]:
    """The processes that worked on a run, oldest first; lines that do not parse are left out."""
    rows = []
    try:
        lines = (run / "sessions.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"{run / 'sessions.jsonl'} cannot be read ({error.strerror})") from error
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
