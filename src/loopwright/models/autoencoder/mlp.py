"""Perceptrons that read and write each token by itself. Letters of shapes as in `parts.py`."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.autoencoder.parts import Decoder, Encoder, TokenShape
from loopwright.models.base import Noise
from loopwright.models.mlp import GELU, MLP

Widths = tuple[Annotated[int, Field(ge=1)], ...]


class TypedTokens(nn.Module):
    """A token's vectors joined with the embedding of its type: (B, T, D), types (B, T) -> (B, T, D + `type_width`)."""

    def __init__(self, num_types: int, type_width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_types, type_width)

    def forward(self, x_BTD: Tensor, types_BT: Tensor, *more_BTD: Tensor) -> Tensor:
        return torch.cat([self.table(types_BT), x_BTD, *more_BTD], -1)


class TokenMLP(nn.Module):
    """The same perceptron for every token: (B, T, `num_inputs`) and types -> (B, T, `num_outputs`)."""

    def __init__(self, num_inputs: int, num_outputs: int, num_types: int, hidden: Widths, type_width: int) -> None:
        super().__init__()
        self.typed = TypedTokens(num_types, type_width)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((num_inputs + type_width, *hidden)):
            layers += [nn.Linear(fan_in, fan_out), GELU()]
        self.layers = MLP(*layers, nn.Linear((num_inputs + type_width, *hidden)[-1], num_outputs))

    def forward(self, x_BTD: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        return self.layers(self.typed(x_BTD, types_BT))  # type: ignore[no-any-return]


@register("task/encoder", "mlp")
class MLPEncoder(Encoder):
    """A perceptron that sees one token at a time."""

    name: Literal["mlp"] = "mlp"
    hidden: Widths = setting((128, 128), "widths of the hidden layers")
    type_width: int = setting(8, "width of the embedding of a token's type", ge=1)

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(tokens_BTF, types_BT) -> z_BTL with L = `width`."""
        return TokenMLP(shape.num_features, width, shape.num_types, self.hidden, self.type_width)


@register("task/decoder", "mlp")
class MLPDecoder(Decoder):
    """A perceptron that writes one token at a time from its latent vector and its type."""

    name: Literal["mlp"] = "mlp"
    hidden: Widths = setting((128, 128), "widths of the hidden layers")
    type_width: int = setting(8, "width of the embedding of a token's type", ge=1)

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(z_BTL, types_BT) -> tokens_BTF."""
        return TokenMLP(width, shape.num_features, shape.num_types, self.hidden, self.type_width)
