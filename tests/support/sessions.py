"""What holds for a whole session of tests: any order of files passes, and nothing is left in the checkout.

LOOPWRIGHT_SHUFFLE=SEED runs the files in an order made of the seed, which is any text: the same order in every process of a
session and on every machine.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

# What is versioned, and looked at as a whole. What is below `runs` belongs to whoever trains here meanwhile.
_WHOLE = ("src", "tests", "docs", "benchmarks", "examples", ".ci", ".github")
_CACHES = {
    *(".git", ".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"),
    ".import_linter_cache",
}


def register(config: pytest.Config) -> None:
    """Have both rules hold in a session; a conftest.py calls it."""
    config.pluginmanager.register(Shuffled(os.environ.get("LOOPWRIGHT_SHUFFLE", "")))
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Untouched(config.rootpath))


def place(seed: str, file: str) -> bytes:
    """Where a file comes in the order of a seed, whatever other files there are."""
    return hashlib.sha256(f"{seed}/{file}".encode()).digest()


class Shuffled:
    """Puts the files in the order of a seed, the tests of a file together and in their own order; "" changes nothing."""

    def __init__(self, seed: str) -> None:
        self.seed = seed

    def pytest_report_header(self) -> str | None:
        return f"files in the order of LOOPWRIGHT_SHUFFLE={self.seed}" if self.seed else None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.seed:
            items.sort(key=lambda item: place(self.seed, item.nodeid.partition("::")[0]))


class Untouched:
    """Fails a session that has left something in the checkout, or taken something away, and names it."""

    def __init__(self, root: Path) -> None:
        self.root, self.before = root, names(root)

    @pytest.hookimpl(trylast=True)  # workers have ended by then
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        after = names(self.root)
        changed = [f"+ {path}" for path in sorted(after - self.before)]
        changed += [f"- {path}" for path in sorted(self.before - after)]
        if changed:
            print(f"\nthe checkout is not as it was; a test writes below tmp_path only: {', '.join(changed)}")
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def names(root: Path) -> set[str]:
    """Every name at the top of a checkout, and every file and folder of what is versioned; not the caches of tools."""
    found = {path.name for path in root.iterdir()} - _CACHES
    for top in _WHOLE:
        for folder, folders, files in os.walk(root / top):
            folders[:] = [name for name in folders if name not in _CACHES]
            found.update(os.path.relpath(os.path.join(folder, name), root) for name in (*folders, *files))
    return found
