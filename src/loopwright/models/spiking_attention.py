"""Self-attention between spikes: products of counts, without a softmax (Zhou et al. 2023, Spikformer, equation 6).

Shape letters: T steps of the simulation, B batch, W window, D model width, H attention heads, E = D / H, R = T x B.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class _Attend(torch.autograd.Function):
    """Q, K, V side by side (R, W, 3, H, E) -> (Q K^T) V / sqrt(E) of each head, side by side (R, W, H, E).

    torch's own backward copies every operand of every product into rows of its own and joins the three gradients once
    more; here each is laid out once and written where it belongs.
    """

    @staticmethod
    def forward(ctx: Any, qkv_RW3HE: Tensor) -> Tensor:
        rows, window, _, heads, width = qkv_RW3HE.shape
        qkv = qkv_RW3HE.permute(2, 0, 3, 1, 4).contiguous().flatten(1, 2)
        q, k, v = qkv.unbind()
        scores = torch.bmm(q, k.transpose(1, 2))
        ctx.save_for_backward(qkv, scores)
        counts_RHWE = torch.bmm(scores, v).view(rows, heads, window, width)
        # In memory of its own, where for one head a transposed view would do: neurons overwrite the current they are given.
        out_RWHE = counts_RHWE.new_empty(rows, window, heads, width)
        return torch.div(counts_RHWE.transpose(1, 2), math.sqrt(width), out=out_RWHE)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_RWHE: Tensor) -> Tensor:
        qkv, scores = ctx.saved_tensors
        rows, window, heads, width = d_RWHE.shape
        q, k, v = qkv.unbind()
        d_out = d_RWHE.new_empty(rows, heads, window, width)
        d_out = torch.div(d_RWHE.transpose(1, 2), math.sqrt(width), out=d_out).flatten(0, 1)
        d_qkv = torch.empty_like(qkv)
        torch.bmm(scores.transpose(1, 2), d_out, out=d_qkv[2])
        d_scores = torch.bmm(d_out, v.transpose(1, 2))
        torch.bmm(d_scores, k, out=d_qkv[0])
        torch.bmm(d_scores.transpose(1, 2), q, out=d_qkv[1])
        return d_qkv.view(3, rows, heads, window, width).permute(1, 3, 0, 2, 4).contiguous()


def attend(qkv_TBWD: Tensor, heads: int) -> Tensor:
    """Spikes Q, K, V side by side (T, B, W, 3 D) -> counts (Q K^T) V / sqrt(E) of all heads (T, B, W, D)."""
    steps, batch, window, _ = qkv_TBWD.shape
    qkv = qkv_TBWD.reshape(steps * batch, window, 3, heads, -1)
    if (
        torch.is_autocast_enabled(qkv.device.type)
        or torch._C._are_functorch_transforms_active()
        or torch.compiler.is_compiling()
    ):
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        counts = (q @ k.transpose(-2, -1) @ v).transpose(1, 2) / math.sqrt(q.shape[-1])
    else:
        counts = _Attend.apply(qkv)  # type: ignore[no-untyped-call]
    return counts.reshape(steps, batch, window, -1)
