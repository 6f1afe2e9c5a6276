"""The short cuts of the hot path do what the long way does."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from loopwright.engine.compute import computing
from loopwright.engine.loss import Loss
from loopwright.engine.state import TrainState
from loopwright.engine.steps import _BLOCK_KEYS, _keys
from loopwright.optim import fused
from loopwright.streams import Streams

CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_has_the_gradients_of_tensor_backward(shape: tuple[int, ...], dtype: torch.dtype):
    torch.manual_seed(0)
    model, x = nn.Linear(3, 1).to(dtype), torch.randn(5, 3, dtype=dtype)
    state = TrainState(model, {"main": model.parameters()}, lambda params: fused.Adam(params, lr=0.1, fused=True))
    model(x).square().mean().backward()
    wanted = [p.grad.clone() for p in model.parameters()]
    state.apply(Loss(model(x).square().mean().reshape(shape), 5))
    for p, grad in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(p.grad, grad)


def test_a_loss_that_is_its_own_gradient_leaves_the_next_one_whole():
    p = nn.Parameter(torch.tensor(3.0))
    state = TrainState(nn.ParameterList([p]), {"main": [p]}, lambda params: torch.optim.SGD(params, lr=1.0))
    for _ in range(3):
        state.apply(Loss(p + 0.0, 1))
        p.grad.mul_(7.0)
    assert p.item() == 0.0


def test_a_loss_without_a_graph_is_refused():
    model = nn.Linear(3, 1)
    state = TrainState(model, {"main": model.parameters()}, lambda params: torch.optim.SGD(params, lr=1.0))
    with pytest.raises(RuntimeError, match="does not require grad"):
        state.apply(Loss(torch.tensor(1.0), 1))


def test_keys_hashed_in_blocks_are_the_addresses_keys():
    streams = Streams(3)
    keys = _keys(streams, 5)
    assert [next(keys) for _ in range(2 * _BLOCK_KEYS + 1)] == [
        streams.seed("step", step) for step in range(5, 5 + 2 * _BLOCK_KEYS + 1)
    ]


@pytest.mark.parametrize("given", [None, "0"])
def test_determinism_is_switched_on_and_put_back_without_the_compiler(
    given: str | None, monkeypatch: pytest.MonkeyPatch
):
    name = "TORCHINDUCTOR_DETERMINISTIC"
    monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(name, given)
    before = torch.are_deterministic_algorithms_enabled()
    with computing(CPU, 1, True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ[name] == (given or "1")
    assert torch.are_deterministic_algorithms_enabled() == before
    assert os.environ.get(name) == given


def test_a_training_imports_nothing_heavy():
    script = (
        "import sys, loopwright\n"
        "assert 'torch' not in sys.modules\n"
        "from loopwright.config.schema import parse\n"
        "from loopwright.experiment import run\n"
        "task = {'name': 'regression', 'data': {'name': 'linear', 'rows': 100}}\n"
        "run(parse({'task': task, 'train': {'epochs': 1}, 'record': {'save': False}}))\n"
        "heavy = ('matplotlib', 'sklearn', 'scipy', 'polars', 'hydra', 'sympy', 'torch._dynamo', 'torch._inductor')\n"
        "print(*(name for name in heavy if name in sys.modules))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == []
