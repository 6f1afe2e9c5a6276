"""Storages that are databases: SQLite files, PostgreSQL by its URL. Importing SQLAlchemy takes 0.4 s; journals do without."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from loopwright.errors import ConfigError

_WAIT_SECONDS = 60.0


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
    """The storage at a URL; `make` lays its tables. Raises ConfigError."""
    with explained(url):
        sqlite = make_url(url).get_backend_name() == "sqlite"
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
        return make_url(url).render_as_string(hide_password=True).removeprefix("sqlite:///")
    except ArgumentError:
        return url.partition("://")[0] + "://..."


@contextmanager
def alone(url: str, name: str, opened: BaseStorage | None) -> Iterator[None]:
    """A block that one process is in at a time, on whatever machine: by a lock of PostgreSQL; others have none.

    `opened` is the storage at that URL, whose connections are used, where there is one already.
    """
    if not make_url(url).get_backend_name().startswith("postgres"):
        yield
        return
    key = int.from_bytes(hashlib.sha256(f"loopwright {name}".encode()).digest()[:8], "big", signed=True)
    engine = opened.engine if isinstance(opened, RDBStorage) else create_engine(_with_driver(url), poolclass=NullPool)
    with explained(url), engine.connect() as connection:
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
def explained(url: str) -> Iterator[None]:
    """Say in one line why a storage cannot be used. Raises ConfigError."""
    try:
        yield
    except (ImportError, NoSuchModuleError) as error:
        extra = "; pip install 'loopwright[postgresql]'" if url.startswith("postgres") else ""
        raise ConfigError(f"`storage` is {shown(url)}, and its driver is missing ({_line(error)}){extra}") from error
    except ArgumentError as error:
        raise ConfigError(f"`storage` is no URL of a database: {_line(error)}") from error
    except SQLAlchemyError as error:
        raise ConfigError(f"`storage` at {shown(url)} cannot be used: {_line(error)}") from error


def _line(error: BaseException) -> str:
    cause = getattr(error, "orig", None) or error
    return " ".join(str(cause).split())[:200]
