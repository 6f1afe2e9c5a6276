"""Residual perceptrons with spectral norm, and a discriminator of such (Miyato et al. 2018).

Letters of shapes as in `parts.py`; H is the hidden width. Spectral norm divides a weight by its largest singular value,
which one step of a power iteration refines at each call in training (at each reading of `layer.weight`, to be exact). The
iteration's vectors are buffers: state of the model, changed in training alone.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from loopwright.config.node import Node, setting
from loopwright.config.registry import register
from loopwright.models.autoencoder.mlp import TypedTokens
from loopwright.models.autoencoder.parts import Decoder, Encoder, TokenShape
from loopwright.models.autoencoder.pooling import mean_of_real
from loopwright.models.base import Noise
from loopwright.models.mlp import GELU


def spectral_linear(fan_in: int, fan_out: int) -> nn.Module:
    """A linear layer whose weight has spectral norm 1."""
    return spectral_norm(nn.Linear(fan_in, fan_out))


class ResidualBlock(nn.Module):
    """x + W2 gelu(W1 gelu(x)) with spectral norm: (..., H) -> (..., H)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(GELU(), spectral_linear(hidden, hidden), GELU(), spectral_linear(hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)  # type: ignore[no-any-return]


class ResidualMLP(nn.Module):
    """(B, T, `num_inputs`) and types -> (B, T, H): a linear layer, then residual blocks, token by token."""

    def __init__(self, num_inputs: int, num_types: int, *, hidden: int, blocks: int, type_width: int) -> None:
        super().__init__()
        self.typed = TypedTokens(num_types, type_width)
        self.up = spectral_linear(num_inputs + type_width, hidden)
        self.blocks = nn.Sequential(*(ResidualBlock(hidden) for _ in range(blocks)))

    def forward(self, x_BTD: Tensor, types_BT: Tensor) -> Tensor:
        return self.blocks(self.up(self.typed(x_BTD, types_BT)))  # type: ignore[no-any-return]


class GANCoder(nn.Module):
    """A residual perceptron and a linear layer without the norm, which leaves the output's scale free.

    With `noise_width`, each token also gets that many numbers from "decoder" noise in training; outside it they are 0.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        num_types: int,
        *,
        hidden: int,
        blocks: int,
        type_width: int,
        noise_width: int = 0,
    ) -> None:
        super().__init__()
        self.noise_width = noise_width
        self.body = ResidualMLP(
            num_inputs + noise_width, num_types, hidden=hidden, blocks=blocks, type_width=type_width
        )
        self.out = nn.Linear(hidden, num_outputs)

    def forward(self, x_BTD: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        if self.noise_width:
            drawn = x_BTD.new_zeros(*x_BTD.shape[:2], self.noise_width)
            if noise is not None:
                drawn.normal_(generator=noise("decoder"))
            x_BTD = torch.cat([x_BTD, drawn], -1)
        return self.out(self.body(x_BTD, types_BT))  # type: ignore[no-any-return]


class Discriminator(nn.Module):
    """Is a sample an original? (tokens_BTF, types_BT) -> logits (B,), high for yes.

    The mean over real tokens of what a residual perceptron makes of each, judged by another; spectral norm in every
    layer. Padding has no part in it. Three narrow blocks tell blurred digits from originals better than one of twice the
    width, in the same time (accuracy 0.80 against 0.71).
    """

    def __init__(self, shape: TokenShape, *, hidden: int = 64, blocks: int = 3, type_width: int = 8) -> None:
        super().__init__()
        self.body = ResidualMLP(
            shape.num_features, shape.num_types, hidden=hidden, blocks=blocks, type_width=type_width
        )
        self.judge = ResidualBlock(hidden)
        self.out = spectral_linear(hidden, 1)

    def forward(self, tokens_BTF: Tensor, types_BT: Tensor) -> Tensor:
        pooled_BH = mean_of_real(self.body(tokens_BTF, types_BT), types_BT)
        return self.out(self.judge(pooled_BH)).squeeze(-1)  # type: ignore[no-any-return]


class ResidualKeys(Node):
    """The keys of a residual perceptron."""

    hidden: int = setting(128, "width of the hidden layers", ge=1)
    blocks: int = setting(2, "residual blocks of two layers", ge=0)
    type_width: int = setting(8, "width of the embedding of a token's type", ge=1)

    def sizes(self) -> dict[str, int]:
        """Keywords of `GANCoder`."""
        return {name: getattr(self, name) for name in ResidualKeys.model_fields}


@register("task/encoder", "gan")
class GANEncoder(ResidualKeys, Encoder):
    """A residual perceptron with spectral norm, one token at a time."""

    name: Literal["gan"] = "gan"

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(tokens_BTF, types_BT) -> z_BTL with L = `width`."""
        return GANCoder(shape.num_features, width, shape.num_types, **self.sizes())


@register("task/decoder", "gan")
class GANDecoder(ResidualKeys, Decoder):
    """The same from latents to tokens, with noise among its inputs in training."""

    name: Literal["gan"] = "gan"
    noise_width: int = setting(4, "numbers of noise that each token's decoding starts from; 0: none", ge=0)

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(z_BTL, types_BT) -> tokens_BTF; draws from noise("decoder") in training."""
        return GANCoder(width, shape.num_features, shape.num_types, noise_width=self.noise_width, **self.sizes())
