"""Optimizer state comes back in the dtype it was saved in, bit for bit: every class of torch.optim, and ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopwright.engine.state import load_optimizer_state
from loopwright.optim import fused
from loopwright.record.checkpoint import load_checkpoint, save_checkpoint

TORCHS = {
    cls
    for cls in vars(torch.optim).values()
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
}
CLASSES = [*sorted(TORCHS, key=lambda cls: cls.__name__), fused.SGD, fused.Adam, fused.AdamW]
# So that there is something to lose: a buffer of momentum, and averages that have begun.
ARGS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "ASGD": {"t0": 1}, "RMSprop": {"momentum": 0.9}}


def model(dtype: torch.dtype) -> nn.Linear:
    linear = nn.Linear(3, 2, bias=False, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(torch.linspace(-1, 1, 6).reshape(2, 3))
    return linear


def optimizer_of(cls: type[torch.optim.Optimizer], linear: nn.Linear) -> torch.optim.Optimizer:
    kernel = {"fused": True} if cls.__module__ == fused.__name__ else {}
    return cls(linear.parameters(), **ARGS.get(cls.__name__, {}), **kernel)  # type: ignore[call-arg]


def train(optimizer: torch.optim.Optimizer, linear: nn.Linear, steps: int = 3) -> None:
    for step in range(steps):
        grad = torch.full_like(linear.weight, 0.1 * (step + 1)) + linear.weight.detach() / 3
        linear.weight.grad = grad.to_sparse() if isinstance(optimizer, torch.optim.SparseAdam) else grad
        closure = (lambda: 1.0) if isinstance(optimizer, torch.optim.LBFGS) else None
        optimizer.step(closure)  # type: ignore[arg-type]


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """Every leaf by its path; a tensor as dtype, shape and bytes."""
    if isinstance(tree, Tensor):
        return {path: (tree.dtype, tuple(tree.shape), tree.reshape(-1).view(torch.uint8).tolist())}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list | tuple) else None
    if items is None:
        return {path: (type(tree), tree)}
    return {p: leaf for key, value in items for p, leaf in flat(value, f"{path}/{key}").items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: f"{cls.__module__.split('.')[0]}.{cls.__name__}")
def test_state_is_the_same_after_a_load(cls: type[torch.optim.Optimizer], dtype: torch.dtype, tmp_path: Path) -> None:
    linear = model(dtype)
    optimizer = optimizer_of(cls, linear)
    train(optimizer, linear)
    before = flat(optimizer.state_dict())
    assert any(isinstance(leaf[0], torch.dtype) for leaf in before.values())
    save_checkpoint(tmp_path / "own.pt", linear, optimizer)
    again = model(dtype)
    loaded = optimizer_of(cls, again)
    load_checkpoint(tmp_path / "own.pt", again, loaded)
    assert flat(loaded.state_dict()) == before
    # and it goes on as if nothing had been
    train(optimizer, linear)
    train(loaded, again)
    assert flat(loaded.state_dict()) == flat(optimizer.state_dict())
    assert flat(again.state_dict()) == flat(linear.state_dict())


def test_what_torch_alone_would_cast() -> None:
    """That the test above sees the difference: torch's own load changes it."""
    linear = model(torch.bfloat16)
    optimizer = torch.optim.NAdam(linear.parameters())
    train(optimizer, linear)
    saved = optimizer.state_dict()
    assert saved["state"][0]["mu_product"].dtype == torch.float32
    torchs, ours = (torch.optim.NAdam(model(torch.bfloat16).parameters()) for _ in range(2))
    torchs.load_state_dict(saved)
    load_optimizer_state(ours, saved)
    kept = ours.state_dict()["state"][0]["mu_product"]
    assert torchs.state_dict()["state"][0]["mu_product"].dtype == torch.bfloat16
    # 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004)) for t = 1, 2, 3, multiplied, by hand
    by_hand = 1.0
    for t in (1, 2, 3):
        by_hand *= 0.9 * (1 - 0.5 * 0.96 ** (t * 0.004))
    assert kept.dtype == torch.float32 and float(kept) == pytest.approx(by_hand, rel=1e-6)


class Odd(torch.optim.Optimizer):
    """Keeps what torch's loading spoils: whole numbers, masks, nested things, a text, a scalar as a number."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            self.state[p] = {
                "seen": torch.tensor(2**40 + 1),
                "mask": torch.tensor([True, False]),
                "nested": {"sums": [torch.tensor(1 / 3, dtype=torch.float64), (torch.tensor(0.1), 7)]},
                "mode": "warm",
                "none": None,
            }


def test_nested_state_and_state_that_is_no_float() -> None:
    linear = model(torch.bfloat16)
    optimizer = Odd(linear.parameters())
    optimizer.step()
    loaded = Odd(model(torch.bfloat16).parameters())
    load_optimizer_state(loaded, optimizer.state_dict())
    assert flat(loaded.state_dict()) == flat(optimizer.state_dict())


def test_a_number_that_torch_makes_a_tensor_stays_one() -> None:
    """A file of an old torch has the step of Adam as a float; Adam wants a tensor, and makes one."""
    linear = model(torch.float32)
    optimizer = torch.optim.Adam(linear.parameters())
    train(optimizer, linear)
    saved = optimizer.state_dict()
    saved["state"][0]["step"] = 3.0
    loaded = torch.optim.Adam(model(torch.float32).parameters())
    load_optimizer_state(loaded, saved)
    step = loaded.state_dict()["state"][0]["step"]
    assert isinstance(step, Tensor) and float(step) == 3.0
