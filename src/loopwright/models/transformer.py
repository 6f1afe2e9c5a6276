"""A decoder-only transformer with one or several heads: pre-norm blocks, a final LayerNorm, bias-free linear heads.

Shape letters: B batch, T tokens, D model width, H attention heads, E = D / H, C classes of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import torch
from pydantic import model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from loopwright.config.node import setting
from loopwright.config.registry import register
from loopwright.errors import ConfigError
from loopwright.models.attention import KeyValueCache
from loopwright.models.base import Noise, TokenModel
from loopwright.models.block import Block
from loopwright.models.dropout import Dropout
from loopwright.models.embedding import FactorisedEmbedding, TokenEmbedding, sinusoidal_positions

Positions = Literal["sinusoidal", "learned", "none"]
_STD = 0.02


class Trace(NamedTuple):
    """What a forward pass computed, layer by layer, for later analysis."""

    logits: dict[str, Tensor]
    """(B, T, C) by head, equal to `forward`'s within rounding"""
    attention: tuple[Tensor, ...]
    """per layer (B, H, T, T): row t is a distribution over positions 0..t"""
    values: tuple[Tensor, ...]
    """per layer (B, H, T, E)"""
    residuals: tuple[Tensor, ...]
    """(B, T, D): what enters the first block, then what leaves each block"""

    def arrays(self) -> dict[str, Tensor]:
        """`attention.0`, `value.0`, `residual.0`, ...: what a capture keeps, samples first."""
        kinds = {"attention": self.attention, "value": self.values, "residual": self.residuals}
        return {f"{kind}.{layer}": held for kind, layers in kinds.items() for layer, held in enumerate(layers)}


class Transformer(nn.Module):
    """tokens_BT -> {head: logits_BTC} for sequences of up to `max_length` tokens.

    Position t sees tokens 0..t. Padding stands on the right, so the causal mask is the padding mask as well: no real
    position ever looks at a padded one, and what padded positions compute is for the loss's mask to leave out.
    Raises ValueError for a longer sequence.
    """

    def __init__(
        self,
        vocab_size: int,
        heads: Mapping[str, int],
        *,
        max_length: int,
        d_model: int = 64,
        layers: int = 1,
        attention_heads: int = 4,
        mlp: int | None = None,
        dropout: float = 0.0,
        positions: Positions = "sinusoidal",
        tied: bool = False,
        embedding_rank: int | None = None,
    ) -> None:
        super().__init__()
        if heads.get("next", vocab_size) != vocab_size:
            raise ValueError(f"head 'next' has {heads['next']} classes, the vocabulary {vocab_size} tokens")
        if tied and (embedding_rank is not None or "next" not in heads):
            raise ValueError("a tied head needs a head 'next' and an embedding that is not factorised")
        self.vocab_size, self.max_length = vocab_size, max_length
        self.d_model, self.attention_heads = d_model, attention_heads
        self.embedding: TokenEmbedding | FactorisedEmbedding = (
            TokenEmbedding(vocab_size, d_model)
            if embedding_rank is None
            else FactorisedEmbedding(vocab_size, d_model, embedding_rank)
        )
        self.positions: Tensor | None
        if positions == "learned":
            self.positions = nn.Parameter(torch.empty(max_length, d_model))
        else:
            table = sinusoidal_positions(max_length, d_model) if positions == "sinusoidal" else None
            self.register_buffer("positions", table, persistent=False)
        self.dropout = Dropout(dropout, "dropout/embedding")
        self.blocks = nn.ModuleList(
            Block(d_model, attention_heads, 4 * d_model if mlp is None else mlp, dropout, i) for i in range(layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.heads = nn.ModuleDict({name: nn.Linear(d_model, classes, bias=False) for name, classes in heads.items()})
        self._initialise()
        if tied:
            self.heads["next"].weight = self.embedding.weight

    def _initialise(self) -> None:
        """Normal 0.02, biases 0; the two projections into the residual stream 0.02 / sqrt(2 layers) (GPT-2)."""
        for name, parameter in self.named_parameters():
            if "norm" in name:
                continue
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
                continue
            residual = name.endswith(("attention.out.weight", "down.weight"))
            nn.init.normal_(parameter, std=_STD / math.sqrt(2 * len(self.blocks)) if residual else _STD)

    def forward(self, tokens_BT: Tensor, noise: Noise = None) -> dict[str, Tensor]:
        x = self._embed(tokens_BT, noise)
        for block in self.blocks:
            x = block(x, noise)
        return self._read_out(x)

    @torch.no_grad()
    def last(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, C) of head `next` at the last position only, whose last block computes nothing else.

        For evaluation: without dropout, and without gradients.
        """
        x = self._embed(tokens_BT)
        *lower, top = self._blocks()
        for block in lower:
            x = block.rest_in_place(x, block.attention(block.attention_norm(x)))
        x = top.rest_in_place(x[:, -1:], top.attention.last(top.attention_norm(x)))
        return self.heads["next"](self.norm(x[:, 0]))  # type: ignore[no-any-return]

    def new_cache(self, batch: int, length: int | None = None) -> KeyValueCache:
        """An empty cache for `batch` sequences of up to `length` tokens (by default the model's own length)."""
        weight = self.norm.weight
        size = self.max_length if length is None else length
        width = self.d_model // self.attention_heads
        return KeyValueCache(
            len(self.blocks), batch, self.attention_heads, size, width, dtype=weight.dtype, device=weight.device
        )

    @torch.no_grad()
    def extend(self, tokens_BT: Tensor, cache: KeyValueCache) -> dict[str, Tensor]:
        """`forward` of tokens that follow those in the cache, which then holds them too: {head: logits_BTC}.

        For evaluation: without dropout, and without gradients. Raises ValueError where the cache or the model has no
        room for the tokens.
        """
        start, end = cache.filled, cache.filled + tokens_BT.shape[1]
        if end > cache.length:
            raise ValueError(f"the cache has room for {cache.length} tokens; {start} are in it and {end - start} new")
        x = self._embed(tokens_BT, start=start)
        for index, block in enumerate(self._blocks()):
            x = block.rest_in_place(x, block.attention.extend(block.attention_norm(x), cache, index))
        cache.filled = end
        return self._read_out(x)

    def trace(self, tokens_BT: Tensor) -> Trace:
        """A forward pass that keeps attention maps, values and residuals; slower than `forward`, which keeps none."""
        x = self._embed(tokens_BT)
        attention, values, residuals = [], [], [x]
        for block in self._blocks():
            attended, weights, value = block.attention.traced(block.attention_norm(x))
            x = block.rest(x, attended)
            attention.append(weights)
            values.append(value)
            residuals.append(x)
        return Trace(self._read_out(x), tuple(attention), tuple(values), tuple(residuals))

    def embedding_l1(self) -> Tensor:
        """The L1 norm of U where the embedding is factorised as U V, otherwise 0; a scalar with its gradient."""
        return self.embedding.l1()

    def _blocks(self) -> list[Block]:
        return list(self.blocks)  # type: ignore[arg-type]

    def _embed(self, tokens_BT: Tensor, noise: Noise = None, start: int = 0) -> Tensor:
        end = start + tokens_BT.shape[1]
        if end > self.max_length:
            raise ValueError(f"a sequence of {end} tokens is longer than the model's {self.max_length} (`max_length`)")
        x = self.embedding(tokens_BT)
        if self.positions is not None:
            x = x + self.positions[start:end]
        return self.dropout(x, noise)  # type: ignore[no-any-return]

    def _read_out(self, x_BTD: Tensor) -> dict[str, Tensor]:
        x = self.norm(x_BTD)
        return {name: head(x) for name, head in self.heads.items()}


@register("model", "transformer")
class TransformerConfig(TokenModel):
    """A decoder-only transformer."""

    name: Literal["transformer"] = "transformer"
    d_model: int = setting(64, "width of the residual stream; divisible by `heads`", ge=1)
    layers: int = setting(1, "number of blocks", ge=1)
    heads: int = setting(4, "attention heads per block", ge=1)
    mlp: int | None = setting(None, "hidden width of a block's MLP; null: 4 d_model", ge=1)
    dropout: float = setting(0.1, "probability of dropping an embedding or a branch's output in training", ge=0, lt=1)
    positions: Positions = setting("sinusoidal", "how a position is added to its token: sinusoidal, learned or none")
    max_length: int | None = setting(None, "longest sequence in tokens; null: the task's length", ge=1)
    tied: bool = setting(False, "whether head `next` uses the embedding's weights")
    embedding_rank: int | None = setting(None, "rank of a factorised embedding U V; null: one table", ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.d_model % self.heads:
            raise PydanticCustomError(
                "transformer_heads",
                "d_model is {d_model}, which {heads} heads do not divide; use a multiple of {heads}, or other heads",
                {"d_model": self.d_model, "heads": self.heads},
            )
        if self.embedding_rank is not None and self.tied:
            raise PydanticCustomError(
                "transformer_tied",
                "tied is true and embedding_rank is {rank}: a tied head needs the whole table; use tied=false, "
                "or embedding_rank=null",
                {"rank": self.embedding_rank},
            )
        if self.embedding_rank is not None and self.embedding_rank > self.d_model:
            raise PydanticCustomError(
                "transformer_rank",
                "embedding_rank is {rank}, above d_model ({d_model}); use at most {d_model}, or null",
                {"rank": self.embedding_rank, "d_model": self.d_model},
            )
        return self

    def build(self, vocab_size: int, length: int, heads: Mapping[str, int]) -> Transformer:
        """(B, T) tokens, T up to `max_length` or `length`, -> {head: (B, T, classes)}."""
        problems = []
        if self.max_length is not None and self.max_length < length:
            problems.append(
                f"`model.max_length` is {self.max_length}: the task's sequences have up to {length} tokens; "
                f"use at least {length}, or null"
            )
        if self.embedding_rank is not None and self.embedding_rank > vocab_size:
            problems.append(
                f"`model.embedding_rank` is {self.embedding_rank}: the vocabulary has {vocab_size} tokens; "
                f"use at most {vocab_size}, or null"
            )
        if self.tied and "next" not in heads:
            problems.append("`model.tied` is true: the task has no head `next` to tie; use false")
        if problems:
            raise ConfigError(problems)
        return Transformer(
            vocab_size,
            heads,
            max_length=self.max_length or length,
            d_model=self.d_model,
            layers=self.layers,
            attention_heads=self.heads,
            mlp=self.mlp,
            dropout=self.dropout,
            positions=self.positions,
            tied=self.tied,
            embedding_rank=self.embedding_rank,
        )
