"""What of a sample is real, and means over it. Letters of shapes as in `parts.py`; D is any width."""

from __future__ import annotations

from torch import Tensor


def is_real(types_BT: Tensor) -> Tensor:
    """True where a token is one, False where it is padding (type 0)."""
    return types_BT != 0


def mean_of_real(x_BTD: Tensor, types_BT: Tensor) -> Tensor:
    """The mean (B, D) over a sample's real tokens; 0 for a sample that has none."""
    real = is_real(types_BT)
    total = x_BTD.masked_fill(~real.unsqueeze(-1), 0.0).sum(1)
    return total / real.sum(1, keepdim=True).clamp(min=1)
