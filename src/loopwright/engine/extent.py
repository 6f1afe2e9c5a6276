"""`Extent`: how long a training is, as far as it is known beforehand."""

from __future__ import annotations

from typing import NamedTuple

from loopwright.engine.settings import TrainSettings
from loopwright.engine.task import Loader, num_batches


class Extent(NamedTuple):
    """Steps of an epoch, epochs and steps of the whole training; None where nobody knows.

    Without `train.epoch_steps` the first rests on the loader's length. That is an estimate for some, so this is for
    schedules and for what a person is shown; nothing is ended by it.
    """

    steps_per_epoch: int | None
    epochs: int | None
    steps: int | None


def extent(train: TrainSettings, loader: Loader | None) -> Extent:
    """What the recipe and the loader of the training split say."""
    per_epoch = 0 if loader is None else train.epoch_steps or num_batches(loader)
    if train.max_steps is None or not train.epochs:
        return Extent(per_epoch, train.epochs, None if per_epoch is None else train.epochs * per_epoch)
    return Extent(per_epoch, -(-train.max_steps // per_epoch) if per_epoch else None, train.max_steps)
