"""The rows of a set by slices: from where they lie in the file if they can be mapped there, else read by HDF5."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from loopwright.data.mapped import MappedRows
from loopwright.tasks.autoencoder.hdf5 import Stored, slices
from loopwright.tasks.autoencoder.layout import NUM_COLUMNS, SLICE, Array


def direct(path: Path, stored: Stored) -> MappedRows | None:
    """The rows mapped where they lie in the file; None where they have to be read by HDF5."""
    if stored.offset is None:
        return None
    return MappedRows(path, stored.offset, (stored.num_rows, NUM_COLUMNS), stored.dtype)


def read(path: Path, stored: Stored) -> Iterator[Array]:
    """All rows of a set, `SLICE` at a time. Raises DataError where they cannot be read."""
    rows = direct(path, stored)
    return slices(path, stored, SLICE) if rows is None else sliced(rows)


def sliced(rows: MappedRows) -> Iterator[Array]:
    """Mapped rows, `SLICE` at a time."""
    return (rows.between(start, min(start + SLICE, len(rows))) for start in range(0, len(rows), SLICE))


def numbered(slices: Iterable[Array]) -> Iterator[tuple[int, Array]]:
    """Slices with the number of their first row, from 0."""
    first = 0
    for slice_ in slices:
        yield first, slice_
        first += len(slice_)
