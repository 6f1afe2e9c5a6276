"""An encoder whose tokens look at each other; and a task: quantiles, by the pinball loss (Koenker and Bassett 1978)."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loopwright import At, Loss, Streams, Task
from loopwright.config.node import setting
from loopwright.data.tensors import TensorLoader
from loopwright.engine.task import Metrics, Split, Sums
from loopwright.models.autoencoder.parts import Encoder, TokenShape
from loopwright.models.base import Noise, VectorModel
from loopwright.tasks.base import TaskConfig


class Attentive(nn.Module):
    def __init__(self, shape: TokenShape, width: int, heads: int) -> None:
        super().__init__()
        self.into, self.types = nn.Linear(shape.num_features, 32), nn.Embedding(shape.num_types, 32)
        self.attention, self.out = nn.MultiheadAttention(32, heads, batch_first=True), nn.Linear(64, width)

    def forward(self, tokens_BTF: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        x = torch.tanh(self.into(tokens_BTF) + self.types(types_BT))
        seen, _ = self.attention(x, x, x, key_padding_mask=types_BT == 0, need_weights=False)
        return self.out(torch.cat([x, seen], -1))  # type: ignore[no-any-return]


class AttentiveConfig(Encoder):
    """One layer of self-attention over the real tokens."""

    name: str = "own_parts:AttentiveConfig"
    heads: int = setting(4, "attention heads, a divisor of 32", ge=1, le=32)

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        return Attentive(shape, width, self.heads)


class QuantilesConfig(TaskConfig):
    """Quantiles of a noisy sine; val_covered, the share of y between the outer two, should be what levels say."""

    models: ClassVar[Any] = VectorModel
    default_model: ClassVar[str | None] = "mlp"
    name: str = "own_parts:QuantilesConfig"
    levels: tuple[float, ...] = setting((0.1, 0.5, 0.9), "the quantiles to learn, in rising order", min_length=2)

    def metrics(self) -> Metrics:
        return {"loss": "min", "covered": None}  # None: neither more nor less is better

    def build(self, model: Any, *, batch_size: int, streams: Streams, device: torch.device) -> Task:
        return QuantilesTask(self, model, batch_size, streams.root, device)


class QuantilesTask(Task):
    def __init__(self, config: QuantilesConfig, model: Any, batch_size: int, seed: int, device: torch.device) -> None:
        self.model, self.batch_size, self.seed, self.metrics = model, batch_size, seed, config.metrics()
        x, noise = torch.randn(2, 3000, 1, generator=Streams(0).generator("points")).to(device)
        y, self.levels = x.sin() + (0.1 + 0.2 * x.abs()) * noise, torch.tensor(config.levels, device=device)
        self.rows = {"val": (x[:500], y[:500]), "test": (x[500:1000], y[500:1000]), "train": (x[1000:], y[1000:])}

    def build_model(self) -> nn.Module:
        return self.model.build(1, len(self.levels))  # type: ignore[no-any-return]

    def loader(self, split: Split) -> TensorLoader:
        return TensorLoader(self.rows[split], self.batch_size, Streams(self.seed) if split == "train" else None)

    def pinball(self, quantiles: Tensor, y: Tensor) -> Tensor:
        return torch.maximum(self.levels * (y - quantiles), (self.levels - 1) * (y - quantiles)).mean(1)

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        yield Loss(self.pinball(model(batch[0], at.generator), batch[1]).mean(), len(batch[1]))

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        quantiles, y = model(batch[0]), batch[1]
        covered = (y > quantiles[:, :1]) & (y < quantiles[:, -1:])
        return {"loss": (self.pinball(quantiles, y).sum(), len(y)), "covered": (covered.sum(), len(y))}
