"""The user's cache: files that can be made again, written under another name and renamed, never trusted when read.

The root is `$LOOPWRIGHT_CACHE`, else the site's (`env.cache`), else `$XDG_CACHE_HOME/loopwright`, else
`~/.cache/loopwright`. Two processes that write one file at once do no harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import BinaryIO

# What a killed process left of a file it was writing is swept once it is this old.
_LEFT_OVER_SECONDS = 86400.0
_site: ContextVar[str | None] = ContextVar("site", default=None)


@contextmanager
def below(root: str | None) -> Iterator[None]:
    """A block in which the cache is below a site's root."""
    token = _site.set(root)
    try:
        yield
    finally:
        _site.reset(token)


def folder(kind: str) -> Path:
    """Where files of one kind are cached."""
    if own := os.environ.get("LOOPWRIGHT_CACHE") or _site.get():
        return Path(own).expanduser() / kind
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # no home directory
        home = Path(".cache")
    return home / "loopwright" / kind


def write(file: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file of the cache by what `fill` writes to a stream. Raises OSError; nothing is left of it then."""
    temporary = file.with_name(f"{file.stem}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    file.parent.mkdir(parents=True, exist_ok=True)
    _sweep(file.parent)
    try:
        with temporary.open("wb") as stream:
            fill(stream)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _sweep(where: Path) -> None:
    for left in where.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                left.unlink()
