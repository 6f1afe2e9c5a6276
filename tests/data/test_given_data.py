"""What `loopwright.fit` makes of the data it is given: taken apart, in addressed order, drawn at an address."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import loopwright
from loopwright.data.loaders import MapLoader, ReplayedLoader, make_loader
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import num_batches
from loopwright.streams import Streams, global_state
from support.interruptions import Signal
from support.tasks import Augmented, EveryOther, Streamed

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Numbers(Dataset[torch.Tensor]):
    """The index itself; counts what is fetched."""

    def __init__(self, length: int = 23) -> None:
        self.length, self.fetched = length, []  # type: ignore[var-annotated]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> torch.Tensor:
        self.fetched.append(index)
        return torch.tensor(index)


def load(given: Any, split: str = "train", batch_size: int = 4, seed: int = 1) -> Any:
    return make_loader(given, batch_size, Streams(seed), split, CPU)


def rows(loader: Any, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [
        batch.tolist() if isinstance(batch, torch.Tensor) else batch[-1].tolist()
        for batch in loader.epoch(epoch, start)
    ]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


NUMBERS = torch.arange(23)


@pytest.mark.parametrize(
    "given",
    [
        NUMBERS,
        NUMBERS.numpy(),
        NUMBERS.tolist(),
        (NUMBERS, NUMBERS),
        [NUMBERS.numpy(), NUMBERS],
        TensorDataset(NUMBERS),
        Numbers(),
        DataLoader(TensorDataset(NUMBERS), batch_size=4, shuffle=True),
        DataLoader(Numbers(), batch_size=4, shuffle=True),
        DataLoader(Numbers(), batch_size=4, shuffle=True, generator=torch.Generator()),
    ],
    ids=lambda given: type(given).__name__,
)
def test_every_form_of_data_gives_the_same_batches(given: Any) -> None:
    if isinstance(given, list) and not isinstance(given[0], int):
        given = tuple(given)
    loader = load((given,) if isinstance(given, list) else given)
    expected = Streams(1).numpy("order", 2).permutation(23).tolist()
    assert flat(rows(loader, 2)) == expected and len(loader) == 6 and loader.num_samples == 23
    assert [len(batch) for batch in rows(loader, 2)] == [4, 4, 4, 4, 4, 3]
    assert all(rows(loader, 2, start) == rows(loader, 2)[start:] for start in range(8))
    assert rows(loader.head(5))[1:] == [rows(loader.head(5))[1]] and sorted(flat(rows(loader.head(5)))) == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_data_in_memory_are_not_fetched_one_by_one() -> None:
    loaders = (load(NUMBERS), load(TensorDataset(NUMBERS)), load(DataLoader(TensorDataset(NUMBERS), 4, shuffle=True)))
    assert all(isinstance(loader, TensorLoader) for loader in loaders)
    assert isinstance(load(Numbers()), MapLoader)
    assert isinstance(load(DataLoader(TensorDataset(NUMBERS), 4, drop_last=True)), MapLoader)
    assert isinstance(load(DataLoader(TensorDataset(NUMBERS), 4, collate_fn=lambda items: items)), MapLoader)
    assert load(None) is None


@pytest.mark.parametrize("split", ["val", "test"])
def test_only_training_data_are_shuffled(split: str) -> None:
    for given in (NUMBERS, Numbers(), TensorDataset(NUMBERS), DataLoader(Numbers(), batch_size=4)):
        assert flat(rows(load(given, split), 3)) == list(range(23))
    # A DataLoader that says so is taken at its word.
    assert flat(rows(load(DataLoader(Numbers(), batch_size=4)), 3)) == list(range(23))
    assert flat(rows(load(DataLoader(Numbers(), batch_size=4, shuffle=True), split), 3)) != list(range(23))


@pytest.mark.parametrize("shuffle", [False, True])
def test_drop_last_is_kept(shuffle: bool) -> None:
    loader = load(DataLoader(Numbers(), batch_size=4, shuffle=shuffle, drop_last=True))
    assert len(loader) == 5 and [len(batch) for batch in rows(loader)] == [4] * 5
    whole = load(DataLoader(Numbers(), batch_size=4, shuffle=shuffle))
    assert rows(loader, 1) == rows(whole, 1)[:5]
    exact = load(DataLoader(Numbers(20), batch_size=4, shuffle=shuffle, drop_last=True))
    assert len(exact) == len(rows(exact)) == 5


def test_collate_and_batch_size_are_kept() -> None:
    loader = load(
        DataLoader(Numbers(), batch_size=5, collate_fn=lambda items: {"y": torch.stack(items) * 2}), batch_size=99
    )
    assert [batch["y"].tolist() for batch in loader.epoch(0, 3)] == [[30, 32, 34, 36, 38], [40, 42, 44]]


def test_a_start_in_the_middle_fetches_nothing_before_it() -> None:
    data = Numbers()
    loader = load(DataLoader(data, batch_size=4, shuffle=True))
    whole = rows(loader, 1)
    data.fetched.clear()
    assert rows(loader, 1, 3) == whole[3:] and data.fetched == flat(whole[3:])


def test_the_log_says_that_the_order_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="loopwright"):
        load(DataLoader(Numbers(), batch_size=4, shuffle=True))
    assert len(caplog.messages) == 1 and "order is replaced by an addressed one" in caplog.messages[0]


def drawn(loader: Any, epoch: int = 0, start: int = 0) -> list[Any]:
    return [[tensor.tolist() for tensor in batch] for batch in loader.epoch(epoch, start)]


def test_items_are_drawn_at_their_address_whatever_the_workers() -> None:
    none, two = (load(DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=n)) for n in (0, 2))
    first = drawn(none, 1)
    np.random.seed(5)
    assert drawn(none, 1) == first  # whatever was drawn before
    assert drawn(none, 1, 2) == first[2:]  # wherever it starts
    assert drawn(two, 1) == first and drawn(two, 1, 2) == first[2:]  # whoever fetches
    assert (
        drawn(none, 2) != first and drawn(load(DataLoader(Augmented(), batch_size=4, shuffle=True), seed=2), 1) != first
    )
    # The address is the sample's, not its place: another batch size leaves every item as it is.
    wide = drawn(load(DataLoader(Augmented(), batch_size=11, shuffle=True)), 1)
    assert [x for xs, _ in wide for x in xs] == [x for xs, _ in first for x in xs]
    # Another split is another address.
    assert (
        drawn(load(DataLoader(Augmented(), batch_size=4), "val"))[0]
        != drawn(load(DataLoader(Augmented(), batch_size=4)))[0]
    )


@pytest.mark.parametrize(
    "given",
    [Augmented(), Streamed(), DataLoader(Augmented(), batch_size=4, sampler=EveryOther(22))],
    ids=["map", "iterable", "sampler"],
)
def test_fetching_leaves_the_global_generators_alone(given: Any) -> None:
    loader = load(given)
    before = global_state()
    for _ in loader.epoch(0):
        after = global_state()
        for name in ("numpy_rng_state", "python_rng_state"):
            assert repr(after[name]) == repr(before[name]), name
        random.random()
        np.random.rand()
        before = global_state()


def test_a_custom_sampler_runs_at_an_address() -> None:
    data = Numbers(22)
    loader = load(DataLoader(data, batch_size=4, sampler=EveryOther(22)))
    assert len(loader) == 3 and [len(batch) for batch in rows(loader)] == [4, 4, 3]
    first = rows(loader, 1)
    data.fetched.clear()
    random.random()
    torch.rand(3)
    assert rows(loader, 1) == first and rows(loader, 1, 1) == first[1:]
    assert data.fetched == flat(first) + flat(first[1:])  # advanced without loading
    assert (
        rows(loader, 2) != first
        and rows(load(DataLoader(data, batch_size=4, sampler=EveryOther(22)), seed=2), 1) != first
    )
    dropped = load(DataLoader(data, batch_size=4, sampler=EveryOther(22), drop_last=True))
    assert len(dropped) == 2 and rows(dropped, 1) == first[:2]


SAMPLERS = {
    "weighted": lambda generator: WeightedRandomSampler([1.0] * 22, 10, generator=generator),
    "subset": lambda generator: SubsetRandomSampler(range(10), generator=generator),
    "with replacement": lambda generator: RandomSampler(
        Numbers(22), replacement=True, num_samples=10, generator=generator
    ),
    "a part": lambda generator: RandomSampler(Numbers(22), num_samples=10, generator=generator),
}


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("own_generator", [False, True])
def test_torchs_samplers_keep_what_they_sample(name: str, own_generator: bool) -> None:
    def loader() -> Any:
        sampler = SAMPLERS[name](torch.Generator().manual_seed(3) if own_generator else None)
        return load(DataLoader(Numbers(22), batch_size=4, sampler=sampler))

    one = loader()
    epochs = [flat(rows(one, epoch)) for epoch in range(3)]
    assert [len(epoch) for epoch in epochs] == [10, 10, 10] and len(one) == 3
    assert len({str(epoch) for epoch in epochs}) == 3
    # A resume stands in another process, which has drawn nothing yet.
    assert flat(rows(loader(), 2)) == epochs[2] and rows(loader(), 1, 2) == rows(one, 1)[2:]


def test_a_batch_sampler_is_kept() -> None:
    given = DataLoader(Numbers(22), batch_sampler=BatchSampler(EveryOther(22), 5, drop_last=True))
    loader = load(given)
    assert len(loader) == 2 and [len(batch) for batch in rows(loader)] == [5, 5]
    assert rows(loader, 3) == rows(load(given), 3) != rows(loader, 4)
    plain = load(DataLoader(Numbers(22), batch_sampler=BatchSampler(SequentialSampler(range(22)), 5, drop_last=False)))
    assert flat(rows(plain, 2)) == list(range(22)) and len(plain) == 5


class Chunks(Dataset[torch.Tensor]):
    """Items that are batches already."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.arange(4 * index, 4 * index + 4)


def test_a_loader_whose_items_are_batches_already() -> None:
    loader = load(DataLoader(Chunks(), batch_size=None))
    assert len(loader) == 5 and rows(loader) == [list(range(at, at + 4)) for at in range(0, 20, 4)]
    assert rows(loader, 0, 3) == rows(loader)[3:]
    shuffled = load(DataLoader(Chunks(), batch_size=None, shuffle=True))
    assert sorted(rows(shuffled, 1)) == rows(loader) and rows(shuffled, 1) != rows(shuffled, 2)


def test_an_iterable_is_replayed(caplog: pytest.LogCaptureFixture) -> None:
    loader = load(Streamed())
    assert isinstance(loader, ReplayedLoader) and "reads and discards" in caplog.text
    assert (num_batches(loader), loader.num_samples) == (None, None)  # and none was read to count it
    assert [size for _, size in loader.dealt(0)] == [4] * 5 + [2]
    first = drawn(loader, 1)
    assert drawn(loader, 1) == first and drawn(loader, 1, 2) == first[2:] and drawn(loader, 2) != first
    assert len(drawn(loader.head(8))) == 2 == len(loader.head(8))
    workers = load(DataLoader(Streamed(), batch_size=4, num_workers=1))
    assert drawn(workers, 1, 2) == drawn(workers, 1)[2:]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a file.csv", "give tensors, arrays, a tuple of them, a Dataset or a DataLoader"),
        (object(), "give tensors, arrays, a tuple of them, a Dataset or a DataLoader"),
        ((NUMBERS, "labels"), "give tensors, arrays, a tuple of them, a Dataset or a DataLoader"),
        ((NUMBERS, NUMBERS[:5]), r"equally many samples, not \[5, 23\]"),
        (NUMBERS[:0], "the train data have no samples"),
        (TensorDataset(NUMBERS[:0]), "the train data have no samples"),
        (DataLoader(Numbers(3), batch_size=4, drop_last=True), "the train data have no samples"),
    ],
)
def test_data_that_cannot_be_used(given: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        load(given)


def order_of(epoch: int, seed: int = 7) -> list[int]:
    return torch.randperm(22, generator=torch.Generator().manual_seed(seed + epoch)).tolist()


class Counting(Sampler[int]):
    """The usual pattern: an order by seed and epoch, the epoch counted by the sampler itself."""

    def __init__(self) -> None:
        self.epoch = 0

    def __len__(self) -> int:
        return 22

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter(order_of(self.epoch - 1))


class Told(Counting):
    """One that is told, and keeps the epoch under another name."""

    def __init__(self) -> None:
        self.now = 0

    def set_epoch(self, epoch: int) -> None:
        self.now = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(order_of(self.now))


EPOCHS: dict[str, Callable[[], dict[str, Any]]] = {
    "counting": lambda: {"batch_size": 4, "sampler": Counting()},
    "told": lambda: {"batch_size": 4, "sampler": Told()},
    "inside a batch sampler": lambda: {"batch_sampler": BatchSampler(Told(), 4, False)},
    "workers": lambda: {"batch_size": 4, "sampler": Counting(), "num_workers": 2},
}


@pytest.mark.parametrize("name", EPOCHS)
def test_a_sampler_is_told_the_epoch_and_a_resume_gives_the_same_rows(name: str) -> None:
    def loader() -> Any:
        return load(DataLoader(Numbers(22), **EPOCHS[name]()))

    one = loader()
    assert [flat(rows(one, epoch)) for epoch in (0, 1, 2, 0)] == [order_of(epoch) for epoch in (0, 1, 2, 0)]
    assert flat(rows(loader(), 2, 3)) == order_of(2)[12:]


def test_the_distributed_sampler_has_another_order_in_every_epoch() -> None:
    def loader() -> Any:
        return load(DataLoader(Numbers(22), batch_size=4, sampler=DistributedSampler(range(22), 1, 0, seed=7)))  # type: ignore[arg-type]

    one = loader()
    assert [flat(rows(one, epoch)) for epoch in range(3)] == [order_of(epoch) for epoch in range(3)]
    assert flat(rows(loader(), 1, 2)) == order_of(1)[8:]


class Holding(Sampler[int]):
    """Draws from a generator that it holds under a name of its own."""

    def __init__(self, kind: str) -> None:
        made = {
            "torch": lambda: torch.Generator().manual_seed(5),
            "numpy": lambda: np.random.default_rng(5),
            "mt": lambda: np.random.Generator(np.random.MT19937(5)),
            "old numpy": lambda: np.random.RandomState(5),
            "python": lambda: random.Random(5),
        }
        self.kind, self.mine = kind, made[kind]()

    def __len__(self) -> int:
        return 22

    def __iter__(self) -> Iterator[int]:
        if self.kind == "torch":
            return iter(torch.randperm(22, generator=self.mine).tolist())
        if self.kind == "python":
            return iter(self.mine.sample(range(22), 22))
        return iter(self.mine.permutation(22).tolist())


@pytest.mark.parametrize("kind", ["torch", "numpy", "mt", "old numpy", "python"])
def test_generators_that_a_sampler_holds_stand_at_an_address(kind: str) -> None:
    def loader(seed: int = 1) -> Any:
        return load(DataLoader(Numbers(22), batch_size=4, sampler=Holding(kind)), seed=seed)

    one = loader()
    epochs = [flat(rows(one, epoch)) for epoch in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3 and all(sorted(epoch) == list(range(22)) for epoch in epochs)
    assert flat(rows(loader(), 2, 3)) == epochs[2][12:] and flat(rows(loader(2), 2)) != epochs[2]


def test_a_sampler_that_counts_elsewhere_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    class Elsewhere(Counting):
        def __init__(self) -> None:
            self.turn = 0

        def __iter__(self) -> Iterator[int]:
            self.turn += 1
            return iter(order_of(self.turn))

    one = load(DataLoader(Numbers(22), batch_size=4, sampler=Elsewhere()))
    caplog.clear()
    rows(one, 0), rows(one, 1)
    assert caplog.messages == [
        "Elsewhere changes its turn from epoch to epoch, which no resume can restore; give it set_epoch(epoch), or call the "
        "counter `epoch`"
    ]
    caplog.clear()
    rows(load(DataLoader(Numbers(22), batch_size=4, sampler=Counting())), 0)
    assert not caplog.messages


class Curriculum(Numbers):
    """Items that depend on the epoch."""

    now = 0

    def set_epoch(self, epoch: int) -> None:
        self.now = epoch

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index + 100 * self.now)


class Attributed(Numbers):
    epoch = 0

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(index + 100 * self.epoch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "data", [Curriculum(22), Attributed(22), Subset(Attributed(22), range(22))], ids=lambda d: type(d).__name__
)
def test_a_dataset_is_told_the_epoch_also_in_workers_that_outlive_one(data: Any, workers: int) -> None:
    loader = load(DataLoader(data, batch_size=11, num_workers=workers))
    for epoch in (0, 1, 2, 1):
        assert flat(rows(loader, epoch)) == [100 * epoch + index for index in range(22)]


class Shards(IterableDataset[torch.Tensor]):
    """Counts its passes, and draws from a generator that it holds."""

    def __init__(self) -> None:
        self.epoch, self.rng = 0, np.random.default_rng(3)

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.epoch += 1
        return (torch.tensor(100 * self.epoch + int(i)) for i in self.rng.permutation(8))


@pytest.mark.parametrize("workers", [{}, {"num_workers": 1}, {"num_workers": 1, "persistent_workers": True}], ids=str)
def test_an_iterable_dataset_is_told_the_epoch(workers: dict[str, Any]) -> None:
    one, again = (load(DataLoader(Shards(), batch_size=4, **workers)) for _ in range(2))
    epochs = [flat(rows(one, epoch)) for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [[100 * (e + 1) + i for i in range(8)] for e in range(3)]
    assert len({str([row % 100 for row in epoch]) for epoch in epochs}) == 3
    assert flat(rows(again, 2, 1)) == epochs[2][4:]


def test_a_training_with_a_counting_sampler_resumes_exactly(tmp_path: Path) -> None:
    x = torch.linspace(-1, 1, 66).reshape(22, 3)
    data = TensorDataset(x, x.sum(1, keepdim=True).sin())

    def train(out: str, *hooks: Any) -> Any:
        loader = DataLoader(data, 4, sampler=Counting())
        return loopwright.fit(
            lambda: nn.Linear(3, 1), nn.MSELoss(), train=loader, epochs=3, lr=0.1, out=tmp_path / out, resume=True,
            hooks=hooks, plots="none", record={"code": False},
        )  # fmt: skip

    whole = train("whole")
    assert train("cut", Signal(8)).status == "interrupted"  # the second batch of the second epoch
    assert train("cut").weights_sha256 == whole.weights_sha256


class Held(IterableDataset[Any]):
    """Draws from a generator of its own, which a wrapper holds under any name."""

    def __init__(self) -> None:
        self.generator = torch.Generator()

    def __iter__(self) -> Iterator[Any]:
        for _ in range(8):
            yield torch.rand(3, generator=self.generator)


class Around(IterableDataset[Any]):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __iter__(self) -> Iterator[Any]:
        return iter(self.inner)


class Global(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        for _ in range(8):
            yield torch.rand(3)


def test_generators_of_streams_and_their_loaders_stand_at_an_address() -> None:
    """A pass is the same, whatever passes were read before it."""
    for make in (
        lambda: DataLoader(Around(Held()), batch_size=4),
        lambda: DataLoader(Global(), batch_size=4, num_workers=2, generator=torch.Generator().manual_seed(3)),
    ):
        fresh, used = (ReplayedLoader(make(), Streams(1), "train", CPU) for _ in range(2))
        for index in range(2):
            list(used.epoch(index))
        assert torch.equal(torch.cat(list(fresh.epoch(2))), torch.cat(list(used.epoch(2))))


class Passes(IterableDataset[Any]):
    """Counts its passes by itself."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return 3  # an estimate, less than a batch

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return iter(torch.full((8, 2), float(self.passes)))


def test_what_a_stream_counts_by_itself_is_said_and_no_estimate_is_none(caplog: pytest.LogCaptureFixture) -> None:
    loader = ReplayedLoader(DataLoader(Passes(), batch_size=4, drop_last=True), Streams(1), "train", CPU)
    assert num_batches(loader) is None
    for index in range(2):
        assert len(list(loader.epoch(index))) == 2
    (line,) = [record.message for record in caplog.records if "which no resume can restore" in record.message]
    assert line.startswith("Passes changes its passes from epoch to epoch")
