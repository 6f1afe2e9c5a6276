import io

import pytest
import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from loopwright.config.registry import names
from loopwright.errors import ConfigError
from loopwright.optim import fused
from loopwright.optim.optimizers import _CLASSES, _REFUSED, OPTIM, AdamConfig, AdamWConfig, OptimConfig, SGDConfig


class Tree(BaseModel):
    optim: OPTIM


def config(value) -> OptimConfig:
    return Tree(optim=value).optim


def message(value) -> str:
    with pytest.raises(ValidationError) as caught:
        config(value)
    (problem,) = caught.value.errors()
    assert "\n" not in problem["msg"]
    return problem["msg"]


def trained(optimizer, params, steps: int = 3):
    for step in range(steps):
        for i, p in enumerate(params):
            grad = torch.full_like(p, 0.1 * (i + step + 1))
            p.grad = grad.to_sparse() if isinstance(optimizer, torch.optim.SparseAdam) else grad
        optimizer.step()
    return params


def parameters():
    return [nn.Parameter(torch.linspace(-1, 1, 6).reshape(2, 3)), nn.Parameter(torch.ones(2, 2))]


CHOICES = ["sgd", "adam", "adamw", {"name": "sgd", "momentum": 0.9, "nesterov": True, "lr": 0.1}] + [
    name for name in _CLASSES if name not in _REFUSED
]


def test_ours_are_registered_with_their_defaults():
    assert [n for n in names("optim", OptimConfig) if n in ("adam", "adamw", "sgd")] == ["adam", "adamw", "sgd"]
    assert (SGDConfig().lr, SGDConfig().momentum, SGDConfig().weight_decay) == (1e-2, 0.0, 0.0)
    assert (AdamConfig().lr, AdamConfig().betas, AdamConfig().eps, AdamConfig().weight_decay) == (
        1e-3, (0.9, 0.999), 1e-8, 0.0,
    )  # fmt: skip
    assert (AdamWConfig().lr, AdamWConfig().weight_decay) == (1e-3, 0.01)


ADAM = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}
SGD = {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01}


@pytest.mark.parametrize(
    ("name", "cls", "theirs", "keywords"),
    [
        ("sgd", fused.SGD, torch.optim.SGD, SGD),
        ("adam", fused.Adam, torch.optim.Adam, ADAM),
        ("adamw", fused.AdamW, torch.optim.AdamW, ADAM),
    ],
)
def test_every_key_reaches_the_optimizer(name, cls, theirs, keywords):
    p, q = parameters(), parameters()
    ours = config({"name": name, **keywords}).build(p)
    assert type(ours) is cls
    trained(ours, p)
    trained(theirs(q, fused=True, **keywords), q)
    assert all(torch.equal(a, b) for a, b in zip(p, q, strict=True))
    for key, given in keywords.items():
        assert ours.param_groups[0][key] == given


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_optimizer_trains_and_its_state_survives_a_file(choice):
    p, q = parameters(), parameters()
    first = config(choice).build(p)
    trained(first, p, 2)
    assert not torch.equal(p[0], parameters()[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = config(choice).build(q)
    second.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        for a, b in zip(q, p, strict=True):
            a.copy_(b)
    trained(first, p, 2)
    trained(second, q, 2)
    assert all(torch.equal(a, b) for a, b in zip(p, q, strict=True))


def test_a_class_of_torch_takes_its_keywords_and_its_own_rate():
    chosen = config({"name": "RMSprop", "lr": 0.2, "args": {"momentum": 0.9, "centered": True}})
    optimizer = chosen.build(parameters())
    assert type(optimizer) is torch.optim.RMSprop
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["centered"]) == (0.2, 0.9, True)
    assert config("Adadelta").lr == 1.0
    assert config("RMSprop").lr == 0.01
    assert Tree(optim="NAdam").model_dump()["optim"] == {"lr": 2e-3, "name": "NAdam", "args": {}}


def test_wrong_use_is_told_in_one_line():
    assert "args.momentm is unknown to RMSprop; allowed:" in message({"name": "RMSprop", "args": {"momentm": 1.0}})
    assert "did you mean 'momentum'" in message({"name": "RMSprop", "args": {"momentm": 1.0}})
    assert "args.lr is 0.1; give the learning rate as `lr`" in message({"name": "RMSprop", "args": {"lr": 0.1}})
    assert "NAdam refuses: Invalid beta parameter" in message({"name": "NAdam", "args": {"betas": (2.0, 0.9)}})
    assert "RMSprop refuses" in message({"name": "RMSprop", "args": {"momentum": "much"}})
    assert "closure" in message("LBFGS")
    assert "spells it 'RMSprop'" in message("rmsprop")
    assert "use one of: adam, adamw, sgd" in message("adamm")
    assert "did you mean 'adam'" in message("adamm")
    assert "give a momentum above 0" in message({"name": "sgd", "nesterov": True})
    assert "not known" in message("Optimizer")


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "adam", "lr": 0.0},
        {"name": "RMSprop", "lr": -1.0},
        {"name": "adam", "betas": (0.9, 1.0)},
        {"name": "adam", "momentum": 0.9},
        {"name": "sgd", "momentum": -0.1},
        {"name": "adamw", "eps": 0.0},
        {"name": "adamw", "weight_decay": -1.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(bad):
    message(bad)


def test_a_class_that_refuses_the_model_is_a_config_error():
    with pytest.raises(ConfigError, match=r"optim.name is 'Muon', which does not take this model's parameters"):
        config("Muon").build([nn.Parameter(torch.ones(3))])


def test_what_has_no_fused_kernel_is_built_with_foreach():
    optimizer = AdamConfig().build([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    assert optimizer.param_groups[0]["foreach"] is True and not optimizer.param_groups[0]["fused"]
    assert AdamConfig().build(parameters()).param_groups[0]["fused"] is True
