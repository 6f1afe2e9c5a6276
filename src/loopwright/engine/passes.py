"""`Passes`: the batches of the training split, pass after pass, read one ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loopwright.engine.task import Loader, dealt, num_batches
from loopwright.errors import DataError


class Passes:
    """Takes batches by their place (pass, batch), and looks one ahead: a pass has ended where its loader yields no more.

    No length is believed, for many are estimates. A pass that goes on is not opened anew, so `train.epoch_steps` reads a
    stream once. `samples` counts what was taken; `samples_per_batch` is the mean by which batches enter whose loader
    does not say how many samples each got.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = loader
        samples, batches = loader.num_samples, num_batches(loader)
        self.samples_per_batch = samples / batches if samples and batches else 0.0
        self.samples = 0.0
        self._batches: Iterator[tuple[Any, int | None]] = iter(())
        self._ahead: tuple[Any, int | None] | None = None
        self._place: tuple[int, int] | None = None

    def take(self, index: int, start: int) -> tuple[Any, int | None]:
        """Batch `start` of pass `index`, with the number of samples dealt to it. Raises DataError where there is none."""
        if self._place != (index, start):
            self._batches = dealt(self.loader, index, start)
            self._place = (index, start)
            self._ahead = next(self._batches, None)
        taken, self._ahead = self._ahead, None
        if taken is None:
            raise DataError(
                f"pass {index + 1} over the training data ends before batch {start + 1}, with which the training goes on; "
                "the data have changed, or do not yield the same batches again"
                if start
                else f"pass {index + 1} over the training data is empty; every pass must yield at least one batch"
            )
        self.samples += self.samples_per_batch if taken[1] is None else taken[1]
        return taken

    def look_ahead(self) -> bool:
        """Whether the pass goes on after the batch that was taken last."""
        assert self._place is not None
        self._place = (self._place[0], self._place[1] + 1)
        self._ahead = next(self._batches, None)
        return self._ahead is not None
