"""What makes a recorded run differ from its replay: a bit of a weight, another number of threads, a changed table."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from loopwright.config.registry import imports_allowed
from loopwright.config.schema import parse, plain
from loopwright.data.tensors import TensorLoader
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.loss import Loss
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.streams import Streams
from support.tasks import Config, Plain, recipe

ALLOWED = ("support",)
_OWN = ("ManyAdditions", "OneTargetMoved")


def recorded(out: Path, task: str = "Noisy", hooks: tuple[Hook, ...] = (), **tree: Any) -> Path:
    """The run of a recipe of `support.tasks`, or of a task below: 18 steps in 3 epochs."""
    asked = recipe("Plain" if task in _OWN else task, **tree)
    if task in _OWN:
        with imports_allowed(None):
            asked = parse({**plain(asked), "task": {"name": f"support.sabotage:{task}Config"}})
    outcome = run(asked, out=out, hooks=hooks)
    assert outcome.run is not None
    return Path(outcome.run)


class MoveOneWeight(Hook):
    """Moves one weight of one tensor after a step. A hook must not; this one does.

    Without `by` it goes to the next number there is. Later steps may round that away, so that nothing but a look at the
    weights right after the step is certain to tell; a tenth changes the loss of the next step on every machine.
    """

    def __init__(self, step: int, name: str, by: float | None = None) -> None:
        self.step, self.name, self.by = step, name, by

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            weight = info.model.get_parameter(self.name).data.view(-1)
            weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf)) if self.by is None else weight[0] + self.by


class ManyAdditions(Plain):
    """A mean over so many values that the order of additions, and so the result, depends on the number of threads."""

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x, y = batch
        noise = torch.randn(300_000, generator=at.generator("noise")).square().mean()
        yield Loss(F.mse_loss(model(x), y) * noise, len(y))


class ManyAdditionsConfig(Config):
    task = ManyAdditions


def edit_row(table: Path, step: int, edit: Callable[[dict[str, str]], None]) -> None:
    """Change the row of a step in a table of a record."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    edit(next(row for row in rows if row["step"] == str(step)))
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def nudge(text: str) -> str:
    """The next number there is, as a table writes it."""
    return repr(math.nextafter(float(text), math.inf))


class OneTargetMoved(Plain):
    """One target of the training split is another."""

    def __init__(self, batch_size: int, streams: Streams) -> None:
        super().__init__(batch_size, streams)
        x, y = (tensor.clone() for tensor in self.loaders["train"].tensors)
        y[13] += 1
        self.loaders["train"] = TensorLoader((x, y), batch_size, streams)


class OneTargetMovedConfig(Config):
    task = OneTargetMoved
