"""Whatever plain PyTorch can do in an evaluation works, and an evaluation leaves no trace in the training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import loopwright
from loopwright import Outcome
from loopwright.engine.evaluate import measured
from loopwright.engine.kept import Watched

X = torch.linspace(-1, 1, 160).reshape(40, 4)
Y = X.sum(1, keepdim=True).square()
TRAIN = DataLoader(TensorDataset(X[:24], Y[:24]), batch_size=8)
REST = {"val": (X[24:32], Y[24:32]), "test": (X[32:], Y[32:])}


def fit(model: Any, loss: Any = F.mse_loss, **given: Any) -> Outcome:
    settings: dict[str, Any] = {"epochs": 3, "lr": 0.05, "plots": "none", "device": "cpu", "record": {"save": False}}
    return loopwright.fit(model, loss, **{"train": TRAIN, **settings, **given})


class Force(nn.Module):
    """Energies and the forces that they imply; `own_grad` turns grad on for them, as force models do."""

    def __init__(self, own_grad: bool = True) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.own_grad = own_grad

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(self.own_grad or torch.is_grad_enabled()):
            x = x.detach().requires_grad_()
            energy = self.energy(x)
            (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=self.training)
        return energy, -slope


def of_forces(predicted: tuple[Tensor, Tensor], target: Tensor) -> Tensor:
    return F.mse_loss(predicted[0], target) + predicted[1].square().mean()


@pytest.mark.parametrize("own_grad", [True, False])
def test_a_model_that_differentiates_is_measured(own_grad: bool, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = Force(own_grad)
    outcome = fit(model, of_forces, **REST)
    value = of_forces(model.eval()(X[32:]), Y[32:]).item()
    assert outcome.test is not None and outcome.test["last"]["loss"] == pytest.approx(value, rel=1e-6)
    torch.manual_seed(0)
    assert fit(Force(own_grad), of_forces).weights_sha256 == outcome.weights_sha256
    said = [record.message for record in caplog.records if "differentiates" in record.message]
    assert len(said) == (not own_grad)


def test_a_loss_that_differentiates_is_measured_from_the_start_of_the_split(tmp_path: Path) -> None:
    """A physics-informed loss: the residual of a differential equation at the points."""

    class Residual(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = [model]

        def forward(self, predicted: Tensor, points: Tensor) -> Tensor:
            points = points.clone().requires_grad_()
            value = self.model[0](points)
            (slope,) = torch.autograd.grad(value.sum(), points, create_graph=True)
            return (slope + value).square().mean()

    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
    outcome = fit(
        model, Residual(model), train=(X[:24], X[:24]), val=(X[24:], X[24:]), record={"save": True}, out=tmp_path
    )
    assert outcome.last is not None
    value = Residual(model.eval())(X, X[24:]).item()
    assert outcome.last["val_loss"] == pytest.approx(value, rel=1e-6)


def test_another_error_is_raised_as_it_is() -> None:
    def failing(predicted: Tensor, target: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return (predicted - target).square().mean()
        raise RuntimeError("my own")

    with pytest.raises(RuntimeError, match="my own"):
        fit(lambda: nn.Linear(4, 1), failing, **REST)


class Caching(nn.Module):
    """Moves a buffer at each forward, and keeps a table that it makes anew where a batch is larger than any before."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)
        self.register_buffer("moved", torch.zeros(()))
        self.register_buffer("loose", torch.zeros(()), persistent=False)
        self.register_buffer("table", None)
        self.reach = 0
        self.moved: Tensor
        self.loose: Tensor
        self.table: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        self.moved += x.mean().detach()
        self.loose.data.add_(1)
        if len(x) > self.reach:
            self.reach = len(x)
            self.table = torch.linspace(0, float(self.moved), self.reach)
        assert self.table is not None
        if not self.training:
            self.register_buffer("of_evaluation", torch.ones(1))
        return self.linear(x) + self.moved + self.loose + self.table[: len(x), None]


def test_what_an_evaluation_does_to_buffers_never_reaches_the_training(tmp_path: Path) -> None:
    ended = []
    for number, given in enumerate(({}, REST, {**REST, "validate_every": "1 steps"})):
        torch.manual_seed(0)
        model = Caching()
        outcome = fit(model, **given, record={"save": True}, out=tmp_path / str(number))
        assert model.loose == 9 and model.reach == 8 and "of_evaluation" not in model.state_dict()
        ended.append((outcome.weights_sha256, (outcome.last or {})["train_loss"]))
    assert ended[0] == ended[1] and ended[2][0] == ended[0][0]  # a row per step has the loss of that step


def test_what_an_evaluation_caches_can_enter_the_training() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 1)
            self.cache: dict[int, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                self.cache.setdefault(8, torch.arange(8.0)[:, None])
            return self.linear(x) * self.cache.get(len(x), 1.0)

    outcome = fit(Positions, val=(X[24:32], Y[24:32]))
    assert outcome.status == "completed"


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_modules_of_every_kind_are_put_back() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)))
    plain = nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2))
    for model in (scripted, plain):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        watched = Watched(model)
        for when_called in (False, True):
            with watched.kept(when_called=when_called):
                model.train()(X)
            assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        model.train()
        assert measured(lambda model=model: model.training, model) is False and model.training
