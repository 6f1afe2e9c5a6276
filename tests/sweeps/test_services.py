"""The services that tests start for themselves: they come up, they go away, and a missing one fails the test."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from support.postgres import postgres
from support.slurm import required

SCRIPT = Path(__file__).parents[2] / ".ci" / "services"


def test_a_missing_service_fails_the_test() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"^this test needs no-such-daemon; \.ci/services installs it$"):
        required("bash", "no-such-daemon")


def test_what_cannot_be_installed_is_said(tmp_path: Path) -> None:
    """Where there is no apt-get, in one line; nothing else is tried."""
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, SCRIPT], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert "slurm-client" in done.stderr and "there is no apt-get" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_where_all_is_there_nothing_is_done() -> None:
    done = subprocess.run([SCRIPT], env={**os.environ, "CI": "true"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_postgresql_comes_and_goes(tmp_path: Path) -> None:
    import sqlalchemy
    from sqlalchemy.exc import OperationalError

    with postgres(tmp_path) as url:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("select 1 + 1")).scalar() == 2
    with pytest.raises(OperationalError):
        engine.connect()
