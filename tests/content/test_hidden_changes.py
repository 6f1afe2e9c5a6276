"""Changes that are easy to overlook: which of two alike, order, sharing, what hangs on tensors, what stands on C."""

from __future__ import annotations

import collections
import copy
import functools
import gc
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Sampler, SequentialSampler, TensorDataset

from loopwright.content.arguments import Arguments, Given
from loopwright.content.code import text
from loopwright.content.moved import MOVED, Moved

X = torch.arange(24.0).reshape(12, 2)
Y = X.sum(1, keepdim=True)
ROWS = TensorDataset(X, Y)
LITTLE, MUCH = nn.Dropout(0.1), nn.Dropout(0.5)


class Holder(nn.Module):
    """A loss that holds something."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        return (p - t).abs().mean()


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


def one(x: Any) -> Any:
    return x + 1


def two(x: Any) -> Any:
    return x * 2


def described(**how: Any) -> Any:
    given = {"model": nn.Identity(), "loss": nn.MSELoss(), "metrics": {}, "train": (X, Y), "val": None, "test": None}
    return Arguments(Given(**(given | how)), lambda: "")


def holding(value: Any) -> dict[str, Any]:
    return {"loss": Holder(value)}


def zeros(*, tied: bool) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    if tied:
        model[1].weight = model[0].weight
    return model


def hooked(factor: float, *, after: bool = False) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    if after:
        model.weight.register_post_accumulate_grad_hook(lambda p: None)
    else:
        model.weight.register_hook(lambda gradient: gradient * factor)
    return model


class Weight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Negative(Weight):
    def forward(self, x: Tensor) -> Tensor:
        return -x @ self.weight


Negative.__qualname__ = Negative.__name__ = "Weight"


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


def parametrized(cls: type[nn.Module]) -> nn.Module:
    model = cls()
    parametrize.register_parametrization(model, "weight", Doubled())
    return model


class Scripted(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return x * self.k


class Loader(DataLoader[Any]):
    def __init__(self, scale: float) -> None:
        super().__init__(ROWS, batch_size=4)
        self.scale = scale


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(X[i], Y[i]) for i in range(12)])


class Ordered(Sampler[int]):
    def __init__(self, source: Any) -> None:
        self.data_source = source

    def __iter__(self) -> Iterator[int]:
        return iter(self.data_source)

    def __len__(self) -> int:
        return len(self.data_source)


class Drawn(Ordered):
    def __init__(self, seed: int) -> None:
        super().__init__(range(12))
        self.generator = np.random.default_rng(seed)  # type: ignore[assignment]


class Queue(collections.deque[int]):
    pass


class Dice(random.Random):
    pass


class Marked(torch.Tensor):
    pass


class Marked2(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        return super().__torch_function__(function, types, arguments, keywords or {})


def scripted(model: nn.Module) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.script(model)


def cached(factor: float) -> Any:
    return functools.lru_cache(lambda x: x) if factor == 1 else functools.lru_cache(lambda x: x * 2)


def partial_method(factor: float) -> Any:
    class Own:
        method = functools.partialmethod(lambda self, x: x, factor)

    return Own()


def ordered(sampler: Any) -> dict[str, Any]:
    return {"train": DataLoader(ROWS, batch_size=4, sampler=sampler)}


TEACHER = nn.Linear(2, 1)
FIRST, SECOND = Plain(1), Plain(2)
INFINITE = torch.tensor([-float("inf"), 1.0])
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "which module": ({"model": nn.Sequential(LITTLE, MUCH, LITTLE)}, {"model": nn.Sequential(LITTLE, MUCH, MUCH)}),
    "which function": (holding([one, two, one]), holding([one, two, two])),
    "which object": (holding([FIRST, SECOND, FIRST]), holding([FIRST, SECOND, SECOND])),
    "order of a Sequential": (
        {"model": nn.Sequential(collections.OrderedDict(a=nn.ReLU(), b=nn.Tanh()))},
        {"model": nn.Sequential(collections.OrderedDict(b=nn.Tanh(), a=nn.ReLU()))},
    ),
    "order of an OrderedDict": (
        holding(collections.OrderedDict(a=1, b=2)),
        holding(collections.OrderedDict(b=2, a=1)),
    ),
    "tied weights": ({"model": zeros(tied=True)}, {"model": zeros(tied=False)}),
    "shared weights": ({"model": TEACHER, **holding(TEACHER)}, {"model": TEACHER, **holding(copy.deepcopy(TEACHER))}),
    "hook of a tensor": ({"model": hooked(1.0)}, {"model": hooked(2.0)}),
    "hook after a gradient": ({"model": hooked(1.0)}, {"model": hooked(1.0, after=True)}),
    "beside an infinity": (holding(INFINITE), holding(INFINITE * 2 + 1)),
    "code in a long list": (holding([*[None] * 40, lambda x: x]), holding([*[None] * 40, lambda x: x + 1])),
    "parametrized": ({"model": parametrized(Weight)}, {"model": parametrized(Negative)}),
    "below a script": (
        {"model": scripted(nn.Sequential(Weight()))},
        {"model": scripted(nn.Sequential(Negative()))},
    ),
    "attribute of a script": (
        {"model": scripted(nn.Sequential(Scripted(1.0)))},
        {"model": scripted(nn.Sequential(Scripted(2.0)))},
    ),
    "own loader": ({"train": Loader(1.0)}, {"train": Loader(2.0)}),
    "workers of a stream": (
        {"train": DataLoader(Stream(), batch_size=4)},
        {"train": DataLoader(Stream(), batch_size=4, num_workers=2)},
    ),
    "rows of a SequentialSampler": (ordered(SequentialSampler(range(5))), ordered(SequentialSampler(range(6)))),
    "rows of a RandomSampler": (ordered(RandomSampler(range(5))), ordered(RandomSampler(range(6)))),
    "data_source of an own sampler": (ordered(Ordered([1, 2, 3])), ordered(Ordered([3, 2, 1]))),
    "seed of an own sampler": (ordered(Drawn(0)), ordered(Drawn(1))),
    "own deque": (holding(Queue([1])), holding(Queue([2]))),
    "own Random": (holding(Dice(1)), holding(Dice(2))),
    "own tensor": (holding(torch.ones(2).as_subclass(Marked)), holding(torch.ones(2).as_subclass(Marked2))),
    "cached": (holding(cached(1)), holding(cached(2))),
    "partial method": (holding(partial_method(1)), holding(partial_method(2))),
    "names of fields": (
        holding(np.zeros(2, dtype=[("a", "f4"), ("b", "f4")])),
        holding(np.zeros(2, dtype=[("b", "f4"), ("a", "f4")])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("pair", PAIRS)
def test_what_hides_counts(pair: str) -> None:
    before, after = (described(**how) for how in PAIRS[pair])
    assert before.now.digest() == described(**PAIRS[pair][0]).now.digest()
    assert before.now.digest() != after.now.digest()
    assert before.record()["unknown"] == after.record()["unknown"] == {}
    assert after.differences(before.record())


class Proxy:
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("bound to nothing")


class Raising:
    def __getattribute__(self, name: str) -> Any:
        raise NameError(name)


@pytest.mark.parametrize("cls", [Proxy, Raising])
def test_an_object_that_raises_is_unknown_and_no_more_than_that(cls: Callable[[], Any]) -> None:
    found = described(**holding([cls(), 1]))
    assert list(found.record()["unknown"]) == ["loss.held"]
    assert found.now.digest() != described(**holding([cls(), 2])).now.digest()


def chain(length: int, end: int) -> Any:
    for _ in range(length):
        end = Plain(end)  # type: ignore[assignment]
    return end


def test_what_is_nested_deeply_is_known() -> None:
    found = described(**holding(chain(300, 1)))
    assert found.record()["unknown"] == {} and len(json.dumps(found.record())) < 60_000
    assert found.now.digest() == described(**holding(chain(300, 1))).now.digest()
    assert found.now.digest() != described(**holding(chain(300, 2))).now.digest()


def test_large_collections_cost_little_and_are_recorded_in_short() -> None:
    shared: list[Any] = [1]
    for _ in range(40):
        shared = [shared, shared]
    items = [{"name": f"{i}.png", "box": [i, i + 1.5]} for i in range(20_000)]
    for held in (shared, items, {str(i): i for i in range(20_000)}, {str(i) for i in range(20_000)}):
        began = time.process_time()
        assert len(json.dumps(described(**holding(held)).record())) < 20_000
        assert time.process_time() - began < 2.0
    before = described(**holding(items))
    items[-1]["box"] = [0]
    assert described(**holding(items)).now.digest() != before.now.digest()


def test_an_array_that_training_fills_is_known_as_it_was() -> None:
    held = np.zeros(5)
    first = described(**holding(held))
    loss = first.used.given.loss
    held[3] = 1.0
    first.trained()
    again = described(loss=loss)
    assert again.before is not None and again.before.digest() == first.now.digest()


def test_what_no_one_else_holds_is_let_go() -> None:
    moved = Moved()

    def closure() -> Any:
        value = 1
        return lambda: value

    kept, gone = closure(), closure()
    for function in (kept, gone):
        moved.remember(function.__closure__[0], ".value", 2, 1)
    del gone, function
    gc.collect()
    moved.tidy()
    assert moved.before(kept.__closure__[0], ".value", 2) == 1
    assert len(moved._owners) == 1
    assert MOVED is not moved


SCRIPT = """
from torch import nn
from loopwright.content.arguments import Arguments, Given
def shared(x): return x
def one(x): return shared(x) + 1
def two(x): return shared(x) + 2
def three(x): return shared(x) + 3
class Loss(nn.Module):
    names = {one, two, three, nn.ReLU, (1, "a"), "b", "c"}
    def forward(self, p, t): return p
print(Arguments(Given(nn.Identity(), Loss(), {}, ([1.0],), None, None), str).now.digest())
"""


def test_a_set_of_functions_is_the_same_under_any_addresses() -> None:
    found = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        ended = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        found.add(ended.stdout)
    assert len(found) == 1


def test_where_code_stands_does_not_count() -> None:
    source = (
        "import logging\nlog = logging.getLogger(__name__)\n"
        "def loss(p, t):\n  log.info(__name__, __file__)\n  return p - t"
    )
    found = set()
    for name in ("__main__", "losses"):
        held: dict[str, Any] = {"__name__": name, "__file__": f"/a/{name}.py"}
        exec(source, held)
        found.add(described(loss=held["loss"]).now.digest())
    assert len(found) == 1


def test_code_laid_out_over_other_lines_is_the_same() -> None:
    held: dict[str, Any] = {}
    exec("def f(a, b):\n  c = a * b; d = c + a\n  return d, c\ndef g(a, b):\n  c = (a\n  * b)\n  d = (c\n  +\n  a)\n"
         "  return (d,\n    c)", held)  # fmt: skip
    assert text(held["f"].__code__) == text(held["g"].__code__)
