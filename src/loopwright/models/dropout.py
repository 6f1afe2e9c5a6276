"""Dropout whose mask comes from an address, so that nothing else that draws can shift it."""

from __future__ import annotations

from torch import Tensor, nn

from loopwright.models.base import Noise


class Dropout(nn.Module):
    """Zero each element with probability `p` and scale the rest by 1 / (1 - p); identity in evaluation mode.

    In training mode the mask is drawn from `noise(purpose)`, a generator on x's device, or from torch's global
    generator where `noise` is None. Two layers of one model need two purposes: the same address gives the same mask.
    Raises ValueError unless 0 <= p < 1.
    """

    def __init__(self, p: float, purpose: str) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout is {p}; use a probability from 0 to below 1")
        self.p, self.purpose = p, purpose

    def forward(self, x: Tensor, noise: Noise = None) -> Tensor:
        if not self.training or self.p == 0:
            return x
        keep = 1 - self.p
        generator = None if noise is None else noise(self.purpose)
        return x * x.new_empty(x.shape).bernoulli_(keep, generator=generator).div_(keep)

    def extra_repr(self) -> str:
        return f"p={self.p}, purpose={self.purpose!r}"


def without_dropout(model: nn.Module) -> nn.Module:
    """Switch every dropout of a model off for good, torch's own layers included; returns the model."""
    for module in model.modules():
        if isinstance(module, Dropout | nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.RNNBase | nn.MultiheadAttention):
            module.dropout = 0.0
    return model
