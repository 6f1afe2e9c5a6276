"""`loopwright.verify` of a run of `fit`: the module, the loss and the data are given again, the rest is in the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loopwright import ConfigError, RunError, fit, verify
from loopwright.engine.weights import weights_hash
from support.cli import command

X = torch.linspace(-1, 1, 90).reshape(30, 3)
Y = X.sum(1, keepdim=True).square()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1))


def mae(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).abs().mean()


DATA: dict[str, Any] = {"train": (X[:20], Y[:20]), "val": (X[20:25], Y[20:25]), "test": (X[25:], Y[25:])}
ASKED: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 6,
    "optimizer": "adamw",
    "lr": 0.02,
    "seed": 5,
    "stop": {"patience": 9},
    "schedule": "cosine",
    "clip_norm": 1.0,
    "device": "cpu",
    "plots": "none",
    "record": {"code": False},
}


def fitted(out: Path, model: Any, **more: Any) -> Path:
    outcome = fit(model, nn.MSELoss(), metrics={"mae": mae}, out=out, **{**DATA, **ASKED, **more})
    return Path(outcome.run or "")


def again(run: Path, model: Any, **more: Any) -> Any:
    return verify(run, model=model, loss=nn.MSELoss(), metrics={"mae": mae}, **{**DATA, **more})


def test_a_trained_module_is_replayed_from_its_first_weights(tmp_path: Path) -> None:
    """The module given again is the trained one; the record has kept its first weights, and it stays as it is."""
    module = net()
    run = fitted(tmp_path, module)
    trained = weights_hash(module.state_dict())
    found = again(run, module)
    assert found.identical and (found.num_steps, found.num_rows) == (12, 3) and found.num_checkpoints >= 1
    assert weights_hash(module.state_dict()) == trained
    assert again(run, net()).identical and again(run, net).identical
    assert (run / "proof.json").is_file()


def test_a_function_that_builds_the_module(tmp_path: Path) -> None:
    run = fitted(tmp_path, net)
    assert again(run, net).identical
    with pytest.raises(RunError, match="give that function as `model`"):
        again(run, net())


def test_arguments_may_be_given_again_and_must_be_the_recorded_ones(tmp_path: Path) -> None:
    run = fitted(tmp_path, net)
    assert again(run, net, **{key: ASKED[key] for key in ("epochs", "batch_size", "seed", "clip_norm")}).identical
    assert again(run, net, optimizer="adamw", lr=0.02).identical
    with pytest.raises(ConfigError, match=r"says otherwise: train.epochs: 3 -> 4; leave it out"):
        again(run, net, epochs=4)
    with pytest.raises(ConfigError, match=r"optim.lr: 0.02 -> 0.03"):
        again(run, net, lr=0.03)


def test_what_differs_is_found(tmp_path: Path) -> None:
    run = fitted(tmp_path, net)
    other = (X[:20], Y[:20].clone())
    other[1][3] += 1
    found = again(run, net, train=other)
    assert found.exit_code == 3 and found.divergence is not None and found.divergence.epoch == 1
    assert "the training data: `[1]` has other content" in found.causes
    found = verify(run, model=net, loss=nn.L1Loss(), metrics={"mae": mae}, **DATA)
    assert found.divergence is not None and (found.divergence.step, found.divergence.what) == (1, "loss")
    assert "the loss: was MSELoss, is now L1Loss" in found.causes

    def relu() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 1))

    found = again(run, relu)
    assert found.divergence is not None and found.divergence.step == 1
    assert any(line.startswith("the model: its code ") or "`1` was Tanh, is now ReLU" in line for line in found.causes)


def test_a_change_that_moves_no_bit_is_said_beside_the_proof(tmp_path: Path) -> None:
    """Code written otherwise that trains to the same bits is identical, and what differs is named all the same."""
    run = fitted(tmp_path, net)

    def half(p: Tensor, t: Tensor) -> Tensor:
        return 2 * nn.functional.mse_loss(p, t) * 0.5

    found = verify(run, model=net, loss=half, metrics={"mae": mae}, **DATA)
    assert found.identical and "the loss: was MSELoss, is now half" in found.causes
    assert again(run, net).causes == ()


def test_two_fits_down_to_the_batch(tmp_path: Path) -> None:
    first, second = fitted(tmp_path / "a", net), fitted(tmp_path / "b", net, batch_size=7)
    assert verify(first, second).exit_code == 3
    found = verify(first, second, rerun=True, model=net, loss=nn.MSELoss(), metrics={"mae": mae}, **DATA)
    assert found.tensors is not None and found.tensors.where == "the batch of step 1"


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = fitted(tmp_path, net())
    ended = command("verify", run)
    assert ended.code == 2 and len(ended.errors) == 1
    assert "needs its module, loss and data: call loopwright.verify(run, model=..., loss=..." in ended.errors[0]
    with pytest.raises(RunError, match=r"came from loopwright\.fit and needs its module"):
        verify(run)
    with pytest.raises(RunError, match="give its `loss` and `train` again"):
        verify(run, model=net(), loss=nn.MSELoss())
    with pytest.raises(RunError, match="does not have the weights of"):
        again(run, nn.Linear(3, 1))
    with pytest.raises(RunError, match="verify it without kill"):
        again(run, net(), kill=2)
