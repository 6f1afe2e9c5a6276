"""Latent spaces without codes: the encoding as it is, or a linear map of it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from loopwright.config.registry import register
from loopwright.models.autoencoder.parts import Coded, Latent, Space
from loopwright.models.base import Noise


class Unchanged(Space):
    """The encoding is the latent."""

    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Noise = None) -> Coded:
        return Coded(z_BTL, z_BTL.new_zeros(()))


class LinearMap(Space):
    """The latent is a linear map of the encoding, of the same width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Noise = None) -> Coded:
        return Coded(self.map(z_BTL), z_BTL.new_zeros(()))


@register("task/latent", "none")
class NoLatent(Latent):
    """What the encoder gives is what the decoder gets."""

    name: Literal["none"] = "none"

    def build(self, width: int) -> Space:
        return Unchanged()


@register("task/latent", "linear")
class LinearLatent(Latent):
    """One linear layer between encoder and decoder."""

    name: Literal["linear"] = "linear"

    def build(self, width: int) -> Space:
        return LinearMap(width)
