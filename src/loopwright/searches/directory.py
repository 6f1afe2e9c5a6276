"""A study's directory: what it is, who works on it, and a directory for each trial.

searches/<name>/
    study.json             the study over its recipe, for the processes of trials
    journal.log, study.db  the storage, unless it is a database
    storage.url            a database's address, readable by its owner alone: it may hold a password
    coordinators/0/        one `loopwright search` that works on it: its lock, scripts and lists of its launcher
    trials/00012/          one trial, by its id: attempts.jsonl, log.txt, and its runs as runs always lie
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loopwright.errors import LockError, RunError
from loopwright.record.files import write_json
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import read_json
from loopwright.searches.study import Study, parse_study

_MOST_COORDINATORS = 1000
_WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class StudyDirectory:
    """A study on disk, whoever works on it."""

    path: Path

    def make(self) -> None:
        """Make the directory and its token, by which a storage tells it from another one's."""
        for folder in (self.path / "coordinators", self.path / "trials"):
            folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), self._token.open("x") as file:
            file.write(secrets.token_hex(8))

    @property
    def token(self) -> str:
        return self._token.read_text()

    @property
    def _token(self) -> Path:
        return self.path / "coordinators" / "token"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block that one coordinator of this directory is in at a time: to ask for trials, to make the study."""
        lock = DirectoryLock(self.path / ".lock").acquire(_WAIT_SECONDS)
        try:
            yield
        finally:
            lock.release()

    @property
    def definition(self) -> Path:
        return self.path / "study.json"

    def write(self, study: Study) -> None:
        """Write the study down for the trials' processes."""
        url = study.storage
        hidden = url is not None and "://" in url
        if hidden:
            assert url is not None
            descriptor = os.open(self._url, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(url)
        plain = study.model_dump(mode="json")
        write_json(self.definition, {**plain, "storage": None} if hidden else plain)

    def read(self) -> Study:
        """The study as it was written. Raises RunError where there is none."""
        found = read_json(self.definition)
        if found is None:
            raise RunError(f"{self.path} is no study: it has no study.json")
        if self._url.is_file() and found.get("storage") is None:
            found["storage"] = self._url.read_text()
        return parse_study(found, Study)

    @property
    def _url(self) -> Path:
        return self.path / "storage.url"

    def trial(self, trial_id: int) -> Path:
        return self.path / "trials" / f"{trial_id:05d}"

    def attempts_file(self, trial_id: int) -> Path:
        return self.trial(trial_id) / "attempts.jsonl"

    def log(self, trial_id: int) -> Path:
        return self.trial(trial_id) / "log.txt"

    def slot(self) -> Slot:
        """A coordinator's place: the first that no living one holds, so that the same command finds its jobs again."""
        for number in range(_MOST_COORDINATORS):
            folder = self.path / "coordinators" / str(number)
            folder.mkdir(exist_ok=True)
            lock = DirectoryLock(folder / ".lock")
            with suppress(LockError):
                return Slot(folder, f"{self.token}:{number}", lock.acquire())
        raise RunError(f"{self.path} has {_MOST_COORDINATORS} coordinators already")

    def lives(self, name: str) -> bool:
        """Whether the coordinator of that name may still look after its trials. Those of another directory always may:
        nobody here can tell."""
        token, _, number = name.partition(":")
        if token != self.token:
            return True
        return DirectoryLock(self.path / "coordinators" / number / ".lock").is_held()


@dataclass(frozen=True)
class Slot:
    """A coordinator's place, held until `release`. `name` is what its trials' attribute `coordinator` says."""

    folder: Path
    name: str
    lock: DirectoryLock

    def release(self) -> None:
        self.lock.release()


def study_directory(root: Path, name: str) -> StudyDirectory:
    """Where a study lives below the root of the runs."""
    return StudyDirectory((root / "searches" / name).absolute())
