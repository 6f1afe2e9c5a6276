"""`Capture`: every n-th step, what the inside of the model looks like for a few samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from loopwright.engine.compute import device_of
from loopwright.engine.evaluate import measured
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.task import At, Split, Task
from loopwright.hooks.views import write_arrays
from loopwright.streams import Streams

_NAME = re.compile(r"step_(\d{9})\.npz")


class Capture(Hook):
    """Writes `captures/step_000000100.npz`: the arrays that `task.internals` names, samples first, in evaluation mode.

    The batch is the first `samples` samples of `split`, the same at every step. What a killed process had captured after
    the checkpoint that the run goes on from is removed. Register it with `every(n, Capture(...))`.
    """

    optional = True

    def __init__(self, task: Task, streams: Streams, folder: Path, split: Split, samples: int) -> None:
        self.task, self.streams, self.folder = task, streams, folder
        self.split, self.samples = split, samples
        self._batch: Any = None

    def on_start(self, info: Info) -> None:
        for path in self.folder.glob("*.npz"):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) > info.step:
                path.unlink()

    def on_step_end(self, info: Info) -> None:
        if self._batch is None:
            loader = self.task.loader(self.split)
            assert loader is not None, "building.plan has looked"
            self._batch = next(iter(loader.head(self.samples).epoch(0)))
        at = At(self.streams, info.step, info.epoch, device_of(info.model))

        def measure() -> Mapping[str, Tensor]:
            self.streams.pin("capture", info.step)
            return self.task.internals(info.model, self._batch, at)

        shown = measured(measure, info.model, self.task.loss_module)
        self.folder.mkdir(exist_ok=True)
        write_arrays(self.folder / f"step_{info.step:09d}.npz", shown)
