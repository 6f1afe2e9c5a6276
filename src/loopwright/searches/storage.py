"""A study's storage: a journal file, an SQLite file, or a database by its URL; and making the study in it.

A journal is the default: it takes 4 ms a trial where SQLite takes 37, and two processes may write to it.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import TrialState

from loopwright.config.identity import differing_keys
from loopwright.errors import ConfigError, RunError
from loopwright.record.files import explained
from loopwright.searches.directory import StudyDirectory
from loopwright.searches.proposals import NoProposals
from loopwright.searches.study import Study

_JOURNAL = "journal:///"
_DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
_TAIL = 1 << 16


class JournalLock(JournalFileSymlinkLock):
    """A lock of the operating system, which dies with its holder: Optuna's own, a link, outlives a killed process by 30 s.

    It also cuts a line that a full disk has torn, which would make the journal unreadable once another follows it.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal, self._path = journal, journal.with_name(f"{journal.name}.flock")
        self._descriptor = -1

    def acquire(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            os.close(descriptor)
            return super().acquire()
        self._descriptor = descriptor
        self._mend()
        return True

    def release(self) -> None:
        if self._descriptor < 0:
            super().release()
            return
        os.close(self._descriptor)
        self._descriptor = -1

    def _mend(self) -> None:
        with self._journal.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


class Journal(JournalFileBackend):
    """Optuna's journal, which says in one line that it is damaged, or that its disk is full."""

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """The entries from a number on. Raises RunError."""
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:  # neither JSON nor text
            raise RunError(
                f"{self._file_path} is damaged ({' '.join(str(error).split())}): put back a copy of it, or move it away to start "
                "the study afresh"
            ) from error

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries. Raises MachineError, RunError."""
        with explained(Path(self._file_path), sum(map(len, map(str, logs)))):
            super().append_logs(logs)


def address(study: Study, directory: StudyDirectory) -> str:
    """What opens a study's storage."""
    if study.storage is not None and "://" in study.storage:
        return study.storage
    file = directory.path / ("study.db" if study.storage == "sqlite" else "journal.log")
    return f"sqlite:///{file}" if study.storage == "sqlite" else f"{_JOURNAL}{file}"


def shown_address(where: str) -> str:
    """An address without its password."""
    if where.startswith(_JOURNAL):
        return where.removeprefix(_JOURNAL)
    from loopwright.searches import database

    return database.shown(where)


@contextmanager
def answering(where: str) -> Iterator[None]:
    """A block that uses an open storage. Raises MachineError, one line, where that does not answer any more."""
    with ExitStack() as held:
        if not where.startswith(_JOURNAL):
            from loopwright.searches import database

            held.enter_context(database.answering(where))
        yield


# By address and process: a fork must not share a connection. The coordinator and the trials inside it share one object.
_open: dict[tuple[str, int], BaseStorage] = {}


def open_storage(where: str, *, make: bool = False) -> BaseStorage:
    """The storage at an address; `make` lays its tables. Raises ConfigError."""
    key = (where, os.getpid())
    if key not in _open:
        _open[key] = _opened(where, make)
    return _open[key]


def close_storage(where: str) -> None:
    """Let go of what this process holds of a storage."""
    rest_storage(where)
    _open.pop((where, os.getpid()), None)


def rest_storage(where: str) -> None:
    """Let go of a storage's connections until it is used again."""
    storage = _open.get((where, os.getpid()))
    if storage is not None and not isinstance(storage, JournalStorage):
        from loopwright.searches import database

        database.close(storage)


def _opened(where: str, make: bool) -> BaseStorage:
    if where.startswith(_JOURNAL):
        path = Path(where.removeprefix(_JOURNAL))
        return JournalStorage(Journal(str(path), lock_obj=JournalLock(path)))
    from loopwright.searches import database

    return database.open_database(where, make=make)


@contextmanager
def alone(study: Study, directory: StudyDirectory) -> Iterator[None]:
    """A block in which no other coordinator of the study asks for or makes anything."""
    where = address(study, directory)
    with directory.alone(), ExitStack() as held:
        if not where.startswith(_JOURNAL):
            from loopwright.searches import database

            held.enter_context(database.alone(where, study.name or "", _open.get((where, os.getpid()))))
        yield


def begin(study: Study, directory: StudyDirectory, sampler: BaseSampler) -> optuna.Study:
    """Make the study in its storage, or go on with it. Raises ConfigError where that name is another study's."""
    where = address(study, directory)
    close_storage(where)  # of an earlier call: its tables or file may be gone
    directory.make()
    with alone(study, directory):
        storage = open_storage(where, make=True)
        found = optuna.create_study(
            study_name=study.name,
            storage=storage,
            directions=[_DIRECTIONS[direction] for direction in study.directions],
            sampler=sampler,
            pruner=study.pruner.build(study.extent) or NopPruner(),
            load_if_exists=True,
        )
        facts, recorded = _facts(study), found.user_attrs
        if _is_fresh(found, recorded, facts):
            for name, value in facts.items():
                found.set_user_attr(name, value)
        elif differences := _differences(recorded, facts):
            raise ConfigError(
                f"the study {study.name!r} in {shown_address(where)} is another one: {'; '.join(differences)}. Put that "
                "back, or give this study another `name`"
            )
        directory.write(study)
    return found


def attach(study: Study, directory: StudyDirectory) -> optuna.Study:
    """The study for a process that reports and asks the pruner, and proposes nothing."""
    where = address(study, directory)
    pruner = study.pruner.build(study.extent) or NopPruner()
    with answering(where):
        storage = open_storage(where)
        return optuna.load_study(study_name=study.name, storage=storage, sampler=NoProposals(), pruner=pruner)


def _facts(study: Study) -> dict[str, Any]:
    """What tells the study from another one; readers of the storage find it in the study's user attributes."""
    return {
        "metric": list(study.metrics),
        "direction": list(study.directions),
        "seeds": list(study.seeds),
        "epochs_per_seed": study.epochs_per_seed,
        "space": {key: entry.model_dump(mode="json") for key, entry in study.space.items()},
        "recipe": study.model_dump(mode="json")["base"],
    }


def _is_fresh(found: optuna.Study, recorded: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether nothing has come of a study yet: another definition may take its place. Its directions are Optuna's to keep."""
    if recorded and recorded.get("direction") != facts["direction"]:
        return False
    return all(trial.state == TrialState.FAIL for trial in found.get_trials(deepcopy=False))


def _differences(recorded: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    if not recorded.keys() >= facts.keys():
        return ["it was not made by loopwright search"]
    return differing_keys({name: recorded[name] for name in facts}, facts)


@contextmanager
def quiet() -> Iterator[None]:
    """A block in which Optuna does not log each trial."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
