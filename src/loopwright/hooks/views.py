"""Views: what figures show of a model beyond the tables, measured on a few samples and kept as named arrays."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.engine.compute import device_of
from loopwright.engine.evaluate import measured
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.task import At, Split, Task, num_batches
from loopwright.record.files import write_atomic
from loopwright.streams import Streams, isolated

# Samples that are looked at: enough for a distribution, few enough to cost nothing.
NUM_SAMPLES = 512
_NAME = re.compile(r"epoch_(\d{4,})\.npz")


class EpochViews(Hook):
    """Writes `captures/epoch_0007.npz` after every epoch, for `plots=full`: the views of the val split (train without one).

    What a killed process had written after the checkpoint that the run goes on from is removed.
    """

    optional = True

    def __init__(self, task: Task, streams: Streams, folder: Path) -> None:
        self.task, self.streams, self.folder = task, streams, folder

    def on_start(self, info: Info) -> None:
        finished = info.epoch - bool(info.batch)
        for path in self.folder.glob("*.npz"):
            found = _NAME.fullmatch(path.name)
            if found and int(found[1]) > finished:
                path.unlink()

    def on_epoch_end(self, info: Info) -> None:
        split: Split = "train" if self.task.loader("val") is None else "val"
        shown = views(self.task, info.model, split, self.streams, step=info.step, epoch=info.epoch)
        if shown:
            self.folder.mkdir(exist_ok=True)
            write_arrays(self.folder / f"epoch_{info.epoch:04d}.npz", shown)


def has_views(task: Task) -> bool:
    """Whether a task shows anything beyond the tables."""
    return type(task).views is not Task.views


def views(
    task: Task, model: nn.Module, split: Split, streams: Streams, *, step: int, epoch: int
) -> Mapping[str, Tensor]:
    """The task's views of a split's first samples; none where there is no such split. The training does not notice."""
    loader = task.loader(split) if has_views(task) else None  # no sample is fetched for nothing
    if loader is None or num_batches(loader) == 0:
        return {}
    first = loader.head(NUM_SAMPLES)

    def measure() -> Mapping[str, Tensor]:
        streams.pin("views", split, step)
        return task.views(model, next(iter(first.epoch(0))), split, At(streams, step, epoch, device_of(model)))

    with isolated():
        return measured(measure, model, task.loss_module)


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """Write named arrays as one file, equal arrays to equal bytes. Numbers narrower than float32 are widened: NumPy has
    no bfloat16."""
    image = io.BytesIO()
    np.savez(image, **{name: _array(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    write_atomic(path, image.getvalue(), durable=False)


def _array(values: Tensor) -> np.ndarray[Any, Any]:
    narrow = values.dtype in (torch.bfloat16, torch.float16)
    array: np.ndarray[Any, Any] = (values.float() if narrow else values).detach().cpu().numpy()
    return array
