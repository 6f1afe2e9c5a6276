"""Optimizers by name: sgd, adam, adamw (fused), and any class of torch.optim by its class name with `args:`."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import nn
from torch.optim import Optimizer

from loopwright.config.node import Keywords, Node, setting
from loopwright.config.registry import Choice, nearest, register
from loopwright.errors import ConfigError
from loopwright.optim import fused

Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimConfig(Node):
    """An optimizer and its hyperparameters. `lr` is the learning rate that a schedule starts from."""

    lr: float = setting(1e-3, "learning rate, before the schedule", gt=0)

    @abstractmethod
    def build(self, params: list[nn.Parameter]) -> Optimizer:
        """An optimizer of these parameters (at least one), with torch's own state layout."""


@register("optim", "sgd")
class SGDConfig(OptimConfig):
    """Stochastic gradient descent, with momentum where asked for."""

    name: Literal["sgd"] = "sgd"
    lr: float = setting(1e-2, "learning rate, before the schedule", gt=0)
    momentum: float = setting(0.0, "momentum", ge=0)
    nesterov: bool = setting(False, "Nesterov momentum")
    weight_decay: float = setting(0.0, "L2 penalty, added to the gradient", ge=0)

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise PydanticCustomError("nesterov", "nesterov is true with momentum 0; give a momentum above 0")
        return self

    def build(self, params: list[nn.Parameter]) -> Optimizer:
        return fused.SGD(
            params,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            **fused.kernel_flags(params),
        )


@register("optim", "adam")
class AdamConfig(OptimConfig):
    """Adam."""

    name: Literal["adam"] = "adam"
    betas: tuple[Beta, Beta] = setting((0.9, 0.999), "decay of the first and second moment, each below 1")
    eps: float = setting(1e-8, "added to the denominator", gt=0)
    weight_decay: float = setting(0.0, "L2 penalty, added to the gradient", ge=0)

    def build(self, params: list[nn.Parameter]) -> Optimizer:
        return fused.Adam(
            params,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            **fused.kernel_flags(params),
        )


@register("optim", "adamw")
class AdamWConfig(OptimConfig):
    """Adam with decoupled weight decay."""

    name: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = setting((0.9, 0.999), "decay of the first and second moment, each below 1")
    eps: float = setting(1e-8, "added to the denominator", gt=0)
    weight_decay: float = setting(0.01, "decoupled weight decay, times the learning rate", ge=0)

    def build(self, params: list[nn.Parameter]) -> Optimizer:
        return fused.AdamW(
            params,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            **fused.kernel_flags(params),
        )


_REFUSED = {
    "LBFGS": "it evaluates the loss several times per step (a closure), which a task's losses do not offer",
}
_CLASSES: dict[str, type[Optimizer]] = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if isinstance(cls, type) and issubclass(cls, Optimizer) and cls is not Optimizer
}

_SPELLING = {name.lower(): name for name in _CLASSES}


class TorchOptim(OptimConfig):
    """Any optimizer of torch.optim, with its keywords in `args`. The default of `lr` is the class's own."""

    name: str = setting(..., "name of a class in torch.optim")
    args: Keywords = setting({}, "keywords of the class, other than params and lr")

    @model_validator(mode="before")
    @classmethod
    def _own_lr(cls, tree: Any) -> Any:
        known = _CLASSES.get(tree.get("name", "")) if isinstance(tree, dict) else None
        if known is None or "lr" in tree:
            return tree
        return {**tree, "lr": float(inspect.signature(known).parameters["lr"].default)}

    @model_validator(mode="after")
    def _class_takes_it(self) -> Self:
        if self.name in _REFUSED:
            _refuse(f"name is {self.name!r}, which cannot be used: {_REFUSED[self.name]}; use adam or another class")
        if self.name not in _CLASSES:
            _refuse(f"name is {self.name!r}; torch.optim spells it {_SPELLING[self.name.lower()]!r}")
        cls = _CLASSES[self.name]
        allowed = [key for key in inspect.signature(cls).parameters if key not in ("params", "lr")]
        for key in self.args:
            if key == "lr":
                _refuse(f"args.lr is {self.args['lr']!r}; give the learning rate as `lr` beside `args`")
            if key not in allowed:
                _refuse(f"args.{key} is unknown to {self.name}; allowed: {', '.join(allowed)}{nearest(key, allowed)}")
        # The class judges the values itself, on a matrix of one element (Muon takes matrices only).
        probe = type(cls.__name__, (fused.QuietOptimizer, cls), {})
        try:
            probe([nn.Parameter(torch.zeros(1, 1))], lr=self.lr, **self.args)
        except Exception as error:  # classes trip over odd values in their own ways (KeyError, IndexError, ...)
            _refuse(f"args is {self.args}, which {self.name} refuses: {error}")
        return self

    def build(self, params: list[nn.Parameter]) -> Optimizer:
        """Raises ConfigError where the class does not take these parameters (Muon: matrices only)."""
        try:
            return _CLASSES[self.name](params, lr=self.lr, **self.args)  # type: ignore[call-arg]
        except (ValueError, TypeError, RuntimeError) as error:
            message = f"optim.name is {self.name!r}, which does not take this model's parameters: {error}"
            raise ConfigError(message) from error


def _refuse(message: str) -> None:
    raise PydanticCustomError("torch_optim", "{message}", {"message": message.splitlines()[0]})


def _alias(name: str) -> type[Node] | None:
    """Also a name in the wrong case, so that the error can tell the right one."""
    return TorchOptim if name.lower() in _SPELLING else None


OPTIM = Choice("optim", OptimConfig, aliases=_alias, default="adamw", also=_CLASSES)
