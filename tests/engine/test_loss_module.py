"""A loss that is a module: trained, saved, measured and verified with the model, as in a loop of one's own."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopwright
from loopwright import Outcome
from loopwright.engine.state import TrainState
from loopwright.record.checkpoint import decode
from support.compare import assert_same
from support.interruptions import Signal

X = torch.linspace(-1, 1, 120).reshape(40, 3)
Y = X.sum(1, keepdim=True).square()
DATA = {"train": DataLoader(TensorDataset(X[:24], Y[:24]), batch_size=8), "val": (X[24:32], Y[24:32])}


class Scaled(nn.Module):
    """A loss with a parameter, and a buffer that it moves while it is in training mode."""

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self.log_sigma = nn.Parameter(torch.full((1,), start))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.calls: Tensor

    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
        return ((predicted - target).square() * torch.exp(-2 * self.log_sigma) + 2 * self.log_sigma).mean()


def linear() -> nn.Module:
    return nn.Linear(3, 1)


def seeded() -> nn.Module:
    torch.manual_seed(3)
    return nn.Linear(3, 1)


def fit(model: Any, loss: Any, **given: Any) -> Outcome:
    settings: dict[str, Any] = {"epochs": 4, "lr": 0.05, "plots": "none", "device": "cpu", "optimizer": "sgd"}
    record = {"code": False, **given.pop("record", {})}
    return loopwright.fit(model, loss, **{**DATA, **settings, **given}, record=record)


def test_it_is_trained_as_in_a_plain_loop(tmp_path: Path) -> None:
    model, loss = seeded(), Scaled()
    plain, plain_loss = copy.deepcopy(model), copy.deepcopy(loss)
    optimizer = torch.optim.SGD([*plain.parameters(), *plain_loss.parameters()], lr=0.05, fused=True)
    for _ in range(4):
        for x, y in DATA["train"]:
            optimizer.zero_grad()
            plain_loss(plain(x), y).backward()
            optimizer.step()
    outcome = fit(model, loss, out=tmp_path)
    for ours, theirs in ((model, plain), (loss, plain_loss)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert loss.calls == 12 and loss.training  # its evaluations moved nothing
    assert outcome.run is not None
    saved = decode(Path(outcome.run) / "checkpoints" / "last.pt")
    assert list(saved["loss_state_dict"]) == ["log_sigma", "calls"] and saved["loss_state_dict"]["calls"] == 12
    assert len(saved["optimizer_state_dict"]["param_groups"][0]["params"]) == 3


def test_the_test_with_the_best_weights_uses_its_best_ones_too(tmp_path: Path) -> None:
    model, loss = seeded(), Scaled()
    stop = {"monitor": "val_loss", "mode": "max", "patience": 50}  # the first epoch is the best
    outcome = fit(model, loss, out=tmp_path, test=(X[32:], Y[32:]), stop=stop)
    assert outcome.test is not None and outcome.best is not None and outcome.best["epoch"] == 1
    last, run = loss.log_sigma.item(), Path(outcome.run or "")
    with torch.no_grad():
        at_last = float(loss.eval()(model(X[32:]), Y[32:]))
    model.load_state_dict(torch.load(run / "model.pt", weights_only=True))
    loss.load_state_dict(torch.load(run / "loss.pt", weights_only=True))
    with torch.no_grad():
        at_best = float(loss.eval()(model(X[32:]), Y[32:]))
    assert loss.log_sigma.item() != last
    assert outcome.test["best"]["loss"] == pytest.approx(at_best, rel=1e-6)
    assert outcome.test["last"]["loss"] == pytest.approx(at_last, rel=1e-6)
    assert at_last != at_best


def test_an_interrupted_training_goes_on_exactly(tmp_path: Path) -> None:
    whole = fit(seeded(), Scaled(), out=tmp_path / "whole")
    model, loss = seeded(), Scaled()
    cut = fit(model, loss, out=tmp_path / "cut", hooks=[Signal(5)], resume=True)
    assert cut.status == "interrupted" and loss.calls == 5
    again = fit(model, loss, out=tmp_path / "cut", resume=True)
    assert again.run == cut.run and again.weights_sha256 == whole.weights_sha256 and loss.calls == 12
    assert_same(Path(whole.run or ""), Path(again.run or ""))
    # In another process both would be new.
    fresh_loss = Scaled()
    found = fit(seeded(), fresh_loss, out=tmp_path / "cut", resume=True)
    assert found.run == cut.run and torch.equal(fresh_loss.log_sigma, loss.log_sigma)


def test_the_same_call_is_known_again_and_another_first_value_is_another_training(tmp_path: Path) -> None:
    for model in (linear, seeded()):
        loss = Scaled()
        first = fit(model, loss, out=tmp_path, resume=True)
        value = loss.log_sigma.item()
        assert fit(model, loss, out=tmp_path, resume=True).run == first.run and loss.log_sigma.item() == value != 0
        if model is linear:
            assert fit(model, Scaled(), out=tmp_path, resume=True).run == first.run
            assert fit(model, Scaled(0.5), out=tmp_path, resume=True).run != first.run


@pytest.mark.parametrize("model", [linear, seeded()])
def test_its_run_is_verified(tmp_path: Path, model: Any) -> None:
    loss = Scaled()
    outcome = fit(model, loss, out=tmp_path)
    last = loss.log_sigma.item()
    assert outcome.run is not None
    for given in (loss, Scaled(), Scaled(0.7)):  # its first state is in the record, whatever state is given
        verdict = loopwright.verify(outcome.run, model=model, loss=given, **DATA)
        assert verdict.identical, verdict
    assert loss.log_sigma.item() == last


def test_its_run_is_verified_in_another_process(tmp_path: Path) -> None:
    outcome = fit(seeded(), Scaled(), out=tmp_path)
    script = (
        "import loopwright, test_loss_module as t\n"
        f"v = loopwright.verify({outcome.run!r}, model=t.seeded(), loss=t.Scaled(9.0), **t.DATA)\n"
        "assert v.identical, v\n"
    )
    places = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_what_it_shares_with_the_model_is_trained_once_and_what_is_frozen_is_not(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model
            self.feature = nn.Linear(1, 2).requires_grad_(False)

        def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
            assert not self.training  # as it was given
            far = (self.feature(predicted) - self.feature(target)).square().mean()
            return far + 0.1 * self.model.weight.square().sum()

    model = seeded()
    loss = Tied(model).eval()
    state = TrainState(model, {}, lambda params: torch.optim.SGD(params), loss_module=loss)
    assert list(state.loss_state()) == ["model.weight", "model.bias", "feature.weight", "feature.bias"]
    frozen = copy.deepcopy(loss.feature.state_dict())
    outcome = fit(model, loss, out=tmp_path)
    saved = decode(Path(outcome.run or "") / "checkpoints" / "last.pt")
    assert saved["optimizer_state_dict"]["param_groups"][0]["params"] == [0, 1]
    assert all(torch.equal(frozen[name], value) for name, value in loss.feature.state_dict().items())
    assert loopwright.verify(outcome.run or "", model=model, loss=loss, **DATA).identical


def test_class_weights_are_no_state(tmp_path: Path) -> None:
    classes = (Y[:, 0] > 0.5).long()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    outcome = fit(lambda: nn.Linear(3, 2), loss, out=tmp_path, train=(X, classes), val=None)
    run = Path(outcome.run or "")
    assert "loss_state_dict" not in decode(run / "checkpoints" / "last.pt") and not (run / "loss.pt").exists()


def test_a_value_that_is_not_finite_is_named(tmp_path: Path) -> None:
    outcome = fit(seeded(), Scaled(float("nan")), out=tmp_path)
    assert outcome.status == "diverged"


def test_a_lost_file_of_the_best_weights_is_written_again(tmp_path: Path) -> None:
    loss = Scaled()
    cut = fit(seeded(), loss, out=tmp_path, hooks=[Signal(4)], resume=True)
    run = Path(cut.run or "")
    before = torch.load(run / "loss.pt", weights_only=True)
    (run / "loss.pt").unlink()
    fit(seeded(), Scaled(), out=tmp_path, hooks=[Signal(5)], resume=True)
    assert torch.equal(torch.load(run / "loss.pt", weights_only=True)["log_sigma"], before["log_sigma"])
