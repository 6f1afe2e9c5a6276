"""Rows of an events file written out as they are, so that they can be mapped: for files in chunks or compressed.

The folder is `events` in the cache (`loopwright.data.cache`). A file's name is the hash of the HDF5 file's bytes; it ends
with the fingerprint of the rows in it, which every start computes anew from the rows and compares. A file that does not
fit (damaged, cut short, another's) is made anew.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from loopwright.data import cache
from loopwright.data.mapped import MappedRows
from loopwright.engine.task import Split
from loopwright.errors import DataError, MachineError
from loopwright.tasks.autoencoder.hdf5 import Stored
from loopwright.tasks.autoencoder.layout import NUM_COLUMNS, Array

log = logging.getLogger("loopwright")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORMAT = 1
_SEAL_BYTES = 64  # the fingerprint in hexadecimal digits


def place(path: Path) -> Path:
    """The file that the rows of an HDF5 file go to. Reads the whole file to hash it (1.5 GB a second)."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache.folder("events") / f"{digest}-{_FORMAT}.rows"


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

    def fill(stream: BinaryIO) -> None:
        for rows in slices:
            stream.write(rows.data)
        stream.write(fingerprint.encode("ascii"))

    try:
        cache.write(file, fill)
    except OSError as error:
        said = f"{num_bytes / 2**20:,.0f} MiB of rows cannot be written to {file.parent} ({error.strerror})"
        if error.errno in _NO_ROOM:
            raise MachineError(f"{said}; free some space or set LOOPWRIGHT_CACHE to a folder with room") from error
        raise DataError(
            f"{said}; set LOOPWRIGHT_CACHE to a folder that can be written to, or store the sets contiguous and unpacked"
        ) from error
