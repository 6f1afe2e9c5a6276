"""Walks on disk: made once for a configuration, checked whenever they are read, never trusted.

The folder is `walks` in the cache (`loopwright.data.cache`). A file's name is the hash of all that decides its content:
the configuration of the data, the graph with its jumpers, the format and NumPy's version. A file that does not fit
(damaged, cut short, another's) is made anew; a folder that cannot be written to only warns.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from loopwright.data import cache
from loopwright.tasks.walks.graph import Array

log = logging.getLogger("loopwright")

Shapes = Mapping[str, tuple[tuple[int, int], np.dtype[np.signedinteger]]]


def cached(key: str, shapes: Shapes, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of `key`, read from the cache or made and put there. `shapes` says what each has to look like."""
    file = cache.folder("walks") / f"{key}.npz"
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
    try:
        cache.write(file, lambda stream: np.savez(stream, seal=np.array(_seal(key, arrays)), **arrays))  # type: ignore[arg-type]
    except OSError as error:
        log.warning("the walks cannot be cached in %s (%s); they are made anew each time", file.parent, error.strerror)


def _seal(key: str, arrays: Mapping[str, Array]) -> str:
    """SHA-256 of the key, and of each array's name, type, shape and content."""
    state = hashlib.sha256(key.encode())
    for name in sorted(arrays):
        held = np.ascontiguousarray(arrays[name])
        state.update(f"{name} {held.dtype.str} {held.shape}".encode())
        state.update(held.data)
    return state.hexdigest()
