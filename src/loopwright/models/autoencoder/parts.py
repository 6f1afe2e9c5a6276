"""What the parts of an autoencoder promise: encoder, latent space, decoder; each a choice by name.

Letters of shapes: B samples, T tokens of a sample, F features of a token, L width of the latent, K codes.

`types_BT` are the tokens' type ids; type 0 is padding. A part sees real tokens only: what it returns for a real token does
not depend on how much padding a sample has, and what it returns for padding is of no account.
`noise` is as everywhere (`models/base.py`): `noise(purpose)` is a generator in training, None outside it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from loopwright.config.node import Node
from loopwright.engine.task import Metrics


class TokenShape(NamedTuple):
    """The sizes that the data decide. `num_types` counts padding; a data set without globals has `num_globals` 0."""

    num_tokens: int
    num_features: int
    num_types: int
    num_globals: int


class Encoder(Node):
    """A choice of `task/encoder`."""

    @abstractmethod
    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """A freshly initialised module: forward(tokens_BTF, types_BT, noise=None) -> z_BTL with L = `width`."""


class Decoder(Node):
    """A choice of `task/decoder`.

    Where `denoises`, the module is a denoiser instead: forward(noisy_BTF, timestep_B, types_BT, z_BTL) -> the noise in
    `noisy_BTF` (B, T, F). `timestep_B` are whole numbers from 0.
    """

    denoises: ClassVar[bool] = False

    @abstractmethod
    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """A freshly initialised module: forward(z_BTL, types_BT, noise=None) -> tokens_BTF."""


class Coded(NamedTuple):
    """What a latent space makes of an encoding.

    `penalty` is a scalar that is added to the loss, weighted already; `parts` are its parts as (sum, count), unweighted, for
    the record; `codes_BT` are the numbers of the codes (-1 for padding) where the space has any.
    """

    z_BTL: Tensor
    penalty: Tensor
    parts: Mapping[str, tuple[Tensor, int]] = {}
    codes_BT: Tensor | None = None


class Space(nn.Module):
    """The module of a latent space; `num_codes` is 0 where it is continuous."""

    num_codes: int = 0

    @abstractmethod
    def forward(self, z_BTL: Tensor, types_BT: Tensor, noise: Any = None) -> Coded:
        """Where an encoding lies in this space. Changes nothing, in training neither."""

    def settle(self, z_BTL: Tensor) -> Tensor:
        """The nearest place that this space allows: for latents that did not come from the encoder."""
        return z_BTL

    def update(self, z_BTL: Tensor, coded: Coded) -> None:
        """What the space learns from an encoding by itself, no gradient asked; called once a step, after its updates."""


class Latent(Node):
    """A choice of `task/latent`."""

    def metrics(self) -> Metrics:
        """What the task reports of this space: the penalty's parts, `perplexity` and `dead_codes` where it has codes."""
        return {}

    @abstractmethod
    def build(self, width: int) -> Space:
        """A freshly initialised space of `width` dimensions."""
