"""Lazy layers, whose weights get their shapes from the first batch of the training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, IterableDataset

from loopwright.data.loaders import make_loader, to_device
from loopwright.engine.compute import device_of
from loopwright.engine.evaluate import measured
from loopwright.engine.finite import listed
from loopwright.errors import ConfigError, DataError
from loopwright.streams import Streams, isolated
from loopwright.tasks.batches import inputs_and_target


def lazy_names(module: nn.Module) -> list[str]:
    """The parameters and buffers that have no shape yet."""
    named = (*module.named_parameters(), *module.named_buffers())
    return [name for name, tensor in named if is_lazy(tensor)]


def initialise(module: nn.Module, train: Any, batch_size: int, streams: Streams) -> None:
    """Let lazy layers take their shapes from the training's first batch: one forward, in evaluation mode.

    The weights are drawn from the global generator as it stands; reading the batch draws nothing from it. Raises
    ConfigError where the data cannot be read twice, and where the forward leaves a layer out.
    """
    if isinstance(train.dataset if isinstance(train, DataLoader) else train, IterableDataset):
        raise ConfigError(
            "`model` has lazy layers, and `train` is a stream, of which no batch can be looked at before the training; "
            "call the model once with a batch before fit"
        )
    with isolated():
        try:
            loader = make_loader(train, batch_size, streams, "train", torch.device("cpu"))
        except (TypeError, ValueError) as error:
            raise DataError(str(error)) from error
        assert loader is not None
        batch = to_device(next(iter(loader.epoch(0))), device_of(module))
    measured(lambda: module(*inputs_and_target(batch)[0]), module)
    names = lazy_names(module)
    if names:
        raise ConfigError(f"`model` has lazy layers that the first batch does not reach: {listed(names)}; remove them")
