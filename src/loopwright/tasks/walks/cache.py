"""Walks on disk: made once for a configuration, checked whenever they are read, never trusted.

The folder is `$LOOPWRIGHT_CACHE/walks`, else `$XDG_CACHE_HOME/loopwright/walks`, else `~/.cache/loopwright/walks`. A
file's name is the hash of all that decides its content: the configuration of the data, the graph with its jumpers, the
format and NumPy's version. It is written under another name and renamed, so that two processes at once do no harm. A
file that does not fit (damaged, cut short, another's) is made anew; a folder that cannot be written to only warns.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from loopwright.tasks.walks.graph import Array

log = logging.getLogger("loopwright")

Shapes = Mapping[str, tuple[tuple[int, int], np.dtype[np.signedinteger]]]
# What a killed process left of a file it was writing is swept once it is this old.
_LEFT_OVER_SECONDS = 86400.0


def folder() -> Path:
    """Where walks are cached."""
    if own := os.environ.get("LOOPWRIGHT_CACHE"):
        return Path(own).expanduser() / "walks"
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        home = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # no home directory
        home = Path(".cache")
    return home / "loopwright" / "walks"


def cached(key: str, shapes: Shapes, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of `key`, read from the cache or made and put there. `shapes` says what each has to look like."""
    file = folder() / f"{key}.npz"
    held = _read(file, key, shapes)
    if held is None:
        held = dict(make())
        _write(file, key, held)
    return held


def _read(file: Path, key: str, shapes: Shapes) -> dict[str, Array] | None:
    """The arrays, or None where the file is missing or is not what it should be."""
    if not file.exists():
        return None
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: np.asarray(stored[name]) for name in shapes}
            seal = str(stored["seal"])
    except Exception as error:  # what zipfile and NumPy raise for damaged bytes is of a dozen kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        log.warning("%s cannot be read (%s); the walks are made anew", file, reason)
        return None
    right = all((held.shape, held.dtype) == shapes[name] for name, held in arrays.items())
    if not right or seal != _seal(key, arrays):
        log.warning("%s is damaged or not ours (its checksum is wrong); the walks are made anew", file)
        return None
    log.debug("walks from %s", file)
    return arrays


def _write(file: Path, key: str, arrays: Mapping[str, Array]) -> None:
    temporary = file.with_name(f"{key}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file.parent)
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, seal=np.array(_seal(key, arrays)), **arrays)  # type: ignore[arg-type]
            temporary.replace(file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("the walks cannot be cached in %s (%s); they are made anew each time", file.parent, error.strerror)


def _sweep(where: Path) -> None:
    for left in where.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                left.unlink()


def _seal(key: str, arrays: Mapping[str, Array]) -> str:
    """SHA-256 of the key, and of each array's name, type, shape and content."""
    state = hashlib.sha256(key.encode())
    for name in sorted(arrays):
        held = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {held.dtype.str} {held.shape}".encode())
        state.update(held.data)
    return state.hexdigest()
