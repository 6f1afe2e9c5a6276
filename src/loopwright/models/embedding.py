"""How tokens and positions become vectors. Shape letters: B batch, T tokens, D model width, V vocabulary, R rank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TokenEmbedding(nn.Embedding):
    """tokens_BT -> vectors_BTD by a table (V, D)."""

    def l1(self) -> Tensor:
        """0: there is no factor to penalise."""
        return self.weight.new_zeros(())


class FactorisedEmbedding(nn.Module):
    """tokens_BT -> vectors_BTD by the rows of U V, with U (V, R) and V (R, D)."""

    def __init__(self, vocab_size: int, d_model: int, rank: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.empty(vocab_size, rank))
        self.v = nn.Parameter(torch.empty(rank, d_model))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.u) @ self.v

    def l1(self) -> Tensor:
        """The sum of U's absolute entries."""
        return self.u.abs().sum()


def sinusoidal_positions(length: int, d_model: int) -> Tensor:
    """The table (length, D) of Vaswani et al. 2017, 3.5: sin and cos of t / 10000^(2i / D) in turn."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    rate = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * (-math.log(10_000) / d_model))
    table = torch.empty(length, d_model, dtype=torch.float64)
    table[:, 0::2] = torch.sin(position * rate)
    table[:, 1::2] = torch.cos(position * rate[: d_model // 2])
    return table.to(torch.get_default_dtype())
