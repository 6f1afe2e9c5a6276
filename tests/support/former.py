"""Trainings whose run directories were recorded by earlier builds (tests/fixtures/runs), as calls that can be made again.

Weights and data are small fractions, so that their bits are the same on every machine: what identifies a run has to be.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import loopwright
from loopwright.engine.outcome import Outcome

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "runs"
ROWS = 24
X = (torch.arange(ROWS * 2) * 7 % 16 / 16).reshape(ROWS, 2)
Y = X.sum(1, keepdim=True) / 2


class Rows(Dataset[tuple[Tensor, Tensor]]):
    """The rows one by one."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return X[index] * self.gain, Y[index]


def small() -> nn.Module:
    """A linear layer whose first weights are eighths."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.25, -0.125]]))
        model.bias.fill_(0.125)
    return model


def squared(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean square."""
    return (predicted - target).square().mean()


class StopAt(loopwright.Hook):
    """Asks for an interruption at a step, as a signal does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, info: Any) -> None:
        if info.step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def _fit(model: Any, loss: Any, data: Any, out: Path, resume: Any, hooks: Iterable[Any], **more: Any) -> Outcome:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 8, "optimizer": "adamw", "lr": 0.01, "plots": "none"}
    record = {"checkpoint_every": "2 steps", "keep_last": 1, "code": False}
    return loopwright.fit(
        model,
        loss,
        train=data,
        device="cpu",
        record=record,
        out=out,
        resume=resume,
        hooks=hooks,
        **{**settings, **more},
    )


def fit_tensors(out: Path, resume: Any = True, hooks: Iterable[Any] = ()) -> Outcome:
    return _fit(small, nn.MSELoss(), (X, Y), out, resume, hooks, val=(X, Y), name="fit_tensors")


def fit_instance(out: Path, resume: Any = True, hooks: Iterable[Any] = ()) -> Outcome:
    return _fit(small(), squared, (X, Y), out, resume, hooks, val=(X, Y), metrics={"mae": mae}, name="fit_instance")


def fit_dataset(out: Path, resume: Any = True, hooks: Iterable[Any] = ()) -> Outcome:
    loader = DataLoader(Rows(), batch_size=8, shuffle=True)
    return _fit(small, nn.HuberLoss(delta=0.5), loader, out, resume, hooks, name="fit_dataset")


def mae(predicted: Tensor, target: Tensor) -> Tensor:
    """The mean absolute difference."""
    return (predicted - target).abs().mean()


RECIPE = (
    "task=regression",
    "task.data=csv",
    "task.data.path=rows.csv",
    "task.data.target=y",
    "task.data.standardize=false",
    "model=mlp",
    "model.hidden=[4]",
    "train.epochs=3",
    "train.batch_size=8",
    "record.checkpoint_every=2 steps",
    "record.keep_last=1",
    "record.code=false",
    "plots=none",
    "device=cpu",
    "name=recipe",
)


def recipe(out: Path, resume: Any = True, hooks: Iterable[Any] = ()) -> Outcome:
    """Reads rows.csv of the current folder."""
    outcome = loopwright.train(*RECIPE, out=out, resume=resume, hooks=hooks)
    assert isinstance(outcome, Outcome)
    return outcome


CALLS: dict[str, Callable[..., Outcome]] = {
    "fit_tensors": fit_tensors,
    "fit_instance": fit_instance,
    "fit_dataset": fit_dataset,
    "recipe": recipe,
}


def write_rows(folder: Path) -> None:
    """The table that the recipe reads."""
    lines = [f"{a},{b},{c}" for (a, b), (c,) in zip(X.tolist(), Y.tolist(), strict=True)]
    (folder / "rows.csv").write_text("\n".join(["a,b,y", *lines]) + "\n")
