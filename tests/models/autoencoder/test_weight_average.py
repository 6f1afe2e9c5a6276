"""The moving average of a module's weights: its formula, its warm-up, its state."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from loopwright.models.autoencoder.average import Average


def weights(steps: int) -> Iterator[nn.Linear]:
    """One module whose weights go somewhere new in every step."""
    module = nn.Linear(3, 2)
    for _ in range(steps):
        yield module
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))


def test_equals_the_formula_with_its_warm_up() -> None:
    trained = weights(31)
    module = next(trained)
    average, expected = Average(module), module.weight.detach().double().clone()
    for n, later in enumerate(trained):
        average.update(later, 0.6)
        decay = min(0.6, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * later.weight.detach().double()
        torch.testing.assert_close(average.module.weight.double(), expected, rtol=1e-5, atol=1e-6)
    assert average.updates.item() == 30


def test_is_called_like_the_module_and_takes_no_gradient() -> None:
    module = nn.Linear(3, 2)
    average, x = Average(module), torch.randn(4, 3)
    assert torch.equal(average(x), module(x)) and torch.equal(average(input=x), module(x))
    assert not any(p.requires_grad for p in average.parameters()) and not average(x).requires_grad
    with torch.no_grad():
        module.weight.add_(1)
    assert not torch.equal(average(x), module(x)), "a copy, not the module itself"
    assert all(p.requires_grad for p in module.parameters())


def test_goes_on_from_its_state_to_the_same_bits() -> None:
    trained = weights(12)
    module = next(trained)
    average = Average(module)
    assert {"updates", "module.weight", "module.bias"} == set(average.state_dict())
    resumed = None
    for n, later in enumerate(trained):
        if n == 5:
            resumed = Average(nn.Linear(3, 2))
            resumed.load_state_dict(average.state_dict())
        average.update(later, 0.99)
        if resumed is not None:
            resumed.update(later, 0.99)
    assert resumed is not None
    assert all(torch.equal(held, resumed.state_dict()[name]) for name, held in average.state_dict().items())


def test_buffers_are_taken_over() -> None:
    module = nn.BatchNorm1d(3)
    average = Average(module)
    module(torch.randn(8, 3) + 2)
    average.update(module, 0.5)
    assert torch.equal(average.module.running_mean, module.running_mean)
    assert average.module.num_batches_tracked.item() == 1


@pytest.mark.parametrize("decay", [0.0, 0.999])
def test_of_weights_that_stay_is_those_weights(decay: float) -> None:
    module = nn.Linear(3, 2)
    average = Average(module)
    for _ in range(5):
        average.update(module, decay)
    assert torch.equal(average.module.weight, module.weight)
