"""Batches of rows that need not fit in memory: gathered by index from a file that is mapped, in the order of tensors."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loopwright.errors import DataError
from loopwright.streams import Streams

Array = np.ndarray[Any, np.dtype[Any]]
Convert = Callable[[Array], tuple[Tensor, ...]]
# What is gathered at a time, as in `TensorLoader`: a batch then has the same place in memory there and here.
_BLOCK_BYTES = 16 * 2**20


class MappedRows:
    """Rows (N, C) of numbers that lie in a file from byte `offset` on, in C order. Read-only.

    The file is mapped when rows are first asked for, and again after the object was pickled; what is mapped are pages of
    the file, which the system takes back when it needs the room. Raises DataError where the file is gone or too short.
    """

    def __init__(self, path: Path, offset: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self._map: mmap.mmap | None = None
        self._rows: Array | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None, "_rows": None}

    def head(self, num_rows: int) -> MappedRows:
        """The first rows only."""
        return MappedRows(self.path, self.offset, (min(num_rows, len(self)), self.shape[1]), self.dtype)

    def between(self, start: int, stop: int) -> Array:
        """Rows from `start` to before `stop`: a view of the file, to be converted before the next call."""
        return self._open()[start:stop]

    def take(self, rows: Array) -> Array:
        """A copy of the rows of these numbers, in their order."""
        ascending = np.argsort(rows, kind="stable")
        gathered = np.empty((len(rows), self.shape[1]), self.dtype)
        # The disk is gone through in one direction; a page with several of the rows is read once.
        gathered[ascending] = self._open()[rows[ascending]]
        return gathered

    def expect_no_order(self) -> None:
        """Tell the system that rows will be asked for here and there, so that it reads no more than their pages."""
        self._open()
        if self._map is not None and hasattr(mmap, "MADV_RANDOM"):
            self._map.madvise(mmap.MADV_RANDOM)

    def _open(self) -> Array:
        end = self.offset + self.shape[0] * self.shape[1] * self.dtype.itemsize
        if self._rows is None or self._map is None:
            try:
                with self.path.open("rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:  # an empty file cannot be mapped
                said = error.strerror if isinstance(error, OSError) else error
                raise DataError(f"{self.path} cannot be read ({said}); put the file back") from error
            self._check_length(end)
            self._rows = np.frombuffer(self._map, self.dtype, self.shape[0] * self.shape[1], self.offset)
            self._rows = self._rows.reshape(self.shape)
        self._check_length(end)
        return self._rows

    def _check_length(self, end: int) -> None:
        """To touch a page beyond the end of a file kills the process, so a file that was cut is noticed before."""
        assert self._map is not None
        if self._map.size() < end:
            raise DataError(
                f"{self.path} has {self._map.size():,} bytes, its rows need {end:,}; it was cut short, put the file back"
            )


class MappedLoader:
    """Batches of `convert(rows)` in addressed order: the same batches, to the bit, as `TensorLoader` of `convert` of all.

    `streams` makes the order of each epoch a function of (seed, "order", epoch), at 8 bytes a row; without it rows come
    in their own order. `convert` makes tensors of a few rows (n, C), aligned with them, and is to be picklable.
    """

    def __init__(
        self, rows: MappedRows, convert: Convert, batch_size: int, device: torch.device, streams: Streams | None = None
    ) -> None:
        self.rows, self.convert, self.batch_size, self.device, self.streams = rows, convert, batch_size, device, streams
        self.num_samples = len(rows)

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def head(self, num_samples: int) -> MappedLoader:
        """The same loader over its first samples only."""
        return MappedLoader(self.rows.head(num_samples), self.convert, self.batch_size, self.device, self.streams)

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of epoch `index` (from 0), from batch `start` on. Raises DataError where the file was cut short."""
        first = start * self.batch_size
        if first >= self.num_samples:
            return
        if self.streams is None:
            for offset in range(first, self.num_samples, self.batch_size):
                yield self._converted(self.rows.between(offset, min(offset + self.batch_size, self.num_samples)))
            return
        order = self.streams.numpy("order", index).permutation(self.num_samples)
        self.rows.expect_no_order()
        block_size = self._batches_per_block() * self.batch_size
        for offset in range(first, self.num_samples, block_size):
            block = self._converted(self.rows.take(order[offset : offset + block_size]))
            yield from zip(*(t.split(self.batch_size) for t in block), strict=True)  # type: ignore[no-untyped-call]

    def _converted(self, rows: Array) -> tuple[Tensor, ...]:
        return tuple(t.to(self.device) for t in self.convert(rows))

    def _batches_per_block(self) -> int:
        sample = self.convert(self.rows.between(0, 1))
        bytes_per_sample = sum(t.numel() * t.element_size() for t in sample) or 1
        return max(1, _BLOCK_BYTES // (bytes_per_sample * self.batch_size))
