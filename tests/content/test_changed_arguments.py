"""A changed argument of `fit` is another training, and a line says what differs; the same argument is the same one."""

from __future__ import annotations

import functools
import importlib
import re
import sqlite3
import sys
import textwrap
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from loopwright.content.arguments import Arguments, Given
from loopwright.content.comparison import differing_arguments

X = torch.arange(24.0).reshape(12, 2)
Y = X.sum(1, keepdim=True)
GAIN = 1.0


class Rows(Dataset[Any]):
    def __init__(self, strength: float = 0.1, rows: Tensor = X) -> None:
        self.strength, self.rows = strength, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index] + self.strength * torch.randn(2), Y[index]


class Stream(IterableDataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter([(X[i], Y[i]) for i in range(self.count)])


class Every(Sampler[int]):
    def __init__(self, step: int) -> None:
        self.step = step

    def __iter__(self) -> Any:
        return iter(range(0, 12, self.step))

    def __len__(self) -> int:
        return len(range(0, 12, self.step))


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu, width: int = 4) -> None:
        super().__init__()
        self.width, self.activation = width, activation
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.activation(self.first(x)))


class Weighted(nn.Module):
    scale = 2.0

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return ((p - t).abs() ** self.gamma).mean() * self.scale


class Gentle(Weighted):
    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return super().forward(p, t) / 2


def mae(p: Tensor, t: Tensor) -> Tensor:
    return (p - t).abs().mean()


def scaled(factor: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda p, t: factor * (p - t).abs().mean()


def tilted(p: Tensor, t: Tensor, *, tau: float = 0.5) -> Tensor:
    return torch.maximum(tau * (t - p), (tau - 1) * (t - p)).mean()


def with_default(tau: float) -> Callable[..., Tensor]:
    def loss(p: Tensor, t: Tensor, tau: float = tau) -> Tensor:
        return tau * (p - t).abs().mean()

    return loss


def frozen(name: str | None) -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    if name:
        getattr(model, name).requires_grad_(False)
    return model


def net(**how: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(**how)


def settled(**how: Any) -> Any:
    """Arguments of one call, described."""
    given = {"model": Net, "loss": nn.MSELoss(), "metrics": {}, "train": (X, Y), "val": None, "test": None, **how}
    torch.manual_seed(0)
    arguments = Arguments(Given(**given), lambda: "")
    if not isinstance(given["model"], nn.Module):
        arguments.built(given["model"]())
    return arguments


def with_one(values: Tensor) -> Tensor:
    values = values.clone()
    values[3] += 1
    return values


def loader(dataset: Any = None, **how: Any) -> DataLoader[Any]:
    return DataLoader(Rows() if dataset is None else dataset, **{"batch_size": 4, **how})


def collate_stack(items: Any) -> Any:
    return torch.stack([x for x, _ in items]), torch.stack([y for _, y in items])


def collate_double(items: Any) -> Any:
    return torch.stack([2 * x for x, _ in items]), torch.stack([y for _, y in items])


CHANGES: dict[str, tuple[str, Any, Any, str]] = {
    "weight": (
        "loss",
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 50.0])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        "the loss: `weight` was [1.0, 50.0], is now [1.0, 2.0]",
    ),
    "weight or none": (
        "loss",
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])),
        "the loss: `weight` was None, is now [1.0, 2.0]",
    ),
    "pos_weight": (
        "loss",
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)),
        "the loss: `pos_weight` was 2.0, is now 3.0",
    ),
    "label_smoothing": (
        "loss",
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(label_smoothing=0.2),
        "the loss: `label_smoothing` was 0.1, is now 0.2",
    ),
    "reduction": ("loss", nn.MSELoss(), nn.MSELoss(reduction="sum"), "the loss: `reduction` was 'mean', is now 'sum'"),
    "delta": ("loss", nn.HuberLoss(delta=1.0), nn.HuberLoss(delta=2.0), "the loss: `delta` was 1.0, is now 2.0"),
    "another loss": ("loss", nn.MSELoss(), nn.L1Loss(), "the loss: was MSELoss, is now L1Loss"),
    "body of a lambda": (
        "loss",
        lambda p, t: (p - t).abs().mean(),
        lambda p, t: (p - t).square().mean(),
        "the loss: was `lambda p, t: (p - t).abs().mean(),`, is now `lambda p, t: (p - t).square().mean(),`",
    ),
    "captured constant": ("loss", scaled(1.0), scaled(2.0), "the loss: `factor` was 1.0, is now 2.0"),
    "partial argument": (
        "loss",
        functools.partial(tilted, tau=0.5),
        functools.partial(tilted, tau=0.9),
        "the loss: `tau` was 0.5, is now 0.9",
    ),
    "partial of torch": (
        "loss",
        functools.partial(F.huber_loss, delta=1.0),
        functools.partial(F.huber_loss, delta=2.0),
        "the loss: `delta` was 1.0, is now 2.0",
    ),
    "default": ("loss", with_default(0.5), with_default(0.9), "the loss: `tau` was 0.5, is now 0.9"),
    "attribute of an own loss": ("loss", Weighted(1.0), Weighted(2.0), "the loss: `gamma` was 1.0, is now 2.0"),
    "class of an own loss": ("loss", Weighted(1.0), Gentle(1.0), "the loss: was Weighted, is now Gentle"),
    "activation": (
        "model",
        net(activation=torch.relu),
        net(activation=torch.tanh),
        "the model: `activation` was relu, is now tanh",
    ),
    "plain attribute of a model": ("model", net(width=4), net(width=8), "the model: `width` was 4, is now 8"),
    "frozen layer": (
        "model",
        frozen(None),
        frozen("first"),
        "the model: `first.bias.requires_grad` was True, is now False, "
        "`first.weight.requires_grad` was True, is now False",
    ),
    "frozen in a function": (
        "model",
        functools.partial(frozen, None),
        functools.partial(frozen, "first"),
        "the model: `first.bias.requires_grad` was True, is now False, "
        "`first.weight.requires_grad` was True, is now False, `arguments` was [None], is now ['first']",
    ),
    "first weights": ("model", net(), nn.Sequential(), "the model: "),
    "metric": ("metrics", {"mae": mae}, {"mae": scaled(1.0)}, "the metric `mae`: "),
    "drop_last": ("train", loader(), loader(drop_last=True), "the training data: `drop_last` was False, is now True"),
    "batch size": ("train", loader(), loader(batch_size=5), "the training data: `batch_size` was 4, is now 5"),
    "shuffle": ("train", loader(), loader(shuffle=True), "the training data: `shuffle` was False, is now True"),
    "sampler weights": (
        "train",
        loader(sampler=WeightedRandomSampler([1.0, 2.0], 12)),
        loader(sampler=WeightedRandomSampler([1.0, 3.0], 12)),
        "the training data: `sampler.weights` was [1.0, 2.0], is now [1.0, 3.0]",
    ),
    "replacement": (
        "train",
        loader(sampler=RandomSampler(X, replacement=True)),
        loader(shuffle=True),
        "the training data: ",
    ),
    "own sampler": (
        "train",
        loader(sampler=Every(2)),
        loader(sampler=Every(3)),
        "the training data: `sampler.step` was 2, is now 3",
    ),
    "batch sampler": (
        "train",
        DataLoader(Rows(), batch_sampler=BatchSampler(Every(1), 4, False)),
        DataLoader(Rows(), batch_sampler=BatchSampler(Every(1), 4, True)),
        "the training data: `batch_sampler.drop_last` was False, is now True",
    ),
    "collate_fn": (
        "train",
        loader(collate_fn=collate_stack),
        loader(collate_fn=collate_double),
        "the training data: the code of `collate_fn` has changed",
    ),
    "rows of a Subset": (
        "train",
        Subset(Rows(), [0, 1, 2]),
        Subset(Rows(), [0, 1, 3]),
        "the training data: `indices` was [0, 1, 2], is now [0, 1, 3]",
    ),
    "many rows of a Subset": (
        "train",
        Subset(Rows(), [*range(40)]),
        Subset(Rows(), [*range(1, 41)]),
        "the training data: `indices` has other content",
    ),
    "strength of an augmentation": (
        "train",
        Rows(0.1),
        Rows(0.2),
        "the training data: `strength` was 0.1, is now 0.2",
    ),
    "strength below a loader": (
        "train",
        loader(Rows(0.1)),
        loader(Rows(0.2)),
        "the training data: `dataset.strength` was 0.1, is now 0.2",
    ),
    "tensor of a Dataset": ("train", Rows(rows=X), Rows(rows=X + 1), "the training data: `rows` has other content"),
    "iterable dataset": ("train", Stream(8), Stream(12), "the training data: `count` was 8, is now 12"),
    "one value of a tensor": ("train", (X, Y), (X, with_one(Y)), "the training data: `[1]` "),
    "array": ("val", (X.numpy(), Y.numpy()), (X.numpy() * 2, Y.numpy()), "the validation data: `[0]` has other content"),
    "dtype": ("test", (X, Y), (X.double(), Y), "the test data: `[0]` was float32[12, 2], is now float64[12, 2]"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_another_training_and_said(change: str) -> None:
    argument, one, other, line = CHANGES[change]
    before, after = (settled(**{argument: value}) for value in (one, other))
    assert before.now.digest() != after.now.digest()
    lines = after.differences(before.record())
    assert len(lines) == 1 and lines[0].startswith(line), lines
    if not line.endswith(": "):
        assert lines[0] == line or line.endswith(" ")


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_again_is_the_same_training(change: str) -> None:
    argument, one, _, _ = CHANGES[change]
    before, after = (settled(**{argument: one}) for _ in range(2))
    assert before.now.digest() == after.now.digest()
    assert after.differences(before.record()) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"loss": lambda p, t: (p - t).abs().mean()}, {"loss": lambda q, target: (q - target).abs().mean()}),
        ({"loss": scaled(2.0)}, {"loss": scaled(2.0)}),
        ({"train": (X, Y)}, {"train": [X.numpy(), Y.clone()]}),
        ({"train": (X, Y)}, {"train": TensorDataset(X, Y)}),
        ({"train": loader()}, {"train": loader(num_workers=2, pin_memory=False)}),
        ({"train": loader(shuffle=True)}, {"train": loader(shuffle=True, generator=torch.Generator())}),
        ({"loss": nn.CrossEntropyLoss(torch.ones(2))}, {"loss": nn.CrossEntropyLoss(torch.ones(2))}),
        ({"metrics": {"a": mae, "b": mae}}, {"metrics": {"b": mae, "a": mae}}),
        ({"model": net().eval()}, {"model": net()}),  # the engine trains both in training mode
        ({"train": Rows(rows=X)}, {"train": Rows(rows=X.t().contiguous().t())}),
    ],
)
def test_what_makes_no_difference_is_none(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert settled(**one).now.digest() == settled(**other).now.digest()


def test_a_global_that_a_loss_names_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(p: Tensor, t: Tensor) -> Tensor:
        return GAIN * mae(p, t)

    before = settled(loss=loss)
    monkeypatch.setitem(globals(), "GAIN", 3.0)
    assert settled(loss=loss).differences(before.record()) == ["the loss: `GAIN` was 1.0, is now 3.0"]
    monkeypatch.setitem(globals(), "GAIN", 1.0)
    assert settled(loss=loss).now.digest() == before.now.digest()
    monkeypatch.setitem(globals(), "mae", lambda p, t: (p - t).square().mean())
    assert settled(loss=loss).differences(before.record()) == ["the loss: the code of `mae` has changed"]


def test_of_an_object_that_code_reads_by_attribute_only_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = types.SimpleNamespace(beta=1.0, output="a folder")
    monkeypatch.setitem(globals(), "SETTINGS", settings)

    def loss(p: Tensor, t: Tensor) -> Tensor:
        return SETTINGS.beta * mae(p, t)  # type: ignore[name-defined]  # noqa: F821

    before = settled(loss=loss)
    settings.output = "another folder"
    assert settled(loss=loss).now.digest() == before.now.digest()
    settings.beta = 2.0
    assert settled(loss=loss).differences(before.record()) == ["the loss: `SETTINGS.beta` was 1.0, is now 2.0"]


def test_functions_of_own_modules_count_wherever_they_are_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By attribute of a module, and by an import inside the function."""
    monkeypatch.syspath_prepend(tmp_path)
    source = "import near_helper\nALPHA = {alpha}\ndef focal(p, t):\n    return (p - t).abs().mean() * ALPHA\n"
    uses = (
        "import far_helper\n"
        "def outer(p, t):\n    return far_helper.focal(p, t)\n"
        "def inner(p, t):\n    from far_helper import focal\n    return focal(p, t)\n"
    )
    (tmp_path / "near_helper.py").write_text("NEAR = 1\n")
    (tmp_path / "far_helper.py").write_text(source.format(alpha=1.0))
    (tmp_path / "far_losses.py").write_text(uses)
    losses, helper = importlib.import_module("far_losses"), importlib.import_module("far_helper")
    before = {name: settled(loss=getattr(losses, name)) for name in ("outer", "inner")}
    (tmp_path / "far_helper.py").write_text("# a comment\n" + source.format(alpha=1.0))
    assert settled(loss=losses.inner).now.digest() == before["inner"].now.digest()
    (tmp_path / "far_helper.py").write_text(source.format(alpha=2.0))
    helper.ALPHA = 2.0
    found = [settled(loss=losses.outer).differences(before["outer"].record())]
    assert found == [["the loss: `far_helper.focal.ALPHA` was 1.0, is now 2.0"]]
    (line,) = settled(loss=losses.inner).differences(before["inner"].record())
    assert line == "the loss: the code of `import far_helper` has changed"
    (tmp_path / "far_helper.py").write_text(source.format(alpha=1.0))
    (tmp_path / "near_helper.py").write_text("NEAR = 2\n")
    assert settled(loss=losses.inner).now.digest() != before["inner"].now.digest()
    for name in ("far_losses", "far_helper", "near_helper"):
        sys.modules.pop(name, None)


def test_methods_count_and_the_module_that_a_class_stands_in_does_not(tmp_path: Path) -> None:
    source = """
    from torch import nn
    class Loss(nn.Module):
        {doc}
        def forward(self, p, t):
            return self.norm(p - t)
        @staticmethod
        def norm({d}):
            return {d}.abs().mean() * {factor}
    """

    def made(module: str, doc: str = "", d: str = "d", factor: float = 1.0) -> Any:
        held: dict[str, Any] = {"__name__": module}
        exec(textwrap.dedent(source.format(doc=doc, d=d, factor=factor)), held)
        return held["Loss"]()

    before = settled(loss=made("notebook"))
    assert settled(loss=made("package", doc="'documented'", d="difference")).now.digest() == before.now.digest()
    (line,) = settled(loss=made("notebook", factor=2.0)).differences(before.record())
    assert line == "the loss: the code of `norm` has changed"


class Logged(nn.Module):
    def __init__(self, handle: Any) -> None:
        super().__init__()
        self.handle = handle
        self.gamma = 2.0

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return (p - t).abs().mean()


def test_what_cannot_be_known_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (tmp_path / "log.txt").open("w") as file, sqlite3.connect(":memory:") as database:
        found = settled(loss=Logged(file), train=loader(Rows(strength=database)))  # type: ignore[arg-type]
        again = settled(loss=Logged(file), train=loader(Rows(strength=database)))  # type: ignore[arg-type]
    assert found.record()["unknown"] == {
        "loss.handle": "_io.TextIOWrapper",
        "train.dataset.strength": "sqlite3.Connection",
    }
    lines = [record.message for record in caplog.records if "cannot be known" in record.message]
    assert lines == [
        "the loss: `handle` is a _io.TextIOWrapper, whose content cannot be known: a change of it is not noticed",
        "the training data: `dataset.strength` is a sqlite3.Connection, whose content cannot be known: a change of it is "
        "not noticed",
    ]
    assert again.now.digest() == found.now.digest()


def test_hashing_that_takes_long_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks = iter(range(0, 1000, 3))
    monkeypatch.setattr("loopwright.clock.monotonic", lambda: float(next(ticks)))
    for _ in range(2):
        settled()
    lines = [record.message for record in caplog.records]
    assert lines == ["hashing the data takes 3 s at each start: their content is part of a run's identity"]


def test_common_objects_are_known() -> None:
    import collections
    import dataclasses
    import datetime
    import decimal
    import enum
    import threading

    class Kind(enum.Enum):
        A = 1
        B = 2

    @dataclasses.dataclass
    class Settings:
        rate: float = 0.1

    pairs: list[tuple[Any, Any]] = [
        (Kind.A, Kind.B),
        (Settings(0.1), Settings(0.2)),
        (collections.deque([1]), collections.deque([2])),
        (collections.defaultdict(list, a=[1]), collections.defaultdict(list, a=[2])),
        (collections.Counter("aab"), collections.Counter("abb")),
        (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)),
        (decimal.Decimal("1.5"), decimal.Decimal("1.6")),
        (re.compile("a+"), re.compile("a*")),
        (Path("a"), Path("b")),
        (np.random.default_rng(0), np.random.default_rng(1)),
        (np.random.RandomState(0), np.random.RandomState(1)),
        (torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)),
        (np.float32(1), np.float64(1)),
        (np.add, np.multiply),
        (torch.float32, torch.float64),
        (float("nan"), float("inf")),
        (1, True),
        (1, 1.0),
        (torch.eye(3).to_sparse(), (2 * torch.eye(3)).to_sparse()),
        ((1j * torch.ones(2)).conj(), 1j * torch.ones(2)),
        (torch.ones(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bfloat16)),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 2], mask=[1, 0])),
        (np.array([1, "a"], dtype=object), np.array([1, "b"], dtype=object)),
        (range(3), range(4)),
        ({1, 2}, {1, 3}),
        ("a" * 300, "a" * 299 + "b"),
        ({(1, 2): "x"}, {(1, 3): "x"}),
        (nn.GRU(2, 3), nn.GRU(2, 3, dropout=0.1, num_layers=2)),
        (functools.lru_cache(mae), functools.lru_cache(tilted)),
        (X.sum, X.mean),
    ]
    for one, other in pairs:
        holders = [Logged(value) for value in (one, one, other)]
        if isinstance(one, nn.Module):
            for holder in holders:
                holder.handle.load_state_dict({k: torch.zeros_like(v) for k, v in holder.handle.state_dict().items()})
        a, b, c = (settled(loss=holder) for holder in holders)
        assert a.record()["unknown"] == {} and c.record()["unknown"] == {}, one
        assert a.now.digest() == b.now.digest() != c.now.digest(), one
    quiet = settled(loss=Logged([threading.Lock(), nn.LazyLinear(2)]))
    assert quiet.record()["unknown"] == {}


def test_an_object_that_holds_itself_is_described() -> None:
    loss = Logged(None)
    loss.handle = {"loss": loss, "list": []}
    loss.handle["list"].append(loss.handle)
    assert settled(loss=loss).now.digest() == settled(loss=loss).now.digest()


def test_under_another_python_code_is_not_compared() -> None:
    before = settled(loss=lambda p, t: (p - t).abs().mean()).record()
    after = settled(loss=lambda p, t: (p - t).square().mean())
    assert differing_arguments(before, after.record())
    assert differing_arguments({**before, "python": "3.99"}, after.record()) == []
    other = settled(loss=nn.MSELoss(reduction="sum"))
    assert other.differences({**settled().record(), "python": "3.99"}) == [
        "the loss: `reduction` was 'mean', is now 'sum'"
    ]
