"""Scores by how often, and how lately, each feature was on in the window; nothing to train."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.base import Noise, SequenceModel


class Frequency(nn.Module):
    """scores_BF = sum over t of (freq_weight + recency_weight x decay^(W-1-t)) x_BWF; no parameters."""

    weight_W: Tensor

    def __init__(self, window: int, freq_weight: float, recency_weight: float, decay: float) -> None:
        super().__init__()
        age = torch.arange(window - 1, -1, -1, dtype=torch.float64)
        weight = freq_weight + recency_weight * decay**age
        # Derived from the configuration, so not part of the state dict: an untrained model has an empty one.
        self.register_buffer("weight_W", weight.to(torch.get_default_dtype()), persistent=False)

    def forward(self, x_BWF: Tensor, noise: Noise = None) -> Tensor:
        # One time step after the other: a matrix product, or sum(1), adds some features in another order (the tail of a
        # vector), and features with the same past would not tie to the bit.
        scores_BF = torch.zeros_like(x_BWF[:, 0])
        for x_BF, weight in zip(x_BWF.unbind(1), self.weight_W.unbind(), strict=True):
            scores_BF = scores_BF + x_BF * weight
        return scores_BF


@register("model", "frequency")
class FrequencyConfig(SequenceModel):
    """A baseline without parameters: counts over the window plus an exponentially decaying recency."""

    name: Literal["frequency"] = "frequency"
    freq_weight: float = setting(1.0, "weight of the count over the window")
    recency_weight: float = setting(1.0, "weight of the sum of decay^age over the window")
    decay: float = setting(0.9, "decay of the recency per event, above 0 and at most 1", gt=0, le=1)

    def build(self, num_features: int, window: int) -> nn.Module:
        """(B, window, num_features) -> (B, num_features); works for any number of features."""
        return Frequency(window, self.freq_weight, self.recency_weight, self.decay)
