"""Rows of an events file written out as they are, so that they can be mapped: for files in chunks or compressed.

The folder is `events` beside that of the walks (`loopwright.tasks.walks.cache`). A file's name is the hash of the HDF5
file's bytes; it ends with the fingerprint of the rows in it, which every start computes anew from the rows and compares.
It is written under another name and renamed, so that two processes at once do no harm. A file that does not fit
(damaged, cut short, another's) is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from loopwright.data.mapped import MappedRows
from loopwright.engine.task import Split
from loopwright.errors import DataError, MachineError
from loopwright.tasks.autoencoder.hdf5 import Stored
from loopwright.tasks.autoencoder.layout import NUM_COLUMNS, Array
from loopwright.tasks.walks import cache

log = logging.getLogger("loopwright")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORMAT = 1
_SEAL_BYTES = 64  # the fingerprint in hexadecimal digits
_LEFT_OVER_SECONDS = 86400.0


def place(path: Path) -> Path:
    """The file that the rows of an HDF5 file go to. Reads the whole file to hash it (1.5 GB a second)."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache.folder().with_name("events") / f"{digest}-{_FORMAT}.rows"


def mapped(file: Path, sets: Mapping[Split, Stored]) -> tuple[dict[Split, MappedRows], str] | None:
    """The rows of a file that was written before and the fingerprint it claims; None where there is none of that size."""
    rows, offset = {}, 0
    for split, stored in sets.items():
        rows[split] = MappedRows(file, offset, (stored.num_rows, NUM_COLUMNS), stored.dtype)
        offset += stored.num_rows * NUM_COLUMNS * stored.dtype.itemsize
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size != offset + _SEAL_BYTES:
                raise ValueError("it has another size")
            stream.seek(offset)
            return rows, stream.read(_SEAL_BYTES).decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        warn(file, str(error))
        return None


def warn(file: Path, reason: str) -> None:
    """Say that a file of rows is not used."""
    log.warning("%s cannot be used (%s); the rows are written anew", file, reason)


def write(file: Path, slices: Iterable[Array], fingerprint: str, num_bytes: int) -> None:
    """Write rows and the seal. Raises MachineError on a full disk, DataError where the folder cannot be written to."""
    temporary = file.with_name(f"{file.stem}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file.parent)
        try:
            with temporary.open("wb") as stream:
                for rows in slices:
                    stream.write(rows.data)
                stream.write(fingerprint.encode("ascii"))
            temporary.replace(file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        said = f"{num_bytes / 2**20:,.0f} MiB of rows cannot be written to {file.parent} ({error.strerror})"
        if error.errno in _NO_ROOM:
            raise MachineError(f"{said}; free some space or set LOOPWRIGHT_CACHE to a folder with room") from error
        raise DataError(
            f"{said}; set LOOPWRIGHT_CACHE to a folder that can be written to, or store the sets contiguous and unpacked"
        ) from error


def _sweep(where: Path) -> None:
    for left in where.glob("*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_OVER_SECONDS:
                left.unlink()
