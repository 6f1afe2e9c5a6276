"""A denoiser of tokens, told the timestep, as decoder; and features of noised tokens as encoder (Ho et al. 2020).

Letters of shapes as in `parts.py`; H is the width of a token's state.
"""

from __future__ import annotations

import math
from typing import Literal, Self

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.models.autoencoder.gnn import MessageKeys, MessagePassing, TokenGNN
from loopwright.models.autoencoder.mlp import TypedTokens
from loopwright.models.autoencoder.parts import Decoder, Encoder, TokenShape
from loopwright.models.autoencoder.pooling import is_real
from loopwright.models.autoencoder.schedule import NoiseSchedule
from loopwright.models.base import Noise
from loopwright.models.mlp import GELU


class TimestepEmbedding(nn.Module):
    """timestep_B -> (B, H): sines and cosines of t / 10000^(2i / H) (Vaswani et al. 2017, 3.5), then H -> H -> H."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        half = (hidden + 1) // 2
        self.rates: Tensor
        self.register_buffer("rates", torch.exp(torch.arange(half) * (-math.log(10_000) / half)), persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * half, hidden), GELU(), nn.Linear(hidden, hidden))

    def forward(self, timestep_B: Tensor) -> Tensor:
        angle = timestep_B.unsqueeze(-1) * self.rates
        return self.layers(torch.cat([angle.sin(), angle.cos()], -1))  # type: ignore[no-any-return]


class Denoiser(nn.Module):
    """(noisy_BTF, timestep_B, types_BT, z_BTL) -> the noise in it (B, T, F); tokens see each other by message passing.

    `width` is that of the condition z_BTL; where it is 0 there is none. A shape with L features makes a denoiser of
    latents. The timestep's embedding is added to every state before each round.
    """

    def __init__(
        self,
        shape: TokenShape,
        width: int,
        *,
        hidden: int = 96,
        messages: int = 32,
        rounds: int = 3,
        type_width: int = 8,
    ) -> None:
        super().__init__()
        self.width = width
        self.timestep = TimestepEmbedding(hidden)
        self.typed = TypedTokens(shape.num_types, type_width)
        self.up = nn.Linear(shape.num_features + width + type_width, hidden)
        self.rounds = nn.ModuleList(MessagePassing(hidden, messages) for _ in range(rounds))
        self.norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, shape.num_features)

    def forward(self, noisy_BTF: Tensor, timestep_B: Tensor, types_BT: Tensor, z_BTL: Tensor | None = None) -> Tensor:
        assert z_BTL is not None or not self.width
        condition = (z_BTL,) if z_BTL is not None and self.width else ()
        real_BT = is_real(types_BT)
        t_B1H = self.timestep(timestep_B).unsqueeze(1)
        h = self.up(self.typed(noisy_BTF, types_BT, *condition))
        for message_passing in self.rounds:
            h = message_passing(h + t_B1H, real_BT)
        return self.out(self.norm(h))  # type: ignore[no-any-return]


class NoisedEncoder(nn.Module):
    """What message passing makes of x_t, the input after `timestep` of the schedule.

    In training x_t = sqrt(a_t) x + sqrt(1 - a_t) noise, drawn from "encoder"; outside it, its mean sqrt(a_t) x.
    """

    def __init__(self, body: TokenGNN, schedule: NoiseSchedule, timestep: int) -> None:
        super().__init__()
        self.body, self.schedule, self.timestep = body, schedule, timestep

    def forward(self, tokens_BTF: Tensor, types_BT: Tensor, noise: Noise = None) -> Tensor:
        drawn = torch.zeros_like(tokens_BTF)
        if noise is not None:
            drawn.normal_(generator=noise("encoder"))
        timestep_B = torch.full((len(tokens_BTF),), self.timestep, device=tokens_BTF.device)
        return self.body(self.schedule.add_noise(tokens_BTF, drawn, timestep_B), types_BT)  # type: ignore[no-any-return]


@register("task/encoder", "diffusion")
class DiffusionEncoder(MessageKeys, Encoder):
    """Features of the tokens after they were noised as at one timestep of a diffusion."""

    name: Literal["diffusion"] = "diffusion"
    timestep: int = setting(50, "timestep whose noise the tokens get, from 0", ge=0)
    timesteps: int = setting(1000, "steps from data to noise", ge=2)
    schedule: Literal["linear", "cosine"] = setting("cosine", "how the noise grows with the timestep")

    @model_validator(mode="after")
    def _timestep_exists(self) -> Self:
        if self.timestep >= self.timesteps:
            raise PydanticCustomError(
                "timestep",
                "timestep is {timestep}, but timesteps={timesteps} are numbered from 0; use at most {last}",
                {"timestep": self.timestep, "timesteps": self.timesteps, "last": self.timesteps - 1},
            )
        return self

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(tokens_BTF, types_BT) -> z_BTL with L = `width`; draws from noise("encoder") in training."""
        body = TokenGNN(shape.num_features, width, shape.num_types, **self.sizes())
        return NoisedEncoder(body, NoiseSchedule(self.timesteps, self.schedule), self.timestep)


@register("task/decoder", "diffusion")
class DiffusionDecoder(MessageKeys, Decoder):
    """A denoiser of tokens, told the timestep and the latent; the loop draws its tokens from noise."""

    denoises = True

    name: Literal["diffusion"] = "diffusion"
    hidden: int = setting(96, "width of a token's state", ge=1)
    rounds: int = setting(3, "rounds of message passing", ge=1)

    def build(self, shape: TokenShape, width: int) -> nn.Module:
        """(noisy_BTF, timestep_B, types_BT, z_BTL) -> the noise (B, T, F)."""
        return Denoiser(shape, width, **self.sizes())
