"""Loaders of the user's own datasets, taken apart so that order and augmentation are addressed.

A map-style DataLoader keeps its dataset, collate, batch size, workers and drop_last; the order becomes ours, and each
item is fetched under randomness addressed by (seed, split, epoch, index), so that bits do not depend on the number of
workers, and a resume fetches nothing that was fetched before.
"""

from __future__ import annotations

import copy
import logging
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from loopwright import clock
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Loader, dealt, known_length, num_batches
from loopwright.errors import DataError
from loopwright.streams import Streams, global_state, isolated, restore_global_state

log = logging.getLogger("loopwright")

# Batches that are read from a sampler at a time: setting the generators to its own state and back takes 0.3 ms.
_READ_AHEAD = 32
# A stream without a length that is evaluated for as long as this may have no end.
_LONG_BATCHES, _LONG_SECONDS = 100_000, 60.0
_END = object()


class _Addressed(Dataset[Any]):
    """A dataset whose items are asked for by (epoch, index) and drawn at that address (7 us an item)."""

    def __init__(self, dataset: Dataset[Any], streams: Streams, split: str) -> None:
        self.dataset, self.streams, self.split = dataset, streams, split
        self._told: int | None = None

    def __getitem__(self, place: tuple[int, int]) -> Any:
        epoch, index = place
        if epoch != self._told:  # here, since a worker keeps its own copy of the dataset
            self._told = epoch
            _tell_epoch(_with_inner(self.dataset), epoch)
        self.streams.pin("item", self.split, epoch, index)
        return self.dataset[index]


class _Places:
    """A sampler that is told, for each pass, where the batches are to be read (or the items that are batches already)."""

    def __init__(self) -> None:
        self.next: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.next)


class _OwnState:
    """The random state of one pass over samplers or a dataset, kept between its reads.

    In between, training draws from the global generators, and another pass from those that the same objects hold.
    """

    def __init__(self, holders: list[Any]) -> None:
        self._held = [own for holder in holders for own in vars(holder).values() if isinstance(own, _GENERATORS)]
        self._keep()

    def _keep(self) -> None:
        self._global, self._states = global_state(), [_generator_state(own) for own in self._held]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A block that draws where the one before left off; the global generators are as they were afterwards."""
        with isolated():
            restore_global_state(self._global)
            for own, state in zip(self._held, self._states, strict=True):
                _set_generator_state(own, state)
            yield
            self._keep()


class MapLoader:
    """Batches of a map-style dataset in addressed order, with 0 or more worker processes."""

    def __init__(self, loader: DataLoader[Any], streams: Streams, split: str, device: torch.device) -> None:
        self._given, self._streams, self._split, self._device = loader, streams, split, device
        self._dataset = loader.dataset
        self.num_samples = known_length(self._dataset)
        self._unbatched = loader.batch_size is None and loader.batch_sampler is None
        self._own_batches = loader.batch_size is None and not self._unbatched
        self._own_order = self._own_batches or not _is_plain(loader)
        self._shuffle = isinstance(loader.sampler, RandomSampler)
        self._batch_size, self._drop_last = loader.batch_size or 1, loader.drop_last
        # Loaders whose workers wait for a pass. One under way has a loader to itself.
        self._idle: list[tuple[DataLoader[Any], _Places]] = []
        self._warned = False

    def __len__(self) -> int:
        if self._own_order:
            return len(self._given)
        assert self.num_samples is not None, "an order of ours needs a length"
        full, rest = divmod(self.num_samples, self._batch_size)
        return full + bool(rest and not self._drop_last)

    def head(self, num_samples: int) -> MapLoader:
        given = self._given
        known = num_samples if self.num_samples is None else min(num_samples, self.num_samples)
        subset = Subset(self._dataset, range(known))
        smaller = DataLoader(
            subset,
            batch_size=None if self._unbatched else given.batch_size or len(next(self._order(0))),
            shuffle=self._shuffle,
            collate_fn=given.collate_fn,
            num_workers=given.num_workers,
        )
        return MapLoader(smaller, self._streams, self._split, self._device)

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        """The batches of epoch `index` from batch `start` on, moved to the device."""
        return (batch for batch, _ in self.dealt(index, start))

    def dealt(self, index: int, start: int = 0) -> Iterator[tuple[Any, int | None]]:
        """The same batches, each with the number of samples dealt to it: None for items that are batches already."""
        order, sizes = islice(self._order(index), start, None), deque[int]()

        def places() -> Generator[Any, None, None]:
            for rows in order:
                sizes.append(len(rows))
                yield (index, rows[0]) if self._unbatched else [(index, row) for row in rows]

        loader, wanted = self._idle.pop() if self._idle else self._open()
        wanted.next = asked = places()
        try:
            batches = iter(loader)
            while True:
                # Items fetched in this process pin the global generators; training must not notice.
                with isolated():
                    batch = next(batches, _END)
                if batch is _END:
                    return
                size = sizes.popleft()
                yield to_device(batch, self._device), None if self._unbatched else size
        finally:
            # Closed, it holds nothing: in a cycle with this loader, workers would be waited for when they are collected.
            asked.close()
            self._idle.append((loader, wanted))

    def _order(self, epoch: int) -> Iterator[list[int]]:
        """The rows of each batch of an epoch."""
        if self._own_order:
            return self._sampled(epoch)
        assert self.num_samples is not None, "an order of ours needs a length"
        if self._shuffle:
            rows = self._streams.numpy("order", epoch).permutation(self.num_samples).tolist()
        else:
            rows = range(self.num_samples)
        return self._chunks(iter(rows))

    def _chunks(self, rows: Iterator[Any]) -> Iterator[list[int]]:
        while chunk := [int(row) for row in islice(rows, self._batch_size)]:
            if len(chunk) == self._batch_size or not self._drop_last:
                yield chunk

    def _sampled(self, epoch: int) -> Iterator[list[int]]:
        """What a sampler of the user's own yields, read no further than it is wanted: it may have no end."""
        given = self._given
        samplers = _with_inner(given.sampler, given.batch_sampler)
        with self._streams.fork("sampler", self._split, epoch):
            _tell_epoch(samplers, epoch)
            for sampler in samplers:
                _address_generators(sampler, self._streams, "sampler", self._split, epoch)
            before = [_counters(sampler) for sampler in samplers]
            batches: Iterator[list[int]]
            if self._own_batches:
                batches = (list(rows) for rows in cast(Iterable[Any], given.batch_sampler))
            else:
                batches = self._chunks(iter(given.sampler))
            own = _OwnState(samplers)
        found = False
        while True:
            with own.reading():
                some = list(islice(batches, _READ_AHEAD))
            yield from some
            found = found or bool(some)
            if len(some) < _READ_AHEAD:
                break
        self._warned = self._warned or _warned_of_state(samplers, before)
        if not found:
            raise DataError(
                f"the sampler of the {self._split} data yields no batch in pass {epoch + 1}; `__iter__` must return a new "
                "iterator every time it is called"
            )

    def _open(self) -> tuple[DataLoader[Any], _Places]:
        given, places = self._given, _Places()
        workers: dict[str, Any] = {}
        if given.num_workers:
            workers = {"persistent_workers": True, "prefetch_factor": given.prefetch_factor}
            workers |= {"multiprocessing_context": given.multiprocessing_context}
        order: dict[str, Any] = (
            {"sampler": places, "batch_size": None} if self._unbatched else {"batch_sampler": places}
        )
        loader: DataLoader[Any] = DataLoader(
            _Addressed(self._dataset, self._streams, self._split),
            **order,
            num_workers=given.num_workers,
            collate_fn=given.collate_fn,
            pin_memory=given.pin_memory and self._device.type == "cuda",
            worker_init_fn=given.worker_init_fn,
            timeout=given.timeout,
            **workers,
        )
        return loader, places

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_idle": []}


class _Sized:
    """A collate function that says how many items it was given."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> tuple[int, Any]:
        return len(items), self.collate(items)


class ReplayedLoader:
    """Batches of an iterable dataset. It has no order to address, so a resume reads and discards what was used before.

    A pass is whatever the dataset yields. Only a dataset with a `__len__` has a length, and it is an estimate.
    """

    def __init__(self, loader: DataLoader[Any], streams: Streams, split: str, device: torch.device) -> None:
        self._given, self._streams, self._split, self._device = loader, streams, split, device
        # A DataLoader with an `__iter__` of its own may look at the batches, which are then left as they are.
        self._sized = loader.batch_size is not None and type(loader).__iter__ is DataLoader.__iter__
        self._heads: dict[int, _Head] = {}
        self._opened = 0
        self._warned = False

    def __len__(self) -> int:
        samples, size = self.num_samples, self._given.batch_size or 1
        batches = 0 if samples is None else samples // size if self._given.drop_last else -(-samples // size)
        if not batches:  # an estimate of none is no estimate
            raise TypeError(f"{type(self._given.dataset).__name__} has no length")
        return batches

    @property
    def num_samples(self) -> int | None:
        return known_length(self._given.dataset)

    def head(self, num_samples: int) -> Loader:
        if num_samples not in self._heads:
            self._heads[num_samples] = _Head(self, -(-num_samples // (self._given.batch_size or 1)))
        return self._heads[num_samples]

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        """The batches of pass `index` from batch `start` on, moved to the device. Raises DataError for an empty pass."""
        return (batch for batch, _ in self.dealt(index, start))

    def dealt(self, index: int, start: int = 0) -> Iterator[tuple[Any, int | None]]:
        """The same batches, each with its number of samples: None where an item is a batch already."""
        self._opened += 1
        may_be_endless = self._split != "train" and num_batches(self) is None
        began, number = clock.monotonic(), 0
        for number, (size, batch) in enumerate(self._read(index), 1):
            if number > start:
                yield to_device(batch, self._device), size
            if may_be_endless and (number >= _LONG_BATCHES or clock.monotonic() - began >= _LONG_SECONDS):
                may_be_endless = False
                log.warning(
                    "%s: %d batches were read and the stream goes on; if it has no end, end it (itertools.islice), for an "
                    "evaluation reads all of it",
                    self._split,
                    number,
                )
        if number == 0:
            nth = index + 1 if self._split == "train" else self._opened  # of val and test, the first is read each time
            raise DataError(
                f"the {self._split} data yield no batch in pass {nth}; `__iter__` of "
                f"{type(self._given.dataset).__name__} must return a new iterator every time it is called"
            )

    def _read(self, epoch: int) -> Iterator[tuple[int | None, Any]]:
        """One pass, under generators of its own."""
        loader = copy.copy(
            self._given
        )  # so that no pass ends another, and no workers keep the dataset of the one before
        loader._iterator = None
        loader._IterableDataset_len_called = None  # torch would warn of a length that is an estimate
        if loader.generator is not None:  # workers get their seeds from it, and it would remember the passes before
            loader.generator = self._streams.generator("iterable", self._split, epoch, "loader")
        if self._sized:
            loader.collate_fn = _Sized(loader.collate_fn)
        with self._streams.fork("iterable", self._split, epoch):
            datasets = _with_inner(loader.dataset)
            _tell_epoch(datasets, epoch)
            for dataset in datasets:
                _address_generators(dataset, self._streams, "iterable", self._split, epoch)
            before = [_counters(dataset) for dataset in datasets]
            batches = iter(loader)
            own = _OwnState(datasets)
        while True:
            with own.reading():
                read: Any = next(batches, _END)
            if read is _END:
                self._warned = self._warned or _warned_of_state(datasets, before)
                return
            size, batch = read if self._sized else (None, read)
            yield size, batch

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_heads": {}, "_opened": 0}


class _Head:
    """The first batches of a stream's first pass, read when they are first asked for; every pass has the same ones."""

    def __init__(self, stream: Loader, batches: int) -> None:
        self._stream, self._wanted = stream, batches

    @cached_property
    def _batches(self) -> list[tuple[Any, int | None]]:
        return list(islice(dealt(self._stream, 0), self._wanted))

    @property
    def num_samples(self) -> int | None:
        sizes = [size for _, size in self._batches if size is not None]
        return sum(sizes) if len(sizes) == len(self._batches) else None

    def __len__(self) -> int:
        return len(self._batches)

    def head(self, num_samples: int) -> Loader:
        return self._stream.head(num_samples)

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        return (batch for batch, _ in self.dealt(index, start))

    def dealt(self, index: int, start: int = 0) -> Iterator[tuple[Any, int | None]]:
        return iter(self._batches[start:])


def make_loader(
    given: Any, batch_size: int, streams: Streams, split: str, device: torch.device
) -> TensorLoader | MapLoader | ReplayedLoader | None:
    """A loader of tensors, arrays, a Dataset or a DataLoader; training data given without a DataLoader are shuffled.

    Raises TypeError for anything else, ValueError for a split without samples.
    """
    if given is None:
        return None
    train = split == "train"
    if isinstance(given, DataLoader):
        loader = given
        if train:
            log.info(
                "the DataLoader's order is replaced by an addressed one; dataset, collate, workers and batch size are kept"
            )
    elif isinstance(given, IterableDataset):
        loader = DataLoader(given, batch_size=batch_size)
    elif isinstance(given, Dataset):
        if len(given) == 0:  # type: ignore[arg-type]
            raise ValueError(f"the {split} data have no samples")
        loader = DataLoader(given, batch_size=batch_size, shuffle=train)
    else:
        return _in_memory(_tensors(given), batch_size, streams if train else None, device, split)
    if isinstance(loader.dataset, IterableDataset):
        log.warning("%s is an iterable dataset: a resume reads and discards the batches used before", split)
        return ReplayedLoader(loader, streams, split, device)
    in_memory = type(loader.dataset) is TensorDataset and loader.collate_fn is default_collate and not loader.drop_last
    if in_memory and loader.batch_size is not None and _is_plain(loader):
        order = streams if isinstance(loader.sampler, RandomSampler) else None
        return _in_memory(cast(TensorDataset, loader.dataset).tensors, loader.batch_size, order, device, split)
    mapped = MapLoader(loader, streams, split, device)
    if num_batches(mapped) == 0:
        raise ValueError(f"the {split} data have no samples")
    return mapped


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch's tensors on a device, whatever they are nested in."""
    if device.type == "cpu":
        return batch
    return tree_map(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)


_HOLDING = ("dataset", "datasets", "sampler", "batch_sampler")


def _with_inner(*holders: Any) -> list[Any]:
    """These samplers, or datasets, and those of their kind that they wrap."""
    found: dict[int, Any] = {}
    waiting = list(holders)
    while waiting:
        holder = waiting.pop(0)
        if id(holder) not in found and hasattr(holder, "__dict__"):
            found[id(holder)] = holder
            kind = Dataset if isinstance(holder, Dataset) else Sampler
            for name, inner in vars(holder).items():
                if name in _HOLDING or isinstance(inner, kind):
                    waiting += inner if isinstance(inner, list | tuple) else [inner]
    return list(found.values())


def _tell_epoch(holders: list[Any], epoch: int) -> None:
    """Tell samplers or datasets which epoch begins (from 0): by `set_epoch`, else in the attribute `epoch`."""
    for each in holders:
        if callable(getattr(each, "set_epoch", None)):
            each.set_epoch(epoch)
        elif type(getattr(each, "epoch", None)) is int:
            with suppress(AttributeError):  # one that can only be read
                each.epoch = epoch


_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


def _generator_state(own: Any) -> Any:
    if isinstance(own, np.random.Generator):
        return own.bit_generator.state
    return own.getstate() if isinstance(own, random.Random) else own.get_state()


def _set_generator_state(own: Any, state: Any) -> None:
    if isinstance(own, np.random.Generator):
        own.bit_generator.state = state
    elif isinstance(own, random.Random):
        own.setstate(state)
    else:
        own.set_state(state)


def _address_generators(holder: Any, streams: Streams, *address: str | int) -> None:
    """Set the generators that a sampler or dataset holds to an address: they would remember the epochs before."""
    for name, own in vars(holder).items():
        key = streams.seed(*address, *(() if name == "generator" else (name,)))
        if isinstance(own, torch.Generator):
            own.manual_seed(key & 0x7FFF_FFFF_FFFF_FFFF)
        elif isinstance(own, np.random.Generator):
            own.bit_generator.state = type(own.bit_generator)(key).state
        elif isinstance(own, np.random.RandomState):
            own.seed(key & 0xFFFF_FFFF)
        elif isinstance(own, random.Random):
            own.seed(key)


def _warned_of_state(holders: list[Any], before: list[dict[str, Any]]) -> bool:
    """Say what a sampler or stream counts by itself: a resume, which begins with a new one, cannot know it."""
    for holder, held in zip(holders, before, strict=True):
        changed = [name for name, value in _counters(holder).items() if held.get(name, value) != value]
        if changed:
            log.warning(
                "%s changes its %s from epoch to epoch, which no resume can restore; give it set_epoch(epoch), or call "
                "the counter `epoch`",
                type(holder).__name__,
                ", ".join(changed),
            )
            return True
    return False


def _counters(sampler: Any) -> dict[str, Any]:
    """What a sampler or stream may count in: its plain attributes, but for the epoch, which it is told."""
    return {name: value for name, value in vars(sampler).items() if type(value) in (int, float) and name != "epoch"}


def _is_plain(loader: DataLoader[Any]) -> bool:
    """Whether the order is torch's own over the whole dataset, shuffled or not."""
    sampler: Any = loader.sampler
    if type(sampler) not in (RandomSampler, SequentialSampler) or len(sampler) != len(loader.dataset):  # type: ignore[arg-type]
        return False
    return type(sampler) is SequentialSampler or not sampler.replacement


def _in_memory(
    tensors: tuple[Tensor, ...], batch_size: int, order: Streams | None, device: torch.device, split: str
) -> TensorLoader:
    if len(tensors[0]) == 0:
        raise ValueError(f"the {split} data have no samples")
    return TensorLoader(tuple(t.to(device) for t in tensors), batch_size, order)


def _tensors(given: Any) -> tuple[Tensor, ...]:
    items = given if isinstance(given, list | tuple) else (given,)
    try:
        return tuple(item if isinstance(item, Tensor) else torch.as_tensor(item) for item in items)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"data are {type(given).__name__}: give tensors, arrays, a tuple of them, a Dataset or a DataLoader ({error})"
        ) from None
