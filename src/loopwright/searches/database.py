"""Storages that are databases: SQLite files, PostgreSQL by its URL. Importing SQLAlchemy takes 0.4 s; journals do without."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import URL, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from loopwright.errors import ConfigError, MachineError

_WAIT_SECONDS = 60.0
_SECRETS = ("password", "sslpassword", "passfile")


class WriteAhead(sqlite3.Connection):
    """SQLite with a write-ahead log: readers do not wait for a writer, and a commit (1 ms) not for the disk.

    After a power cut the last trials may be missing, and are asked for again; the file is whole.
    """

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        with suppress(sqlite3.OperationalError):  # no shared memory here, or another does it now
            self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=NORMAL")


def open_database(url: str, *, make: bool) -> BaseStorage:
    """The storage at a URL; `make` lays its tables.

    Raises ConfigError, and MachineError where the tables were there before: a server that is away for a while is no reason
    to give up a trial.
    """
    with opening(url) if make else answering(url):
        parsed = _parsed(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database in (None, "", ":memory:"):
            raise ConfigError(
                f"`storage` is {url}, a database in memory that no other process sees; use journal or sqlite"
            )
        arguments = {"timeout": _WAIT_SECONDS, "factory": WriteAhead} if sqlite else {}
        return RDBStorage(
            _with_driver(url),
            engine_kwargs={"connect_args": arguments},
            skip_compatibility_check=not make,
            skip_table_creation=not make,
        )


def shown(url: str) -> str:
    """A URL without its password."""
    try:
        parsed = _parsed(url)
    except ConfigError:
        return url.partition("://")[0] + "://..."
    hidden = {name: "***" for name in _SECRETS if name in parsed.query}
    text = parsed.update_query_dict(hidden).render_as_string(hide_password=True)
    return text.replace("%2A", "*").removeprefix("sqlite:///")


@contextmanager
def alone(url: str, name: str, opened: BaseStorage | None) -> Iterator[None]:
    """A block that one process is in at a time, on whatever machine: by a lock of PostgreSQL; others have none.

    `opened` is the storage at that URL, whose connections are used, where there is one already.
    """
    if not _parsed(url).get_backend_name().startswith("postgres"):
        yield
        return
    key = int.from_bytes(hashlib.sha256(f"loopwright {name}".encode()).digest()[:8], "big", signed=True)
    before = isinstance(opened, RDBStorage)
    with answering(url) if before else opening(url):
        driven = _with_driver(url)
        engine = opened.engine if isinstance(opened, RDBStorage) else create_engine(driven, poolclass=NullPool)
        connection = engine.connect()
    with answering(url), connection:
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": key})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": key})


def close(storage: BaseStorage) -> None:
    """Let go of a storage's connections; it makes new ones where it is used again."""
    if isinstance(storage, RDBStorage):
        storage.remove_session()
        storage.engine.dispose()


def _with_driver(url: str) -> str:
    """The URL with the driver that the extra `postgresql` brings, where it names none."""
    name, _, rest = url.partition("://")
    return f"postgresql+psycopg://{rest}" if name in ("postgresql", "postgres") else url


@contextmanager
def opening(url: str) -> Iterator[None]:
    """Say in one line why a storage cannot be opened. Raises ConfigError."""
    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        ours = _with_driver(url).startswith("postgresql+psycopg:")
        extra = "; pip install 'loopwright[postgresql]'" if ours else ""
        raise ConfigError(f"`storage` is {shown(url)}, and its driver is missing ({_line(error)}){extra}") from error
    except (SQLAlchemyError, StorageInternalError, RuntimeError) as error:  # Optuna's word on tables of another version
        raise ConfigError(f"`storage` at {shown(url)} cannot be used: {_line(error)}") from error


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Say in one line what has become of a storage that was opened before. Raises MachineError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        raise MachineError(
            f"the study's storage at {shown(url)} cannot be used any more: {_line(error)}; the same command goes on once it can"
        ) from error


def _parsed(url: str) -> URL:
    """The parts of a URL. Raises ConfigError, which tells nothing of a password."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("`storage` is no URL of a database; write it like postgresql://user@host:5432/name") from None
    if "@" in (parsed.host or ""):
        raise ConfigError("`storage` is a URL with two '@'; in a password write %40 for it")
    return parsed


def _line(error: BaseException) -> str:
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
