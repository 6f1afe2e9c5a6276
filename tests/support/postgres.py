"""A real PostgreSQL server in a temporary folder, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_DATABASE = "loopwright"


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty data base, as SQLAlchemy reads it (psycopg, by TCP, with a password).

    The server's log lies in `folder`. Its data do where it is not started by root, whom it refuses: then it is the user
    postgres's, who may not look into a test's folder.
    """
    programs = _programs()
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="loopwright-postgres-", dir=None if user else folder) as name:
        home, password, port = Path(name), secrets.token_hex(8), _free_port()
        (home / "password").write_text(password)
        if user is not None:
            facts = pwd.getpwnam(user)
            for path in (home, home / "password"):
                os.chown(path, facts.pw_uid, facts.pw_gid)

        def call(program: str, *words: object) -> None:
            # Into a file: the server keeps what pg_ctl gives it, and a pipe would be waited for.
            with (folder / "postgres.log").open("a") as log:
                done = subprocess.run(
                    [programs / program, *map(str, words)], stdout=log, stderr=log, cwd=home, user=user, timeout=120
                )
            assert done.returncode == 0, f"{program}: {(folder / 'postgres.log').read_text()[-2000:]}"

        data, settings = home / "data", f"-c listen_addresses=127.0.0.1 -p {port} -k {home} -c fsync=off"
        auth = ("--auth=scram-sha-256", f"--pwfile={home / 'password'}", f"--username={_DATABASE}")
        call("initdb", "--no-sync", "--encoding=UTF8", "--locale=C", *auth, "-D", data)
        call("pg_ctl", "start", "--wait", "-D", data, "-o", settings)
        try:
            _make_database(f"host=127.0.0.1 port={port} user={_DATABASE} password={password} dbname=postgres")
            yield f"postgresql+psycopg://{_DATABASE}:{password}@127.0.0.1:{port}/{_DATABASE}"
        finally:
            call("pg_ctl", "stop", "--wait", "--mode=immediate", "-D", data)


def _programs() -> Path:
    """Where initdb is: on the PATH, or where Debian puts it. Fails, never skips, where it is missing."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not debian:
        pytest.fail("this test needs a PostgreSQL server; .ci/services installs it", pytrace=False)
    return debian[-1].parent


def _make_database(connection: str) -> None:
    import psycopg

    with psycopg.connect(connection, autocommit=True) as session:
        session.execute(f"CREATE DATABASE {_DATABASE}")


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])
