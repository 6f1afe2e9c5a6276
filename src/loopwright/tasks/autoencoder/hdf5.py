"""Where the sets of an events file lie in its HDF5: found without following links, read by slices, nothing kept open.

A set is a dataset of the file itself. Links to other files, external storage, virtual datasets and foreign filters are
refused before anything is read through them. What is stored contiguously is not read by HDF5 at all: it is mapped at its
offset. HDF5 handles do not survive a fork, so each function opens the file, reads, and closes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loopwright.errors import DataError
from loopwright.tasks.autoencoder.layout import NUM_COLUMNS, Array

# Filters that are part of HDF5 or of h5py; others are libraries that HDF5 would look for and load.
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
# One row of chunks is in memory while it is read.
_MOST_CHUNK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Stored:
    """A set of a file: rows (N, 92) of little-endian float32 or float64.

    `offset` is the byte where they lie in the file as they are, None where they are in chunks, compressed or otherwise
    have to be read by HDF5.
    """

    name: str
    num_rows: int
    dtype: np.dtype[Any]
    offset: int | None


def find(path: Path, name: str) -> Stored:
    """Where a set lies. Raises DataError, in one line, for whatever is not a plain dataset of (N, 92) floats."""
    with _opened(path) as file:
        return _located(path, file, name)


def slices(path: Path, stored: Stored, size: int) -> Iterator[Array]:
    """The rows of a set, `size` at a time, read by HDF5. Raises DataError for chunks that cannot be read."""
    held = np.empty((0, NUM_COLUMNS), stored.dtype)
    with _opened(path) as file:
        dataset = file[stored.name]
        stripe = dataset.chunks[0] if dataset.chunks else size
        step = stripe * max(1, size // stripe)
        for start in range(0, stored.num_rows, step):
            read = np.ascontiguousarray(dataset[start : start + step], dtype=stored.dtype)
            held = np.concatenate([held, read]) if len(held) else read
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
    if len(held):
        yield held


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, open for reading. Whatever HDF5 says about it while it is open becomes a DataError."""
    try:
        import h5py
    except ImportError:
        raise DataError("task.data=events needs h5py; pip install 'loopwright[hdf5]'") from None
    if not os.path.isfile(path):  # false as well for a name that is too long
        there = "is not a file" if os.path.exists(path) else "does not exist"
        raise DataError(f"{path} {there}; give the path of an HDF5 file")
    try:
        with path.open("rb"):
            pass
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        said = getattr(error, "strerror", None) or str(error)
        line = (said.splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{path} cannot be read as HDF5: {line}") from error


def _located(path: Path, file: Any, name: str) -> Stored:
    import h5py

    link = file.get(name, getlink=True)
    if link is None:
        there = ", ".join(sorted(repr(key) for key in list(file)[:10])) or "nothing"
        raise DataError(f"{path} has no {name}; it has {there}; X_train, X_val and X_test belong at its root")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{path}: {name} is a link to elsewhere, which is not followed; store the rows in this file")
    if file.get(name, getclass=True) is not h5py.Dataset:
        raise DataError(f"{path}: {name} is not a dataset; store a dataset of shape (rows, {NUM_COLUMNS})")
    held, storage = file[name].id, file[name].id.get_create_plist()
    if storage.get_layout() == h5py.h5d.VIRTUAL or storage.get_external_count():
        raise DataError(f"{path}: {name} is stored in other files, which are not read; store the rows in this file")
    kinds = {
        h5py.h5t.IEEE_F32LE: "<f4",
        h5py.h5t.IEEE_F32BE: "<f4",
        h5py.h5t.IEEE_F64LE: "<f8",
        h5py.h5t.IEEE_F64BE: "<f8",
    }
    found = [dtype for kind, dtype in kinds.items() if held.get_type().equal(kind)]
    if not found:
        raise DataError(f"{path}: {name} does not hold float32 or float64 numbers; write it as float32")
    shape, dtype = held.shape, np.dtype(found[0])
    if shape is None or len(shape) != 2 or shape[1] != NUM_COLUMNS or shape[0] == 0:
        raise DataError(f"{path}: {name} has the shape {shape}; it has to be (rows, {NUM_COLUMNS}) with a row at least")
    num_rows, num_bytes = int(shape[0]), int(shape[0]) * NUM_COLUMNS * dtype.itemsize
    if storage.get_layout() == h5py.h5d.CHUNKED:
        _check_chunks(path, name, held, storage, num_rows, dtype.itemsize)
        return Stored(name, num_rows, dtype, None)
    file_size = path.stat().st_size
    if held.get_storage_size() != num_bytes or num_bytes > file_size:
        raise DataError(
            f"{path}: {name} has {num_rows:,} rows, and not as many are stored; write the file again, to its end"
        )
    offset = held.get_offset() if storage.get_layout() == h5py.h5d.CONTIGUOUS else None
    if offset is not None and offset + num_bytes > file_size:
        raise DataError(f"{path}: {name} ends beyond the file's {file_size:,} bytes; the file was cut short")
    little = held.get_type().equal(h5py.h5t.IEEE_F32LE) or held.get_type().equal(h5py.h5t.IEEE_F64LE)
    return Stored(name, num_rows, dtype, offset if little else None)


def _check_chunks(path: Path, name: str, held: Any, storage: Any, num_rows: int, item_bytes: int) -> None:
    """All chunks are there and none is too big. A shape costs a file nothing; chunks that are stored bound it."""
    for number in range(storage.get_nfilters()):
        code, *_, label = storage.get_filter(number)
        if code not in _FILTERS:
            known = label.decode("ascii", "replace") or "a filter"
            raise DataError(
                f"{path}: {name} is packed by {known} ({code}), which is not read; write it with gzip or lzf"
            )
    rows, columns = storage.get_chunk()
    stripe_bytes = rows * NUM_COLUMNS * item_bytes
    if stripe_bytes > _MOST_CHUNK_BYTES:
        raise DataError(
            f"{path}: {name} has chunks of {rows:,} rows, {stripe_bytes / 2**20:,.0f} MiB; write it with chunks of at "
            f"most {_MOST_CHUNK_BYTES // 2**20} MiB"
        )
    wanted = -(-num_rows // rows) * -(-NUM_COLUMNS // columns)
    stored = held.get_num_chunks()
    fits = held.get_storage_size() <= path.stat().st_size
    whole = storage.get_nfilters() or wanted * rows * columns * item_bytes <= path.stat().st_size
    if stored != wanted or not fits or not whole:
        raise DataError(
            f"{path}: {name} has {num_rows:,} rows, and {stored:,} of its {wanted:,} chunks are stored; write it whole"
        )
