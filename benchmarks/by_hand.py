"""The loop everyone writes: a DataLoader over a TensorDataset, torch's default Adam, `.item()` at every step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from loopwright.streams import Streams


class Replay(Sampler[int]):
    """Loopwright's addressed order of every epoch, so that both sides see the same batches."""

    def __init__(self, seed: int, num_samples: int) -> None:
        self.streams, self.num_samples, self.epoch = Streams(seed), num_samples, 0

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        order = self.streams.numpy("order", self.epoch).permutation(self.num_samples).tolist()
        self.epoch += 1
        return iter(order)


def train(
    model: nn.Module, criterion: nn.Module, data: tuple[Tensor, Tensor], *, epochs: int, batch_size: int, lr: float
) -> list[float]:
    """The mean training loss of every epoch."""
    loader = DataLoader(TensorDataset(*data), batch_size=batch_size, sampler=Replay(0, len(data[0])))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    history = []
    for _ in range(epochs):
        total, seen = 0.0, 0
        for x, y in loader:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
            seen += len(x)
        history.append(total / seen)
    return history
