"""Data whose passes have no fixed length: streams, and samplers that yield as many batches as they like."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from loopwright.config.schema import Recipe
from loopwright.data.loaders import make_loader
from loopwright.engine.task import Split
from loopwright.streams import Streams
from support.tasks import Config, Plain, data, recipe

X, Y = data("train")
Item = tuple[Tensor, Tensor]


def item(number: int) -> Item:
    return X[number % len(X)] + number / 100, Y[number % len(Y)]


class Growing(IterableDataset[Item]):
    """Pass p (from 0) has 10 + 4 p items. It counts its passes in an attribute that it is told."""

    def __init__(self) -> None:
        self.epoch = 0
        self.read = 0

    def __iter__(self) -> Iterator[Item]:
        for number in self.numbers(self.epoch):
            self.read += 1
            yield item(number)

    @staticmethod
    def numbers(epoch: int) -> list[int]:
        mine = list(range(100 * epoch, 100 * epoch + 10 + 4 * epoch))
        worker = get_worker_info()
        return mine if worker is None else mine[worker.id :: worker.num_workers]


class Filtered(IterableDataset[Item]):
    """A random part of the items, by the global generators of torch and Python: no two passes are of one length."""

    def __iter__(self) -> Iterator[Item]:
        for number in range(30):
            if random.random() < 0.6:
                x, y = item(number)
                yield x + 0.1 * torch.randn(3), y


class Endless(IterableDataset[Item]):
    """Never ends; draws from a generator that it holds."""

    def __init__(self) -> None:
        self.mine = random.Random(3)

    def __iter__(self) -> Iterator[Item]:
        return (item(self.mine.randrange(1000)) for _ in itertools.count())


class Once(IterableDataset[Item]):
    """The usual mistake: an iterator, which is exhausted after the first pass."""

    def __init__(self, length: int = 10) -> None:
        self.items = iter([item(number) for number in range(length)])

    def __iter__(self) -> Iterator[Item]:
        return self.items


class Indexed(Dataset[Item]):
    """The same items by their index."""

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> Item:
        return item(index)


class Buckets:
    """Batches of a random size from 2 to 6; its length is an estimate, as such samplers give it."""

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[list[int]]:
        rows = random.sample(range(30), 30)
        while rows:
            size = random.randint(2, 6)
            yield rows[:size]
            rows = rows[size:]


class Forever(Sampler[int]):
    """A sampler without end and without a length, which says how far it was read."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[int]:
        self.read = 0
        while True:
            self.read += 1
            yield int(torch.randint(30, ()))


def loader(kind: str, workers: int = 0) -> DataLoader[Any]:
    given: dict[str, Any] = {"num_workers": workers}
    if kind == "buckets":
        return DataLoader(Indexed(), batch_sampler=Buckets(), **given)  # type: ignore[arg-type]
    if kind == "forever":
        return DataLoader(Indexed(), batch_size=4, sampler=Forever(), **given)
    if kind == "map":
        return DataLoader(Indexed(), batch_size=4, shuffle=True, **given)
    streams = {"growing": Growing, "filtered": Filtered, "endless": Endless}
    return DataLoader(streams[kind](), batch_size=4, **given)


class FromStream(Plain):
    """A task by name that trains on a stream."""

    stream: ClassVar[str] = "filtered"

    def __init__(self, batch_size: int, streams: Streams) -> None:
        super().__init__(batch_size, streams)
        given = DataLoader(loader(self.stream).dataset, batch_size=batch_size)
        self.train = make_loader(given, batch_size, streams, "train", torch.device("cpu"))

    def loader(self, split: Split) -> Any:
        return self.train if split == "train" else super().loader(split)


class FromStreamConfig(Config):
    task = FromStream


class FromEndless(FromStream):
    stream = "endless"


class FromEndlessConfig(Config):
    task = FromEndless


def stream_recipe(task: str = "FromStream", **tree: Any) -> Recipe:
    """A recipe of one of these tasks."""
    return recipe(f"support.streams:{task}", **tree)
