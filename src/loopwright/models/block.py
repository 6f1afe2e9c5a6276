"""One pre-norm block of a transformer. Shape letters: B batch, T tokens, D model width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.models.attention import CausalSelfAttention
from loopwright.models.base import Noise
from loopwright.models.dropout import Dropout


class Block(nn.Module):
    """x + attention(LayerNorm(x)), then x + MLP(LayerNorm(x)), with dropout on both branches."""

    def __init__(self, d_model: int, heads: int, mlp: int, dropout: float, index: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model)
        self.attention = CausalSelfAttention(d_model, heads)
        self.attention_dropout = Dropout(dropout, f"dropout/{index}/attention")
        self.mlp_norm = nn.LayerNorm(d_model)
        self.up = nn.Linear(d_model, mlp)
        self.down = nn.Linear(mlp, d_model)
        self.mlp_dropout = Dropout(dropout, f"dropout/{index}/mlp")

    def forward(self, x_BTD: Tensor, noise: Noise = None) -> Tensor:
        return self.rest(x_BTD, self.attention(self.attention_norm(x_BTD)), noise)

    def rest(self, x_BTD: Tensor, attended_BTD: Tensor, noise: Noise = None) -> Tensor:
        """What follows the attention: its residual, then the MLP's."""
        x = x_BTD + self.attention_dropout(attended_BTD, noise)
        return x + self.mlp_dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))), noise)  # type: ignore[no-any-return]

    def rest_in_place(self, x_BTD: Tensor, attended_BTD: Tensor) -> Tensor:
        """`rest` without dropout and without gradients, in the memory of what it is given and computes.

        A large tensor made anew costs up to four times its GELU in page faults.
        """
        x = attended_BTD.add_(x_BTD)
        return self.down(torch.ops.aten.gelu_(self.up(self.mlp_norm(x)))).add_(x)  # type: ignore[no-any-return]
