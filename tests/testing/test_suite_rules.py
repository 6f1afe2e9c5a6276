"""Files run in the order of a seed, and a session that leaves something in the checkout fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.sessions import place

# What the suite's own conftest.py does, without the seconds that torch takes to import.
CONFTEST = """
from support import sessions

def pytest_configure(config):
    sessions.register(config)
"""
FILES = [f"tests/test_{letter}.py" for letter in "abcdef"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with six files of two tests."""
    (tmp_path / "checkout" / "tests").mkdir(parents=True)
    checkout = tmp_path / "checkout"
    (checkout / "conftest.py").write_text(CONFTEST)
    (checkout / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:hypothesispytest\n")
    for name in FILES:
        (checkout / name).write_text("def test_one():\n    pass\n\n\ndef test_two():\n    pass\n")
    return checkout


def session(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), variables.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-B", "-m", "pytest", *arguments],
        cwd=checkout,
        env={**variables, "PYTHONPATH": path, "LOOPWRIGHT_SHUFFLE": "one"},
        capture_output=True,
        text=True,
    )


def test_a_seed_makes_an_order_of_the_files(checkout: Path) -> None:
    collected = session(checkout, "--collect-only", "-q")
    wanted = sorted(FILES, key=lambda file: place("one", file))
    assert wanted != FILES and wanted != sorted(FILES, key=lambda file: place("other", file))
    named = [line for line in collected.stdout.splitlines() if line.startswith("tests/")]
    assert named == [f"{file}::{test}" for file in wanted for test in ("test_one", "test_two")]
    assert collected.returncode == 0, collected.stdout


def test_workers_agree_on_the_order_and_what_is_left_in_the_checkout_fails_the_session(checkout: Path) -> None:
    (checkout / FILES[0]).write_text(
        "from pathlib import Path\n\n\ndef test_one():\n    Path('runs').mkdir()\n    Path('tests/left').touch()\n"
    )
    soiled = session(checkout, "-n", "2")
    assert "11 passed" in soiled.stdout and "failed" not in soiled.stdout, soiled.stdout
    assert "files in the order of LOOPWRIGHT_SHUFFLE=one" in soiled.stdout
    assert "the checkout is not as it was; a test writes below tmp_path only: + runs, + tests/left\n" in soiled.stdout
    assert soiled.returncode == 1
