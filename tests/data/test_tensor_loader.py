"""Batches of tensors in memory: an addressed order that a start in the middle and the size of a block do not change."""

from __future__ import annotations

import pickle

import pytest
import torch

from loopwright.data import tensors
from loopwright.data.tensors import TensorLoader
from loopwright.streams import Streams


def make(num_samples: int = 23, batch_size: int | None = 4, seed: int | None = 1) -> TensorLoader:
    x = torch.arange(num_samples * 3, dtype=torch.float32).reshape(num_samples, 3)
    return TensorLoader((x, torch.arange(num_samples)), batch_size, None if seed is None else Streams(seed))


def rows(loader: TensorLoader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [y.tolist() for _, y in loader.epoch(epoch, start)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 50, None])
def test_an_epoch_has_every_sample_once_and_len_batches(seed: int | None, batch_size: int | None) -> None:
    loader = make(batch_size=batch_size, seed=seed)
    batches = rows(loader)
    assert sorted(flat(batches)) == list(range(23)) and len(batches) == len(loader)
    assert all(len(batch) == (batch_size or 23) for batch in batches[:-1])
    for x, y in loader.epoch(0):
        assert torch.equal(x[:, 0], 3.0 * y)  # the tensors stay aligned


def test_the_order_is_addressed() -> None:
    assert rows(make(), 5) == rows(make(), 5)
    assert len({str(rows(make(), epoch)) for epoch in range(5)} | {str(rows(make(seed=2)))}) == 6
    assert flat(rows(make(seed=None))) == list(range(23)) == flat(rows(make(seed=None), 3))
    loader = make()
    torch.rand(10)
    half = loader.epoch(1)
    next(half)
    assert rows(loader, 1) == rows(make(), 1)  # whoever else reads does not matter
    expected = Streams(1).numpy("order", 2).permutation(23).tolist()
    assert flat(rows(loader, 2)) == expected
    # The batch size cuts the order, it does not make it.
    assert flat(rows(make(batch_size=7), 2)) == expected


@pytest.mark.parametrize("seed", [None, 1])
def test_a_start_is_what_skipping_is(seed: int | None) -> None:
    loader = make(seed=seed)
    for start in range(len(loader) + 2):
        assert rows(loader, 3, start) == rows(loader, 3)[start:]


@pytest.mark.parametrize("block_bytes", [1, 20, 21, 160, 161, 10**9])
def test_the_size_of_a_block_changes_nothing(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {start: [(x.tolist(), y.tolist()) for x, y in make().epoch(3, start)] for start in range(7)}
    monkeypatch.setattr(tensors, "_BLOCK_BYTES", block_bytes)
    for start, batches in expected.items():
        assert [(x.tolist(), y.tolist()) for x, y in make().epoch(3, start)] == batches


def test_a_block_is_gathered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class Counted(torch.Tensor):
        def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            calls.append(len(index))
            return super().index_select(dim, index)

    loader = TensorLoader((torch.arange(23).as_subclass(Counted),), 4, Streams(1))
    assert len(list(loader.epoch(0))) == 6 and calls == [23]
    monkeypatch.setattr(tensors, "_BLOCK_BYTES", 8 * 8)  # two batches of four int64
    calls.clear()
    assert len(list(loader.epoch(0))) == 6 and calls == [8, 8, 7]


def test_head_is_the_first_samples() -> None:
    head = make().head(5)
    assert (head.num_samples, len(head), head.batch_size) == (5, 2, 4)
    assert sorted(flat(rows(head))) == [0, 1, 2, 3, 4]
    assert head.streams is not None and make(seed=None).head(5).streams is None
    assert make().head(100).num_samples == 23


def test_it_holds_no_changing_state() -> None:
    loader = make()
    before = pickle.dumps(loader)
    rows(loader, 4, 2)
    assert pickle.dumps(loader) == before


def test_tensors_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"equally many samples, not \[2, 3\]"):
        TensorLoader((torch.zeros(2), torch.zeros(3)), 4)


def test_no_samples_are_no_batches() -> None:
    empty = make(num_samples=0)
    assert len(empty) == 0 and rows(empty) == [] and len(make(num_samples=0, batch_size=None)) == 0
