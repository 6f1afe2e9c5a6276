"""Rows gathered from a mapped file: the same batches, to the bit, as tensors in memory, at little memory of our own."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from loopwright.data import mapped, tensors
from loopwright.data.mapped import MappedLoader, MappedRows
from loopwright.data.tensors import TensorLoader
from loopwright.errors import DataError
from loopwright.streams import Streams

CPU = torch.device("cpu")
NUM_ROWS, NUM_COLUMNS, OFFSET = 53, 5, 24


def halves(rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """The first column as whole numbers, and all columns by a third."""
    return torch.from_numpy(rows[:, 0].astype(np.int64)), torch.from_numpy((rows / 3).astype(np.float32))


@pytest.fixture(params=["<f4", "<f8"])
def rows(request: pytest.FixtureRequest, tmp_path: Path) -> MappedRows:
    values = Streams(0).numpy("rows").normal(size=(NUM_ROWS, NUM_COLUMNS)).astype(request.param)
    values[:, 0] = np.arange(NUM_ROWS)
    path = tmp_path / "rows"
    path.write_bytes(b"h" * OFFSET + values.tobytes() + b"t" * 7)
    return MappedRows(path, OFFSET, (NUM_ROWS, NUM_COLUMNS), np.dtype(request.param))


def loaders(rows: MappedRows, batch_size: int, seed: int | None) -> tuple[MappedLoader, TensorLoader]:
    streams = None if seed is None else Streams(seed)
    in_memory = TensorLoader(halves(rows.between(0, len(rows)).copy()), batch_size, streams)
    return MappedLoader(rows, halves, batch_size, CPU, streams), in_memory


def same(a: MappedLoader, b: TensorLoader | MappedLoader, epoch: int = 0, start: int = 0) -> bool:
    pairs = zip(a.epoch(epoch, start), b.epoch(epoch, start), strict=True)
    return all(
        x.dtype == y.dtype and torch.equal(x, y) for ours, theirs in pairs for x, y in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("batch_size", [1, 8, 53, 60])
def test_batches_are_those_of_tensors_in_memory(rows: MappedRows, batch_size: int, seed: int | None) -> None:
    ours, theirs = loaders(rows, batch_size, seed)
    assert (len(ours), ours.num_samples) == (len(theirs), theirs.num_samples)
    for epoch in range(3):
        assert same(ours, theirs, epoch)
    assert same(ours.head(20), theirs.head(20), 2) and ours.head(20).num_samples == 20
    assert ours.head(1000).num_samples == NUM_ROWS


@pytest.mark.parametrize("seed", [None, 1])
def test_a_start_is_what_skipping_is(rows: MappedRows, seed: int | None) -> None:
    ours, theirs = loaders(rows, 8, seed)
    whole = [batch[0].tolist() for batch in ours.epoch(4)]
    for start in range(len(ours) + 2):
        assert [batch[0].tolist() for batch in ours.epoch(4, start)] == whole[start:]
        assert same(ours, theirs, 4, start)


@pytest.mark.parametrize("block_bytes", [1, 28, 28 * 8, 28 * 8 + 1, 10**9])
def test_the_size_of_a_block_changes_nothing(
    rows: MappedRows, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mapped._BLOCK_BYTES == tensors._BLOCK_BYTES  # a batch has the same place in memory here and there
    ours, theirs = loaders(rows, 8, 1)
    monkeypatch.setattr(mapped, "_BLOCK_BYTES", block_bytes)
    assert all(same(ours, theirs, 3, start) for start in range(7))


def test_rows_are_taken_in_the_order_asked_for(rows: MappedRows) -> None:
    asked = np.array([5, 3, 3, 52, 0])
    taken = rows.take(asked)
    assert taken[:, 0].tolist() == asked.tolist()
    taken[:] = 0.0  # a copy: the file and its map stay as they are
    assert rows.take(asked)[:, 0].tolist() == asked.tolist()
    with pytest.raises(ValueError, match="read-only"):
        rows.between(0, 2)[0, 0] = 1.0


def test_a_loader_is_picklable_while_it_reads(rows: MappedRows) -> None:
    ours, theirs = loaders(rows, 8, 1)
    reading = ours.epoch(0)
    next(reading)
    packed = pickle.dumps(ours)
    assert len(packed) < 2000  # no rows travel
    assert same(pickle.loads(packed), theirs, 1, 2)
    assert same(ours, theirs, 1, 2)


def test_a_file_that_is_cut_or_gone_is_an_error_not_a_crash(rows: MappedRows) -> None:
    ours, _ = loaders(rows, 8, 1)
    batches = ours.epoch(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "_BLOCK_BYTES", 1)
        next(batches)
        raw = rows.path.read_bytes()
        with rows.path.open("r+b") as file:
            file.truncate(OFFSET + 10)
        with pytest.raises(DataError, match=r"it was cut short, put the file back"):
            next(batches)
    with pytest.raises(DataError, match="cut short"):
        next(iter(pickle.loads(pickle.dumps(ours)).epoch(0)))
    rows.path.write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read"):
        next(iter(pickle.loads(pickle.dumps(ours)).epoch(0)))
    rows.path.unlink()
    with pytest.raises(DataError, match=r"No such file or directory\); put the file back"):
        next(iter(pickle.loads(pickle.dumps(ours)).epoch(0)))
    rows.path.write_bytes(raw)
    assert same(pickle.loads(pickle.dumps(ours)), loaders(pickle.loads(pickle.dumps(rows)), 8, 1)[1])


def test_a_file_replaced_by_another_is_read_as_it_was(rows: MappedRows) -> None:
    """What is mapped is the file that was opened: a new one under its name does not mix with it."""
    ours, theirs = loaders(rows, 8, 1)
    other = rows.path.with_name("other")
    other.write_bytes(bytes(len(rows.path.read_bytes())))
    other.replace(rows.path)
    assert same(ours, theirs, 1)


_MEASURE = """
import re, sys
from pathlib import Path
import numpy as np, torch
from loopwright.data import mapped
from loopwright.data.mapped import MappedLoader, MappedRows
from loopwright.streams import Streams

mapped._BLOCK_BYTES = 2**20

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def convert(rows):
    return (torch.from_numpy(rows.astype(np.float64).astype(np.float32)),)

path, num_rows = Path(sys.argv[1]), int(sys.argv[2])
rows = MappedRows(path, 0, (num_rows, 92), np.dtype("<f4"))
loader = MappedLoader(rows, convert, 128, torch.device("cpu"), Streams(1))
small = loader.head(1000)
list(small.epoch(0))
before, peak, seen = anonymous(), 0.0, 0.0
for number, (batch,) in enumerate(loader.epoch(0)):
    seen += float(batch[:, 0].sum())
    if number % 10 == 0:
        peak = max(peak, anonymous())
print(peak - before, seen)
"""


def test_an_epoch_takes_little_memory_of_our_own(tmp_path: Path) -> None:
    """Of 110 MB of rows in blocks of 1 MiB, an epoch holds a few blocks and an order of 2.4 MB."""
    num_rows, path = 300_000, tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(num_rows * 92 * 4)
        for row in range(0, num_rows, 1000):  # sparse: only these rows are on the disk
            file.seek(row * 92 * 4)
            file.write(np.float32(1.0).tobytes())
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, path, str(num_rows)], capture_output=True, text=True, check=True, timeout=120
    )
    grown, seen = map(float, done.stdout.split())
    assert seen == num_rows / 1000  # every row was read
    assert grown < 30, f"{grown:.0f} MiB"
