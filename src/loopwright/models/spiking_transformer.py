"""A transformer of spiking neurons, whose attention has no softmax.

Shape letters: T steps of the simulation, B batch, W window, F features, D model width, H attention heads, E = D / H.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.base import Noise
from loopwright.models.dropout import Dropout
from loopwright.models.lif import LIF
from loopwright.models.spikes import Direct, Rate, Seen, SpikingConfig, SpikingModel, current, readout
from loopwright.models.spiking_attention import attend


class SpikingBlock(nn.Module):
    """s_TBWD -> s_TBWD, spikes to spikes: x = LIF(s + attention(s)), then LIF(x + feed-forward(x)).

    attention(s) = W_o LIF(Q (K^T V) / sqrt(E)) with Q, K, V = LIF(W_qkv s), all of them spikes (Zhou et al. 2023,
    Spikformer): products of 0 and 1 are counts, never negative, so there is nothing for a softmax to do, and either order
    of the two products gives the same bits. feed-forward(x) = W_down LIF(W_up x). Dropout acts on what enters a residual;
    its mask is the same at every step of the simulation, as a neuron that is missing is missing all the time.
    """

    def __init__(
        self, d_model: int, heads: int, d_ffn: int, dropout: float, index: int, beta: float, slope: float
    ) -> None:
        super().__init__()
        self.heads, self.index = heads, index
        self.qkv, self.out = current(d_model, 3 * d_model), current(d_model, d_model)
        self.up, self.down = current(d_model, d_ffn), current(d_ffn, d_model)
        self.qkv_neurons, self.head_neurons, self.attention_neurons = (LIF(beta, slope) for _ in range(3))
        self.hidden_neurons, self.feedforward_neurons = (LIF(beta, slope) for _ in range(2))
        self.attention_dropout = Dropout(dropout, f"dropout/{index}/attention")
        self.feedforward_dropout = Dropout(dropout, f"dropout/{index}/feedforward")

    def forward(self, s_TBWD: Tensor, noise: Noise, seen: Seen) -> Tensor:
        attended_TBWD = self.attention(s_TBWD, seen)
        x_TBWD = self.attention_neurons(_residual(s_TBWD, attended_TBWD, self.attention_dropout, noise), consume=True)
        seen(f"attention_{self.index}", x_TBWD)
        hidden = self.hidden_neurons(self.up(x_TBWD), consume=True)
        seen(f"hidden_{self.index}", hidden)
        fed_TBWD = self.down(hidden)
        out_TBWD = self.feedforward_neurons(_residual(x_TBWD, fed_TBWD, self.feedforward_dropout, noise), consume=True)
        seen(f"feedforward_{self.index}", out_TBWD)
        return out_TBWD  # type: ignore[no-any-return]

    def attention(self, s_TBWD: Tensor, seen: Seen) -> Tensor:
        qkv = self.qkv_neurons(self.qkv(s_TBWD), consume=True)
        for name, part in zip(("query", "key", "value"), qkv.chunk(3, -1), strict=True):
            seen(f"{name}_{self.index}", part)
        heads = self.head_neurons(attend(qkv, self.heads), consume=True)
        seen(f"heads_{self.index}", heads)
        return self.out(heads)  # type: ignore[no-any-return]


def _residual(s_TBWD: Tensor, y_TBWD: Tensor, dropout: Dropout, noise: Noise) -> Tensor:
    """s + y, with one dropout mask for all steps of the simulation."""
    if not dropout.training or dropout.p == 0:
        return s_TBWD + y_TBWD
    return torch.addcmul(s_TBWD, y_TBWD, dropout(torch.ones_like(y_TBWD[0]), noise))


class SpikingTransformer(SpikingModel):
    """x_BWF -> logits_BF: embed, add positions, LIF, blocks, mean over simulated time and window, linear readout."""

    def __init__(
        self,
        encoder: Direct | Rate,
        num_features: int,
        window: int,
        *,
        d_model: int,
        heads: int,
        layers: int,
        d_ffn: int,
        dropout: float,
        num_steps: int,
        beta: float,
        slope: float,
    ) -> None:
        super().__init__(num_steps)
        self.encoder = encoder
        self.embedding = current(num_features, d_model)
        self.positions_WD = nn.Parameter(torch.empty(window, d_model))
        self.neurons = LIF(beta, slope)
        self.blocks = nn.ModuleList(
            SpikingBlock(d_model, heads, d_ffn, dropout, index, beta, slope) for index in range(layers)
        )
        self.readout = readout(d_model, num_features)
        # As wide as the threshold: a neuron tells positions apart by where its current crosses it.
        nn.init.normal_(self.positions_WD)

    def fire(self, x_BWF: Tensor, noise: Noise, seen: Seen) -> Tensor:
        s_TBWD = self.neurons(self.embedding(self.encoder(x_BWF, noise)) + self.positions_WD, self.num_steps)
        seen("embedding", s_TBWD)
        for block in self.blocks:
            s_TBWD = block(s_TBWD, noise, seen)
        return self.readout(s_TBWD.mean((0, 2)))  # type: ignore[no-any-return]


@register("model", "spiking_transformer")
class SpikingTransformerConfig(SpikingConfig):
    """A transformer of leaky integrate-and-fire neurons with spike-form self-attention.

    Four time steps are Spikformer's. A gradient passes several surrogates in a row in each block: with the perceptron's
    slope of 25 the embedding gets 1e-4 of the readout's at first, less than Adam's epsilon for most weights; with 2, 2e-2.
    """

    name: Literal["spiking_transformer"] = "spiking_transformer"
    slope: float = setting(2.0, "steepness of the fast-sigmoid surrogate gradient", gt=0)
    time_steps: int = setting(4, "steps of the simulation", ge=1, le=1000)
    d_model: int = setting(128, "width of the model", ge=1)
    heads: int = setting(4, "attention heads per layer; divides d_model", ge=1)
    layers: int = setting(2, "blocks", ge=1)
    d_ffn: int = setting(256, "width of the feed-forward layers", ge=1)
    dropout: float = setting(0.1, "probability of dropping what enters a residual, in training", ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model % self.heads:
            raise PydanticCustomError(
                "spiking_heads",
                "d_model is {d_model}, which {heads} heads do not divide; use a multiple",
                {"d_model": self.d_model, "heads": self.heads},
            )
        return self

    def layers_that_fire(self) -> tuple[str, ...]:
        parts = ("query", "key", "value", "heads", "attention", "hidden", "feedforward")
        return ("embedding", *(f"{part}_{index}" for index in range(self.layers) for part in parts))

    def build(self, num_features: int, window: int) -> nn.Module:
        """(B, window, num_features) -> (B, num_features); firing rates by layer, see `layers_that_fire`."""
        return SpikingTransformer(
            self.encoder(window, num_features),
            num_features,
            window,
            d_model=self.d_model,
            heads=self.heads,
            layers=self.layers,
            d_ffn=self.d_ffn,
            dropout=self.dropout,
            num_steps=self.time_steps,
            beta=self.beta,
            slope=self.slope,
        )
