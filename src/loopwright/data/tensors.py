"""Batches of tensors that fit in memory: gathered by index on the device, with no Python per sample."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from loopwright.streams import Streams

# An epoch's order is gathered this many bytes at a time: one gather per block instead of one per step (5 us each),
# without holding a second copy of a large split.
_BLOCK_BYTES = 16 * 2**20


class TensorLoader:
    """Batches of aligned tensors (their first dimension counts samples), in addressed order.

    `streams` makes the order of each epoch a function of (seed, "order", epoch); without it samples come in their own
    order. The last batch of an epoch may be short. A loader with `batch_size=None` yields the whole split at once.
    """

    def __init__(self, tensors: tuple[Tensor, ...], batch_size: int | None, streams: Streams | None = None) -> None:
        lengths = {len(t) for t in tensors}
        if len(lengths) != 1:
            raise ValueError(f"tensors of one split must have equally many samples, not {sorted(lengths)}")
        self.tensors = tensors
        self.num_samples = lengths.pop()
        self.batch_size = batch_size or max(self.num_samples, 1)
        self.streams = streams

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size)

    def head(self, num_samples: int) -> TensorLoader:
        """The same loader over its first samples only."""
        return TensorLoader(tuple(t[:num_samples] for t in self.tensors), self.batch_size, self.streams)

    def dealt(self, index: int, start: int = 0) -> Iterator[tuple[tuple[Tensor, ...], int]]:
        """The same batches, each with its number of samples."""
        return ((batch, len(batch[0])) for batch in self.epoch(index, start))

    def epoch(self, index: int, start: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """The batches of epoch `index` (from 0), from batch `start` on."""
        first = start * self.batch_size
        if self.streams is None:
            for offset in range(first, self.num_samples, self.batch_size):
                yield tuple(t[offset : offset + self.batch_size] for t in self.tensors)
            return
        order = torch.from_numpy(self.streams.numpy("order", index).permutation(self.num_samples))
        order = order.to(self.tensors[0].device)
        bytes_per_sample = sum(t[:1].numel() * t.element_size() for t in self.tensors) or 1
        batches_per_block = max(1, _BLOCK_BYTES // (bytes_per_sample * self.batch_size))
        block_size = batches_per_block * self.batch_size
        for offset in range(first, self.num_samples, block_size):
            rows = order[offset : offset + block_size]
            blocks = (t.index_select(0, rows).split(self.batch_size) for t in self.tensors)  # type: ignore[no-untyped-call]
            yield from zip(*blocks, strict=True)
