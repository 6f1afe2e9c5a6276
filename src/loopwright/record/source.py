"""Hashes of the code that a training runs: Loopwright's own files, and the user's modules that it has loaded."""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_MOST_LISTED = 10
_PACKAGE = Path(__file__).resolve().parent.parent
_INSTALLED = tuple(
    str(Path(place).resolve()) + "/"
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
    if (place := sysconfig.get_path(name))
)


@cache
def is_installed(file: str) -> bool:
    """Whether a source file belongs to Python, to an installed package, or to Loopwright itself; else it is the user's."""
    path = Path(file).resolve()
    installed = str(path).startswith(_INSTALLED) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    return file.startswith(_INSTALLED) or installed or path.is_relative_to(_PACKAGE)


def source_hashes() -> dict[str, str]:
    """SHA-256 (16 digits) by file: Loopwright's by their path in the package, the user's by their absolute path.

    The user's are the loaded modules that are neither installed nor part of Python; installed packages are known by
    their versions. Takes 4 ms.
    """
    files = {f"loopwright/{path.relative_to(_PACKAGE)}": path for path in sorted(_PACKAGE.rglob("*.py"))}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str) or not name.endswith(".py") or is_installed(name):
            continue
        path = Path(name).resolve()
        if path.is_file():
            files[str(path)] = path
    return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in sorted(files.items())}


def changed_files(recorded: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Files of the record that have other content now, sorted; files that were merely loaded in addition do not count."""
    return sorted(name for name, digest in recorded.items() if now.get(name, digest) != digest)


def listed(files: Sequence[str]) -> str:
    """The first of many files, and how many more there are."""
    return ", ".join(files[:_MOST_LISTED]) + (
        f" and {len(files) - _MOST_LISTED} more" if len(files) > _MOST_LISTED else ""
    )
