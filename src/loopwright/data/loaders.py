"""Loaders of the user's own datasets, taken apart so that order and augmentation are addressed.

A map-style DataLoader keeps its dataset, collate, batch size, workers and drop_last; the order becomes ours, and each
item is fetched under randomness addressed by (seed, split, epoch, index), so that bits do not depend on the number of
workers, and a resume fetches nothing that was fetched before.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, islice
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
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from loopwright.data.tensors import TensorLoader
from loopwright.streams import Streams, global_state, isolated, restore_global_state

log = logging.getLogger("loopwright")


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


class _Batches:
    """A sampler that can be told which batches (or items that are batches already) come next."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class MapLoader:
    """Batches of a map-style dataset in addressed order, with 0 or more worker processes."""

    def __init__(self, loader: DataLoader[Any], streams: Streams, split: str, device: torch.device) -> None:
        self._given, self._streams, self._split, self._device = loader, streams, split, device
        self._dataset = loader.dataset
        self.num_samples = len(self._dataset)  # type: ignore[arg-type]
        self._unbatched = loader.batch_size is None and loader.batch_sampler is None
        self._own_batches = loader.batch_size is None and not self._unbatched
        self._own_order = self._own_batches or not _is_plain(loader)
        self._shuffle = isinstance(loader.sampler, RandomSampler)
        self._batch_size, self._drop_last = loader.batch_size or 1, loader.drop_last
        self._batches = _Batches()
        self._loader: DataLoader[Any] | None = None
        self._warned = False

    def __len__(self) -> int:
        if self._own_order:
            return len(self._given)
        full, rest = divmod(self.num_samples, self._batch_size)
        return full + bool(rest and not self._drop_last)

    def head(self, num_samples: int) -> MapLoader:
        given = self._given
        subset = Subset(self._dataset, range(min(num_samples, self.num_samples)))
        smaller = DataLoader(
            subset,
            batch_size=None if self._unbatched else given.batch_size or 1,
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
        places = [[(index, row) for row in rows] for rows in self._order(index)[start:]]
        self._batches.batches = [place for (place,) in places] if self._unbatched else places
        if not self._batches.batches:
            return
        batches = iter(self._open())
        for rows in places:
            # Items fetched in this process pin the global generators; training must not notice.
            with isolated():
                batch = next(batches)
            yield to_device(batch, self._device), None if self._unbatched else len(rows)

    def _order(self, epoch: int) -> list[list[int]]:
        if self._own_order:
            with self._streams.fork("sampler", self._split, epoch):
                given = self._given
                samplers = _with_inner(given.sampler, given.batch_sampler)
                _tell_epoch(samplers, epoch)
                for sampler in samplers:
                    _address_generators(sampler, self._streams, "sampler", self._split, epoch)
                before = [_counters(sampler) for sampler in samplers]
                if self._own_batches:
                    batches = [list(rows) for rows in given.batch_sampler or ()]
                else:
                    rows = [int(row) for row in given.sampler]
                self._warn_of_state(samplers, before)
                if self._own_batches:
                    return batches
        elif self._shuffle:
            rows = self._streams.numpy("order", epoch).permutation(self.num_samples).tolist()
        else:
            rows = list(range(self.num_samples))
        chunks = [rows[at : at + self._batch_size] for at in range(0, len(rows), self._batch_size)]
        return chunks[:-1] if self._drop_last and chunks and len(chunks[-1]) < self._batch_size else chunks

    def _warn_of_state(self, samplers: list[Any], before: list[dict[str, Any]]) -> None:
        """Say once what a sampler counts by itself: a resume, which begins with a new sampler, cannot know it."""
        for sampler, held in zip(samplers, before, strict=True):
            changed = [name for name, value in _counters(sampler).items() if held.get(name, value) != value]
            if changed and not self._warned:
                self._warned = True
                log.warning(
                    "%s changes its %s from epoch to epoch, which no resume can restore; give it set_epoch(epoch), or call "
                    "the counter `epoch`",
                    type(sampler).__name__,
                    ", ".join(changed),
                )

    def _open(self) -> DataLoader[Any]:
        given = self._given
        if self._loader is None:
            workers: dict[str, Any] = {}
            if given.num_workers:
                workers = {"persistent_workers": True, "prefetch_factor": given.prefetch_factor}
                workers |= {"multiprocessing_context": given.multiprocessing_context}
            order: dict[str, Any] = {"batch_sampler": self._batches}
            if self._unbatched:
                order = {"sampler": self._batches, "batch_size": None}
            self._loader = DataLoader(
                _Addressed(self._dataset, self._streams, self._split),
                **order,
                num_workers=given.num_workers,
                collate_fn=given.collate_fn,
                pin_memory=given.pin_memory and self._device.type == "cuda",
                worker_init_fn=given.worker_init_fn,
                timeout=given.timeout,
                **workers,
            )
        return self._loader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loader": None, "_batches": _Batches()}


class ReplayedLoader:
    """Batches of an iterable dataset. It has no order to address, so a resume reads and discards what was used before."""

    def __init__(self, loader: DataLoader[Any], streams: Streams, split: str, device: torch.device) -> None:
        self._given, self._streams, self._split, self._device = loader, streams, split, device
        self._limit: int | None = None
        self._lengths: tuple[int, int] | None = None

    def __len__(self) -> int:
        return self._measured()[0]

    @property
    def num_samples(self) -> int:
        return self._measured()[1]

    def head(self, num_samples: int) -> ReplayedLoader:
        smaller = ReplayedLoader(self._given, self._streams, self._split, self._device)
        smaller._limit = -(-num_samples // (self._given.batch_size or 1))
        return smaller

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        for number, batch in enumerate(self._read(index)):
            if number >= start:
                yield to_device(batch, self._device)

    def _read(self, epoch: int) -> Iterator[Any]:
        """One pass, under generators of its own: training draws from the global ones in between."""
        with self._streams.fork("iterable", self._split, epoch):
            datasets = _with_inner(self._given.dataset)
            _tell_epoch(datasets, epoch)
            for dataset in datasets:
                _address_generators(dataset, self._streams, "iterable", self._split, epoch)
            self._given._iterator = None  # workers that outlive an epoch would keep the dataset of the one before
            batches = iter(self._given)
            own = global_state()
        for _ in islice(count(), self._limit):
            with isolated():
                restore_global_state(own)
                batch = next(batches, None)
                own = global_state()
            if batch is None:
                return
            yield batch

    def _measured(self) -> tuple[int, int]:
        """(batches, samples) of an epoch, counted once by reading the first one through."""
        if self._lengths is None:
            batches = samples = 0
            for batch in self._read(0):
                batches += 1
                samples += num_rows(batch)
            self._lengths = batches, samples
        return self._lengths


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
    if len(mapped) == 0:
        raise ValueError(f"the {split} data have no samples")
    return mapped


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch's tensors on a device, whatever they are nested in."""
    if device.type == "cpu":
        return batch
    return tree_map(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, batch)


def num_rows(batch: Any) -> int:
    while isinstance(batch, list | tuple | dict):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[-1]
    return len(batch)


def _with_inner(*holders: Any) -> list[Any]:
    """These samplers, or datasets, and those of their kind that they wrap."""
    found: dict[int, Any] = {}
    waiting = list(holders)
    while waiting:
        holder = waiting.pop(0)
        if id(holder) not in found and hasattr(holder, "__dict__"):
            found[id(holder)] = holder
            of_its_kind = ("dataset", "datasets") if isinstance(holder, Dataset) else ("sampler", "batch_sampler")
            for inner in (vars(holder).get(name) for name in of_its_kind):
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


def _counters(sampler: Any) -> dict[str, Any]:
    """What a sampler may count in: its plain attributes, but for the epoch, which it is told."""
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
