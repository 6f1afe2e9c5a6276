"""Tasks for tests: a step that draws from everywhere, a GAN, a model without parameters, an average of the weights.

A recipe names them by import path (`support.tasks:GanConfig`), so that nothing is added to the registry.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, Sampler

from loopwright.config.node import Node, setting
from loopwright.config.registry import imports_allowed
from loopwright.config.schema import Recipe, parse
from loopwright.data.tensors import TensorLoader
from loopwright.engine.loss import Loss
from loopwright.engine.task import At, Direction, Split, Sums, Task
from loopwright.models.dropout import Dropout
from loopwright.streams import Streams
from loopwright.tasks.base import TaskConfig

SIZES: dict[Split, int] = {"train": 22, "val": 10, "test": 6}


def recipe(task: str = "Noisy", **tree: Any) -> Recipe:
    """A recipe of one of these tasks: 22 samples in batches of 4 are 6 steps an epoch, the last batch a short one."""
    given = tree.pop("task", {})
    path = task if ":" in task else f"support.tasks:{task}"
    defaults = {"task": {"name": f"{path}Config", **given}, "device": "cpu", "plots": "none", "seed": 3}
    train = {"epochs": 3, "batch_size": 4, **tree.pop("train", {})}
    record = {"code": False, **tree.pop("record", {})}
    with imports_allowed(None):
        return parse({**defaults, "optim": {"name": "adam", "lr": 0.05}, "train": train, "record": record, **tree})


def data(split: Split, num_features: int = 3) -> tuple[Tensor, Tensor]:
    """A linear target with some noise: x (N, features), y (N, 1)."""
    generator = Streams(0).generator("test data", split)
    x = torch.randn(SIZES[split], num_features, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.1 * torch.randn(SIZES[split], 1, generator=generator)


class InMemory(Task):
    """The splits of `data`; the training split shuffled."""

    metrics: Mapping[str, Direction] = {"loss": "min"}

    def __init__(self, batch_size: int, streams: Streams) -> None:
        self.loaders = {
            split: TensorLoader(data(split), batch_size, streams if split == "train" else None) for split in SIZES
        }

    def loader(self, split: Split) -> TensorLoader:
        return self.loaders[split]

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x, y = batch
        error = model(x) - y
        return {"loss": (error.square().sum(), len(y))}


class Config(TaskConfig):
    """What the configurations below share: `task` is the class they build."""

    models: ClassVar[type[Node] | None] = None
    task: ClassVar[type[InMemory]]
    name: str = setting(..., "import path")

    def metrics(self) -> Mapping[str, Direction]:
        return self.task.metrics

    def build(self, model: Node | None, *, batch_size: int, streams: Streams, device: torch.device) -> Task:
        return self.task(batch_size, streams)


class NoisyNet(nn.Module):
    """Dropout by address and torch's own, and a batch normalisation, whose statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(3, 8), nn.Linear(8, 1)
        self.norm, self.own, self.torchs = nn.BatchNorm1d(8), Dropout(0.2, "dropout/0"), nn.Dropout(0.2)

    def forward(self, x: Tensor, noise: Any = None) -> Tensor:
        return self.out(self.torchs(self.own(torch.tanh(self.norm(self.into(x))), noise)))


class Noisy(InMemory):
    """Every source of randomness a step can have: addressed noise, and the global generators of torch, NumPy, Python."""

    metrics: Mapping[str, Direction] = {"loss": "min", "within": "max"}

    def build_model(self) -> nn.Module:
        return NoisyNet()

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x, y = batch
        x = x + 0.1 * torch.randn(x.shape, generator=at.generator("input noise")) + 0.1 * torch.randn(x.shape)
        x = x + 0.1 * float(np.random.randn()) + 0.1 * random.gauss(0.0, 1.0)
        error = (model(x, at.generator) - y).square()
        yield Loss(error.mean(), len(y), parts={"largest": (error.detach().amax() * len(y), len(y))})

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x, y = batch
        error = (model(x) - y).square()
        return {"loss": (error.sum(), len(y)), "within": ((error < 1).sum(), len(y))}


class NoisyConfig(Config):
    task = Noisy


class Plain(InMemory):
    """A linear model and nothing random but the order."""

    def build_model(self) -> nn.Module:
        return nn.Linear(3, 1)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        x, y = batch
        yield Loss(F.mse_loss(model(x), y), len(y))


class PlainConfig(Config):
    task = Plain


class Adversaries(nn.Module):
    """A generator of points like x from noise, and a critic that tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


class Gan(InMemory):
    """Two optimizers: the critic's update, then the generator's against the updated critic, in one step."""

    metrics: Mapping[str, Direction] = {"loss": "min"}

    def build_model(self) -> nn.Module:
        return Adversaries()

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        assert isinstance(model, Adversaries)
        return {"critic": model.critic.parameters(), "generator": model.generator.parameters()}

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        assert isinstance(model, Adversaries)
        x, _ = batch
        fake = model.generator(torch.randn(len(x), 2, generator=at.generator("latent")))
        # `fake` keeps its graph: without the engine's `inputs=` this loss would also reach the generator.
        yield Loss(F.softplus(-model.critic(x)).mean() + F.softplus(model.critic(fake)).mean(), len(x), group="critic")
        yield Loss(F.softplus(-model.critic(fake)).mean(), len(x), group="generator")

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        assert isinstance(model, Adversaries)
        x, _ = batch
        return {"loss": (F.softplus(-model.critic(x)).sum(), len(x))}


class GanConfig(Config):
    task = Gan


class Thirds(nn.Module):
    """Three linear models, a group each."""

    def __init__(self) -> None:
        super().__init__()
        self.critic, self.generator, self.backbone = (nn.Linear(3, 1) for _ in range(3))


class Late(InMemory):
    """Updates that do not come in every step, and what is measured only later.

    The critic has two updates a step, of half the batch and of all of it; the generator one in every fifth step, with a
    part `adv`; the backbone one from epoch 2 on. `sharpness` is measured from epoch 2 on, nobody says it before.
    """

    metrics: Mapping[str, Direction] = {"loss": "min"}

    def build_model(self) -> nn.Module:
        return Thirds()

    def groups(self, model: nn.Module) -> Mapping[str, Iterable[nn.Parameter]]:
        return {name: part.parameters() for name, part in model.named_children()}

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        assert isinstance(model, Thirds)
        x, y = batch
        for few in (len(y) // 2, len(y)):
            error = (model.critic(x[:few]) - y[:few]).square()
            yield Loss(error.mean(), few, {"largest": (error.detach().max() * few, few)}, "critic")
        if at.step % 5 == 0:
            error = (model.generator(x) - model.critic(x).detach()).square()
            yield Loss(error.mean(), len(y), {"adv": (error.detach().sum(), len(y))}, "generator")
        if at.epoch >= 2:
            yield Loss(F.l1_loss(model.backbone(x), y), len(y), group="backbone")

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        assert isinstance(model, Thirds)
        x, y = batch
        late = {"sharpness": (model.generator(x).abs().sum(), len(y))} if at.epoch >= 2 else {}
        return {"loss": ((model.critic(x) - y).square().sum(), len(y)), **late}


class LateConfig(Config):
    task = Late


class Constant(nn.Module):
    """No parameters; predicts a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("guess", torch.tensor(0.5))


class Parameterless(InMemory):
    """A loss that is only logged."""

    def build_model(self) -> nn.Module:
        return Constant()

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        _, y = batch
        # Quarters add up exactly in any order, so every epoch has the same loss to the bit.
        yield Loss((y.sign() - model.guess).square().mean() * 0 + 0.25, len(y))  # type: ignore[operator]

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        _, y = batch
        return {"loss": ((y.sign() - model.guess).square().sum(), len(y))}  # type: ignore[operator]


class ParameterlessConfig(Config):
    task = Parameterless


class Averaged(nn.Module):
    """A linear model, and an average of its weights in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.register_buffer("weight", self.net.weight.detach().clone())
        self.register_buffer("bias", self.net.bias.detach().clone())


class Ema(InMemory):
    """What follows the yield runs after the update: there the average takes the updated weights in."""

    def build_model(self) -> nn.Module:
        return Averaged()

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        assert isinstance(model, Averaged)
        x, y = batch
        yield Loss(F.mse_loss(model.net(x), y), len(y))
        with torch.no_grad():
            for name, weight in model.net.named_parameters():
                getattr(model, name).lerp_(weight, 0.25)

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        assert isinstance(model, Averaged)
        x, y = batch
        averaged = F.linear(x, model.weight, model.bias)  # type: ignore[arg-type]
        return {"loss": ((averaged - y).square().sum(), len(y))}


class EmaConfig(Config):
    task = Ema


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """A user's data set that draws from the global generators of torch, NumPy and Python for every item."""

    def __init__(self, split: Split = "train") -> None:
        self.x, self.y = data(split)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        shift = 0.1 * torch.randn(3) + 0.1 * float(np.random.randn()) + 0.1 * random.gauss(0.0, 1.0)
        return self.x[index] + shift, self.y[index]


class Streamed(IterableDataset[tuple[Tensor, Tensor]]):
    """The same without an index."""

    def __init__(self) -> None:
        self.items = Augmented()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.items[index] for index in range(len(self.items)))


class EveryOther(Sampler[int]):
    """A custom sampler: a random half of the samples, drawn from the global generators of torch and Python."""

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples

    def __len__(self) -> int:
        return self.num_samples // 2

    def __iter__(self) -> Iterator[int]:
        rows = torch.randperm(self.num_samples).tolist()[: len(self)]
        random.shuffle(rows)
        return iter(rows)


class Counting(Plain):
    """What it measures beside the loss has no better and no worse, and its monitor is one of these."""

    metrics: Mapping[str, Direction | None] = {"loss": "min", "large": None}  # type: ignore[assignment]
    monitor = "large"

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        return {**super().measure(model, batch, at), "large": ((model(batch[0]).abs() > 1).sum(), 1)}


class CountingConfig(Config):
    monitor: ClassVar[str] = "large"
    task = Counting
