"""Message passing over the fully connected graph of a sample's tokens. Letters of shapes as in `parts.py`.

H is the width of a node's state, M that of a message. A message from token j to token i is W relu(a_i + b_j) with a_i
and b_j linear in the two states: the first layer of a perceptron on the pair (h_i, h_j) falls into these two terms, and
what is linear after the relu is done once per token instead of once per pair.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from loopwright.config.node import Node, setting
from loopwright.config.registry import register
from loopwright.models.autoencoder.mlp import TypedTokens
from loopwright.models.autoencoder.parts import Decoder, Encoder, TokenShape
from loopwright.models.autoencoder.pooling import is_real
from loopwright.models.base import Noise
from loopwright.models.mlp import GELU


class MessagePassing(nn.Module):
    """One round: every token reads the mean message of all real tokens of its sample, itself among them.

    h_i + W2 gelu(W1 [n_i, mean_j relu(A n_i + B n_j)]) with n = LayerNorm(h): (B, T, H) -> (B, T, H).
    """

    def __init__(self, hidden: int, messages: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.ends = nn.Linear(hidden, 2 * messages)
        self.up = nn.Linear(hidden + messages, hidden)
        self.activation = GELU()
        self.down = nn.Linear(hidden, hidden)

    def forward(self, h_BTH: Tensor, real_BT: Tensor) -> Tensor:
        normed = self.norm(h_BTH)
        to_BTM, from_BTM = self.ends(normed).chunk(2, -1)
        # relu(-inf) is 0, and so is its gradient: padding sends nothing.
        from_BTM = from_BTM.masked_fill(~real_BT.unsqueeze(-1), -torch.inf)
        pairs_BTTM = (to_BTM.unsqueeze(2) + from_BTM.unsqueeze(1)).relu_()
        heard_BTM = pairs_BTTM.sum(2) / real_BT.sum(1).clamp(min=1)[:, None, None]
        return h_BTH + self.down(self.activation(self.up(torch.cat([normed, heard_BTM], -1))))  # type: ignore[no-any-return]


class TokenGNN(nn.Module):
    """Rounds of message passing between a linear layer and another: (B, T, D) and types -> (B, T, `num_outputs`).

    Permuting the tokens of a sample permutes what comes out, and nothing else.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        num_types: int,
        *,
        hidden: int,
        messages: int,
        rounds: int,
        type_width: int,
    ) -> None:
        super().__init__()
        self.typed = TypedTokens(num_types, type_width)
        self.up = nn.Linear(num_inputs + type_width, hidden)
        self.rounds = nn.ModuleList(MessagePassing(hidden, messages) for _ in range(rounds))
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, num_outputs)

    def forward(self, x_BTD: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        real_BT = is_real(types_BT)
        h = self.up(self.typed(x_BTD, types_BT))
        for message_passing in self.rounds:
            h = message_passing(h, real_BT)
        return self.out(self.norm(h))  # type: ignore[no-any-return]


class MessageKeys(Node):
    """The keys of a network of messages."""

    hidden: int = setting(64, "width of a token's state", ge=1)
    messages: int = setting(32, "width of a message between two tokens", ge=1)
    rounds: int = setting(2, "rounds of message passing", ge=1)
    type_width: int = setting(8, "width of the embedding of a token's type", ge=1)

    def sizes(self) -> dict[str, int]:
        """Keywords of `TokenGNN` and of whatever is made of one."""
        return {name: getattr(self, name) for name in MessageKeys.model_fields}


@register("task/encoder", "gnn")
class GNNEncoder(MessageKeys, Encoder):
    """Message passing: a token's latent knows the other tokens of its sample."""

    name: Literal["gnn"] = "gnn"

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(tokens_BTF, types_BT) -> z_BTL with L = `width`."""
        return TokenGNN(shape.num_features, width, shape.num_types, **self.sizes())


@register("task/decoder", "gnn")
class GNNDecoder(MessageKeys, Decoder):
    """Message passing: a token is written in the light of the other latents of its sample."""

    name: Literal["gnn"] = "gnn"

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(z_BTL, types_BT) -> tokens_BTF."""
        return TokenGNN(width, shape.num_features, shape.num_types, **self.sizes())
