"""Mixed precision: what computes in which format, the loss scale of fp16, and what ends a training. Resume: test_resume."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopwright.engine.loss import Loss
from loopwright.engine.precision import MOST_SKIPS
from loopwright.engine.state import TrainState
from loopwright.engine.steps import steps
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.report.frame import metrics
from loopwright.report.frame import steps as step_table
from loopwright.streams import Streams
from support.tasks import InMemory, recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Plain(InMemory):
    """A line fitted to the data; notes the format in which its product came out."""

    factor = 1.0

    def build_model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x, y = batch
        out = model(x)
        assert out.dtype == self.wanted and torch.is_autocast_enabled("cpu") == (self.wanted != torch.float32)
        yield Loss((out.float() - y).square().mean() * self.factor, len(y))

    wanted = torch.float32


def trained(precision: Any, num_steps: int, factor: float = 1.0, **options: Any) -> tuple[TrainState, list[Any]]:
    """A state after some steps, and what the steps said."""
    task = Plain(4, Streams(0))
    task.wanted, task.factor = DTYPES[precision], factor
    torch.manual_seed(0)
    model = task.build_model()
    state = TrainState(model, task.groups(model), lambda ps: torch.optim.SGD(ps, lr=0.01), precision)
    said: list[Any] = []
    while len(said) < num_steps:
        loop = steps(task, state, task.loader("train"), Streams(0), lr=lambda s: 0.01, **options)
        for info in islice(loop, num_steps - len(said)):
            said.append(info)
        if state.batch == len(task.loader("train")):
            state.epoch, state.batch = state.epoch + 1, 0
    return state, said


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_forward_pass_is_narrow_and_the_rest_is_not(precision: str) -> None:
    state, said = trained(precision, 3)
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in state.model.parameters() if p.grad is not None} == {torch.float32}
    _, said_exactly = trained("fp32", 3)
    assert said[0].loss == pytest.approx(said_exactly[0].loss, rel=0.02) and said[0].loss != said_exactly[0].loss
    assert not torch.is_autocast_enabled("cpu")


def test_the_loss_scale_changes_no_update() -> None:
    """At a scale of 2^k the gradients that come out of fp16 are the same numbers."""
    weights = []
    for scale in (2.0**4, 2.0**8):
        task = Plain(4, Streams(0))
        task.wanted = torch.float16
        torch.manual_seed(0)
        model = task.build_model()
        state = TrainState(model, task.groups(model), lambda ps: torch.optim.SGD(ps, lr=0.01), "fp16")
        state.scalers["main"].torch = torch.amp.GradScaler("cpu", init_scale=scale)
        next(steps(task, state, task.loader("train"), Streams(0), lr=lambda s: 0.01))
        assert int(state.scalers["main"].skips) == 0
        weights.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_an_overflowing_update_is_skipped_and_halves_the_scale() -> None:
    state, said = trained("fp16", 1, factor=100.0)
    scaler = state.scalers["main"]
    before = [p.detach().clone() for p in trained("fp16", 0)[0].model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))
    assert scaler.torch.get_scale() == 2.0**15 and int(scaler.skips) == 1 and not torch.isfinite(said[0].grad_norm)
    later, said = trained("fp16", 15, factor=100.0)
    assert torch.isfinite(said[-1].grad_norm) and int(later.scalers["main"].skips) == 0
    assert not all(torch.equal(a, b) for a, b in zip(before, later.model.parameters(), strict=True))


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}, {"accumulate": 2}])
def test_fp16_learns_what_fp32_learns(options: dict[str, Any]) -> None:
    _, narrow = trained("fp16", 120, **options)
    _, wide = trained("fp32", 120, **options)
    assert narrow[-1].loss == pytest.approx(wide[-1].loss, abs=0.05) and narrow[-1].loss < narrow[0].loss


class Overflow(torch.autograd.Function):
    """Finite forwards, too large for fp16 backwards whatever the scale."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * torch.inf


def test_too_many_skips_in_a_row_end_the_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wanted = recipe(train={"precision": "fp16", "epochs": 8})
    healthy = run(wanted, out=tmp_path)
    assert healthy.status == "completed" and healthy.run is not None
    table, rows = step_table(Path(healthy.run)), metrics(Path(healthy.run))
    assert sum(rows["train_skipped_updates"]) == sum(not (n < float("inf")) for n in table["grad_norm"])  # type: ignore[arg-type,operator]
    plain = nn.functional.linear
    monkeypatch.setattr(nn.functional, "linear", lambda *args: Overflow.apply(plain(*args)))
    outcome = run(wanted, out=tmp_path)
    assert (outcome.status, outcome.steps) == ("diverged", MOST_SKIPS - 1)
    assert "were skipped because gradients overflow fp16" in outcome.reason and "train.precision=bf16" in outcome.reason


def test_a_block_left_open_over_a_yield_is_named() -> None:
    class Leaks(Plain):
        def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
            with torch.autocast("cpu", enabled=False):
                yield Loss(model(batch[0]).square().mean(), len(batch[1]))

    task = Leaks(4, Streams(0))
    model = task.build_model()
    state = TrainState(model, task.groups(model), lambda ps: torch.optim.SGD(ps, lr=0.01), "bf16")
    with pytest.raises(RuntimeError, match="yielded inside autocast"):
        next(steps(task, state, task.loader("train"), Streams(0), lr=lambda s: 0.01))
    assert not torch.is_autocast_enabled("cpu")
