"""Causal self-attention, and the cache of keys and values that generation extends token by token.

Shape letters: B batch, T tokens, D model width, H attention heads, E = D / H width of one attention head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeyValueCache:
    """Keys and values of the tokens a model has read, for `length` tokens of `batch` sequences, reserved at once.

    `filled` counts the tokens read so far, the same for every sequence. `Transformer.extend` writes it.
    """

    def __init__(
        self, layers: int, batch: int, heads: int, length: int, width: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        shape = (layers, batch, heads, length, width)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = length
        self.filled = 0

    def put(self, layer: int, keys_BHTE: Tensor, values_BHTE: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's keys and values behind the tokens read so far; returns all of that layer, as views."""
        end = self.filled + keys_BHTE.shape[2]
        self.keys[layer, :, :, self.filled : end] = keys_BHTE
        self.values[layer, :, :, self.filled : end] = values_BHTE
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class CausalSelfAttention(nn.Module):
    """x_BTD -> y_BTD: position t attends to positions 0..t (Vaswani et al. 2017, 3.2.2).

    Queries, keys and values come from one matrix product. There is no dropout inside the attention probabilities:
    torch would draw it from the global generator, which an addressed training must not depend on.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model is {d_model}, which {heads} heads do not divide")
        self.d_model, self.heads, self.width = d_model, heads, d_model // heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x_BTD: Tensor) -> Tensor:
        q, k, v = self._split(self.qkv(x_BTD))
        return self._join(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    def last(self, x_BTD: Tensor) -> Tensor:
        """y (B, 1, D) of the last position alone, without anybody's key or value.

        For one query q, q (W_k x_j + b_k) = (W_k^T q) x_j + a constant that the softmax cancels, and
        sum_j a_j (W_v x_j + b_v) = W_v (sum_j a_j x_j) + b_v: two products per window instead of two per position.
        """
        w_q, w_k, w_v = self.qkv.weight.view(3, self.heads, self.width, self.d_model)
        b_q, _, b_v = self.qkv.bias.view(3, self.heads, self.width)
        q_HBE = torch.baddbmm(b_q[:, None], x_BTD[:, -1].expand(self.heads, -1, -1), w_q.transpose(1, 2))
        seek_BHD = (q_HBE @ w_k).transpose(0, 1)
        attention_BHT = (seek_BHD @ x_BTD.transpose(1, 2) / math.sqrt(self.width)).softmax(-1)
        found_HBD = (attention_BHT @ x_BTD).transpose(0, 1)
        y_HBE = torch.baddbmm(b_v[:, None], found_HBD, w_v.transpose(1, 2))
        return self.out(y_HBE.transpose(0, 1).flatten(1))[:, None]  # type: ignore[no-any-return]

    def extend(self, x_BTD: Tensor, cache: KeyValueCache, layer: int) -> Tensor:
        """y of tokens that follow those in the cache; writes their keys and values into it."""
        q, k, v = self._split(self.qkv(x_BTD))
        keys, values = cache.put(layer, k, v)
        num_new, num_all = q.shape[2], keys.shape[2]
        if num_new == 1 or num_new == num_all:
            return self._join(F.scaled_dot_product_attention(q, keys, values, is_causal=num_new > 1))
        seen = torch.ones(num_new, num_all, dtype=torch.bool, device=q.device).tril(num_all - num_new)
        return self._join(F.scaled_dot_product_attention(q, keys, values, attn_mask=seen))

    def traced(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y_BTD with the attention map (B, H, T, T), whose rows are the positions that attend, and the values."""
        q, k, v = self._split(self.qkv(x_BTD))
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)
        attention = scores.softmax(-1)
        return self._join(attention.to(v.dtype) @ v), attention, v

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, T, n D) -> n tensors (B, H, T, E), views without a copy."""
        batch, tokens, width = x.shape
        return x.view(batch, tokens, width // self.d_model, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind()

    def _join(self, y_BHTE: Tensor) -> Tensor:
        return self.out(y_BHTE.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
