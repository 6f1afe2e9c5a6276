"""`Run`: one training's directory, from an exclusive mkdir to its result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from loopwright import clock
from loopwright.errors import LockError, MachineError, RunError
from loopwright.record.files import dumps, explained, sync_directory, write_atomic, write_json
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import read_json, read_sessions

# Everything a run directory may hold at its top; a test holds the same list as a literal.
NAMES = (
    "config.yaml",
    "overrides.yaml",
    "environment.json",
    "pip_freeze.txt",
    "code.diff",
    "events.jsonl",
    "sessions.jsonl",
    "metrics.csv",
    "steps.csv",
    "result.json",
    "checkpoints",
    "model.pt",
    "loss.pt",
    "figures",
    "evaluation",
    "captures",
    "task",
    "trackers",
    "proof.json",
)


class Run:
    """A run directory. `create` makes a new one, `open` takes one that exists; both hold its lock until `close`."""

    def __init__(self, path: Path, lock: DirectoryLock) -> None:
        self.path, self.lock = path, lock

    @classmethod
    def create(cls, root: Path, name: str, identity: str, config: Mapping[str, Any], overrides: Sequence[str]) -> Run:
        """Make `<root>/<name>/<UTC time>-<identity>/`, lock it, and write what was asked for before anything else."""
        parent = root / name
        moment = clock.utc_now().strftime("%Y%m%dT%H%M%SZ")
        with explained(parent, 0):
            try:
                parent.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
                raise RunError(
                    f"--out {root}: {parent} cannot be made ({error.strerror}); choose another directory"
                ) from error
            path, attempt = parent / f"{moment}-{identity}", 1
            while True:
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    attempt += 1
                    path = parent / f"{moment}-{identity}-{attempt}"
        run = cls(path, DirectoryLock(path / ".lock").acquire())
        write_atomic(path / "overrides.yaml", to_yaml(list(overrides)))
        write_atomic(path / "config.yaml", to_yaml(config))  # last: with it the directory is a run, and a whole one
        sync_directory(parent)
        return run

    @classmethod
    def open(cls, path: Path) -> Run:
        """Take an existing run to go on with it. Raises RunError, or LockError while another process holds it."""
        if not (path / "config.yaml").is_file():
            raise RunError(f"{path} is not a run: it has no config.yaml")
        run = cls(path, DirectoryLock(path / ".lock").acquire())
        # Of what a process killed before its rename left behind.
        swept = (path, path / "task", path / "captures", path / "evaluation")
        for leftover in (file for folder in swept for file in folder.glob(".*.tmp")):
            leftover.unlink(missing_ok=True)
        return run

    @classmethod
    def tidy(cls, path: Path) -> None:
        """Sweep what a process left that was killed between its result and the release of its lock."""
        if any(path.glob(".lock*")):
            with suppress(LockError):  # it is only just finishing
                cls.open(path).close()

    def write_facts(self, files: Mapping[str, Any]) -> None:
        """Write what a task says about its data, as JSON under `task/`."""
        if files:
            (self.path / "task").mkdir(exist_ok=True)
        for name, value in files.items():
            write_json(self.path / "task" / name, value)

    def note_changes(self, lines: Sequence[str], step: int) -> None:
        """Record what is no longer as it was when the run began, from a step on: its bits are not promised any more."""
        if not lines:
            return
        facts = read_json(self.path / "environment.json") or {}
        change = {"at": clock.stamp(), "step": step, "what": list(lines)}
        changes = [*facts.get("changes", []), change]
        write_json(self.path / "environment.json", {**facts, "bits_promised": False, "changes": changes})

    def begin_session(self, **facts: Any) -> None:
        """Append this process to sessions.jsonl, which never rewinds."""
        rows = [*read_sessions(self.path), {"started_at": clock.stamp(), **facts, "ended_at": None, "end": None}]
        self._write_sessions(rows)

    def end_session(self, end: str, step: int) -> None:
        rows = read_sessions(self.path)
        rows[-1] |= {"ended_at": clock.stamp(), "end": end, "step_reached": step}
        self._write_sessions(rows)

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_json(self.path / "result.json", result)

    def forget_result(self) -> None:
        """A run that goes on has no result yet."""
        (self.path / "result.json").unlink(missing_ok=True)

    def result(self) -> dict[str, Any] | None:
        return read_json(self.path / "result.json")

    def close(self) -> None:
        self.lock.release()

    def _write_sessions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        write_atomic(self.path / "sessions.jsonl", "".join(dumps(row) + "\n" for row in rows))


def to_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=120)


def writable_root(out: str | os.PathLike[str] | None, site: str | None = None) -> Path:
    """The root of the runs: what was given, else LOOPWRIGHT_RUNS, else the site's, else `runs`."""
    root = Path(out or os.environ.get("LOOPWRIGHT_RUNS") or site or "runs")
    if "\0" in str(root) or any(len(os.fsencode(part)) > 255 for part in root.parts):
        raise RunError(f"--out {str(root)!r:.80} is no directory's name; give another")
    if root.exists() and not root.is_dir():
        raise RunError(f"--out {root} is a file; give a directory")
    if root.exists() and not os.access(root, os.W_OK):
        raise MachineError(f"--out {root} cannot be written; choose another directory")
    return root
