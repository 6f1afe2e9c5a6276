"""Models that plain PyTorch trains: the same weights here, or one line that says why not."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import loopwright
from loopwright import ConfigError, DataError, Outcome
from loopwright.building import build
from loopwright.engine.state import TrainState
from loopwright.engine.untrained import untrained
from loopwright.engine.weights import not_finite, weights_hash
from loopwright.streams import Streams
from loopwright.tasks.python import SupervisedTask
from support.interruptions import Signal

X = torch.linspace(-1, 1, 160).reshape(40, 4)
Y = X.sum(1, keepdim=True).square()
WORDS = torch.arange(40) % 7
BATCH = 8


def in_order(*tensors: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=BATCH)


def fit(model: Any, loss: Any = F.mse_loss, **given: Any) -> Outcome:
    settings: dict[str, Any] = {"epochs": 3, "lr": 0.05, "plots": "none", "device": "cpu", "batch_size": BATCH}
    settings |= {"train": in_order(X, Y), "record": {"save": False}}
    return loopwright.fit(model, loss, **{**settings, **given})


def in_plain_pytorch(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, clip: float | None = None
) -> nn.Module:
    for _ in range(3):
        for inputs, target in in_order(x, Y):
            optimizer.zero_grad()
            F.mse_loss(model(inputs), target).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model


# Shapes


ELEMENTWISE: list[Any] = [
    *(nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.PoissonNLLLoss()),
    *(F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.poisson_nll_loss),
    functools.partial(functools.partial(F.huber_loss, delta=2.0), reduction="mean"),
]


@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_losses_that_compare_element_by_element_refuse_other_shapes(loss: Any) -> None:
    model = nn.Linear(4, 1)
    before = weights_hash(model.state_dict())
    with pytest.raises(DataError, match=r"\(8, 1\), the target \(8,\).*give target.unsqueeze\(1\)"):
        fit(model, loss, train=(X, Y[:, 0]))
    assert weights_hash(model.state_dict()) == before
    with pytest.raises(DataError, match=r"\(8,\), the target \(8, 1\).*give target.squeeze\(1\)"):
        fit(lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), loss, train=(X, Y))
    with pytest.raises(DataError, match=r"\(8, 3\), the target \(8, 1\).*give both one shape"):
        fit(lambda: nn.Linear(4, 3), loss, train=(X, Y))
    assert fit(lambda: nn.Linear(4, 1), loss).status == "completed"


def test_they_are_refused_in_an_evaluation_too() -> None:
    with pytest.raises(DataError, match="the target"):
        fit(lambda: nn.Linear(4, 1), val=(X, Y[:, 0]))


def test_of_an_own_function_one_warning_is_given(caplog: pytest.LogCaptureFixture) -> None:
    def own(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).square().mean()

    def warned(**given: Any) -> int:
        caplog.clear()
        fit(given.pop("model", lambda: nn.Linear(4, 1)), own, **given)
        return sum("broadcast" in record.message for record in caplog.records)

    assert warned(train=(X, Y[:, 0]), val=(X, Y[:, 0])) == 1
    assert warned(model=lambda: nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))) == 1
    assert warned() == 0
    assert warned(train=(X, WORDS)) == 0  # whole numbers: classes
    assert warned(train=(X, Y[:, 0]), batch_size=1) == 0
    assert warned(model=lambda: nn.Linear(4, 3)) == 0  # (N, 3) meets (N, 1)


# Sparse gradients


class Words(nn.Module):
    """An embedding with sparse gradients; `dense` puts a layer on it that has others."""

    def __init__(self, dense: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4 if dense else 1, sparse=True)
        self.layer = nn.Linear(4, 1) if dense else nn.Identity()

    def forward(self, words: Tensor) -> Tensor:
        return self.layer(self.words(words))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("name", "dense", "settings"),
    [
        ("SGD", True, {}),
        ("SGD", True, {"momentum": 0.9}),
        ("SGD", False, {}),
        ("Adagrad", True, {}),
        ("SparseAdam", False, {}),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_train_as_in_plain_pytorch(
    name: str, dense: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Words(dense)
    plain = copy.deepcopy(model)
    in_plain_pytorch(plain, getattr(torch.optim, name)(plain.parameters(), lr=0.05, **settings), WORDS)
    wanted: dict[str, Any] = {"name": name.lower() if name == "SGD" else name, **settings}
    fit(model, train=in_order(WORDS, Y), optimizer=wanted, val=(WORDS, Y), record={"code": False}, out=tmp_path)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        # Our momentum buffer is dense, torch's adds up the same numbers in another order.
        assert torch.allclose(ours, theirs, atol=1e-5) if settings else torch.equal(ours, theirs)
    in_parts = fit(Words(dense), train=in_order(WORDS, Y), optimizer=wanted, accumulate=2)
    assert in_parts.status == "completed"


def test_a_run_with_sparse_gradients_resumes_exactly(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "momentum": 0.9}
    given: dict[str, Any] = {"train": (WORDS, Y), "optimizer": optimizer, "record": {"code": False}}
    whole = fit(functools.partial(Words, True), out=tmp_path / "whole", **given)
    cut = fit(functools.partial(Words, True), out=tmp_path, hooks=[Signal(7)], **given)
    further = fit(functools.partial(Words, True), out=tmp_path, resume=cut.run, **given)
    assert cut.steps == 7 and further.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize(
    ("dense", "given", "said"),
    [
        (True, {"optimizer": "adam"}, "'adam', which takes no sparse gradients, and the gradient of words.weight"),
        (True, {"optimizer": "RMSprop"}, "'RMSprop', which takes no sparse gradients"),
        (True, {"optimizer": "SparseAdam"}, "sparse gradients only, and that of layer.weight, layer.bias is dense"),
        (True, {"optimizer": "sgd", "clip_norm": 1.0}, "no norm of sparse gradients; leave out train.clip_norm"),
        (False, {"optimizer": "sgd", "record": {"save": False, "grad_norm": True}}, "no norm of sparse gradients"),
        (
            True,
            {"optimizer": {"name": "Adagrad", "args": {"weight_decay": 0.1}}},
            "weight_decay option is not compatible",
        ),
    ],
)
def test_what_torch_does_not_do_with_sparse_gradients_is_said(dense: bool, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        fit(functools.partial(Words, dense), train=(WORDS, Y), **given)
    assert len(str(raised.value).splitlines()) == 1


# Complex parameters


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 1, dtype=torch.complex64))
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.weight).abs() + self.linear(x)  # type: ignore[no-any-return]


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, foreach=True),
    "adam": functools.partial(torch.optim.Adam, foreach=True),
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.01, foreach=True),
    "Adagrad": torch.optim.Adagrad,
    "RMSprop": torch.optim.RMSprop,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_complex_parameters_train_as_in_plain_pytorch(name: str, clip: float | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Complex()
    plain = copy.deepcopy(model)
    in_plain_pytorch(plain, OPTIMIZERS[name](plain.parameters(), lr=0.05), X, clip)
    outcome = fit(model, optimizer=name, out=tmp_path, clip_norm=clip, record={"code": False, "grad_norm": True})
    assert outcome.weights_sha256 == weights_hash(plain.state_dict())
    assert fit(model, optimizer=name, clip_norm=clip, accumulate=2).status == "completed"


def test_a_complex_weight_that_is_not_finite_is_found() -> None:
    weights = {"w": torch.tensor([1j, complex(0, float("nan"))]), "v": torch.tensor([1j])}
    assert not_finite(weights) == ["w"]


# Lazy layers


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.Tanh(), nn.LazyLinear(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def test_lazy_layers_take_their_shapes_from_the_first_batch(tmp_path: Path) -> None:
    plain = Lazy()
    with Streams(7).fork("weights"), torch.no_grad():
        plain.eval()(X[:BATCH])
    plain.train()
    in_plain_pytorch(plain, torch.optim.SGD(plain.parameters(), lr=0.05, fused=True), X)
    model = Lazy()
    given: dict[str, Any] = {"optimizer": "sgd", "seed": 7, "record": {"code": False}, "out": tmp_path, "val": (X, Y)}
    outcome = fit(model, resume=True, **given)
    assert outcome.weights_sha256 == weights_hash(plain.state_dict()) == weights_hash(model.state_dict())
    # A function that builds it gives the same, and every call is known again.
    built = fit(Lazy, resume=True, **given)
    assert built.weights_sha256 == outcome.weights_sha256
    assert fit(model, resume=True, **given).run == outcome.run == fit(Lazy(), resume=True, **given).run
    assert fit(Lazy, resume=True, **given).run == built.run
    assert fit(Lazy(), resume=True, **{**given, "seed": 8}).run != outcome.run
    data: dict[str, Any] = {"loss": F.mse_loss, "train": in_order(X, Y), "val": (X, Y)}
    for run in (outcome.run, built.run):
        for again in (model, Lazy()) if run == outcome.run else (Lazy,):
            assert loopwright.verify(run or "", model=again, **data).identical


def test_lazy_layers_that_no_batch_can_shape_are_refused() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(zip(X, Y, strict=True))

    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.LazyLinear(1), nn.LazyLinear(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    with pytest.raises(ConfigError, match=r"`train` is a stream.*call the model once with a batch before fit"):
        fit(Lazy(), train=DataLoader(Stream(), batch_size=4))
    with pytest.raises(ConfigError, match=r"does not reach: unused\.weight, unused\.bias"):
        fit(Unused())
    with pytest.raises(ConfigError, match="`loss` has lazy layers"):
        fit(nn.Linear(4, 1), nn.LazyLinear(1))


# The rest


def test_one_sample_in_a_batch_norm_is_said_with_the_fix() -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    with pytest.raises(DataError, match=r"one sample came to a BatchNorm.*33 samples, train.batch_size=8;.*drop_last"):
        fit(model, train=(X[:33], Y[:33]))
    with pytest.raises(DataError, match=r"cut into 8 parts"):
        fit(model, train=(X[:32], Y[:32]), accumulate=8)
    dropping = DataLoader(TensorDataset(X[:33], Y[:33]), batch_size=8, drop_last=True)
    assert fit(model, train=dropping).status == "completed"


def test_what_is_not_trained_is_said(caplog: pytest.LogCaptureFixture) -> None:
    frozen = nn.Linear(4, 1).requires_grad_(False)
    before = weights_hash(frozen.state_dict())
    outcome = fit(frozen, val=(X, Y))
    assert outcome.status == "completed" and outcome.weights_sha256 == before
    assert "nothing is trained: all parameters have requires_grad=False (weight, bias)" in caplog.text
    caplog.clear()
    fit(nn.Sequential(nn.Linear(4, 2).requires_grad_(False), nn.Linear(2, 1)))
    assert "requires_grad" not in caplog.text


def test_parameters_that_no_group_has_are_said() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1).requires_grad_(False))
    state = TrainState(
        model, {"main": model[0].parameters()}, lambda params: torch.optim.SGD(params), loss_module=nn.PReLU()
    )
    (line,) = untrained(state)
    assert line.startswith("1.weight, 1.bias, loss:weight: not trained, since no group of the task has them")
    assert untrained(TrainState(model, {"main": model.parameters()}, lambda params: torch.optim.SGD(params))) == []


def test_a_task_with_lazy_layers_is_refused() -> None:
    recipe = loopwright.compose("experiment=self_test")
    task = SupervisedTask(Lazy, F.mse_loss, {}, {}, {}, "")
    with pytest.raises(ConfigError, match=r"the task's model has lazy layers \(.*\); call it once with a batch"):
        build(recipe, torch.device("cpu"), task)


def test_one_sample_of_a_stream_in_a_batchnorm_is_one_line() -> None:
    class Nine(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter([(torch.randn(3), torch.randn(1)) for _ in range(9)])

    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(DataError, match=r"an unknown number of samples, train.batch_size=8"):
        loopwright.fit(net, nn.MSELoss(), train=Nine(), batch_size=8, epochs=1, record={"save": False}, device="cpu")
