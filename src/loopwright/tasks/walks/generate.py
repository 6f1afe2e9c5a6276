"""Greedy generation, exact: token for token what a full forward over the last tokens of the context says.

Shape letters: B walks, S distinct walks, L tokens of a walk, N windows, T tokens read so far, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from loopwright.engine.evaluate import evaluating
from loopwright.models.transformer import Transformer
from loopwright.tasks.walks.memo import Tokens, continue_walks
from loopwright.tasks.walks.precision import faster_linear, full_precision

# Logits of two kernels differ by up to 1e-5 in float32; where the best two are closer than this, the plain forward's
# kernel decides. A share of the best logit, or its absolute value where that is small.
_CLOSE = {torch.float32: 1e-4, torch.float64: 1e-10}
_ORDINARY_LOGIT = 10.0
# Forwards of 1-3 rows were seen to take kernels that round differently; 4 to 1000 rows gave the same bits.
_FEWEST_ROWS = 8
# Tokens of one forward: activations stay in a CPU's cache; a GPU is kept busy.
_CHUNK_TOKENS = {"cpu": 1024, "cuda": 1 << 17}


class Generated(NamedTuple):
    """Walks, and what it took: full windows that were evaluated, and tokens that the plain forward decided."""

    tokens: Tensor
    """(B, L) int64, on the model's device"""
    full_windows: int
    ties: int


def generate(model: nn.Module, starts_B: Tensor, length: int, window: int, *, memo: bool = True) -> Generated:
    """Continue each start to `length` tokens: always the likeliest next one (of equals the lowest), given the last `window`.

    Equal, token for token, to `generate_plainly`. While the window has not moved, a key/value cache continues walks
    with equal starts as one. From then on positions shift and a cache would be another model, but the next token is a
    function of the full window alone: each distinct one is evaluated once, with the last block for its last position
    only. Kernels differ in the last bits, so where the two best logits are within 1e-4 of each other (float64: 1e-10;
    in proportion for logits above 10) the plain forward decides; `ties` counts these. `memo=False` evaluates every
    window of every walk, for comparison. A module that is not a `Transformer` of float32 or float64 is evaluated by plain
    forwards, with the memo. Raises ValueError for a length or window below 1.
    """
    _check(length, window)
    device = next(model.parameters(), starts_B).device
    with evaluating(model), torch.no_grad(), full_precision(device):
        starts, walk_of = torch.unique(starts_B, return_inverse=True) if memo else (starts_B, None)
        judge = _Judge(model, device)
        tokens = np.empty((len(starts), length), dtype=np.int32)
        tokens[:, 0] = starts.cpu().numpy()
        judge.begin(tokens[:, : window + 1])
        if memo:
            full_windows = continue_walks(tokens, window, judge.windows)
        else:
            full_windows = len(starts) * max(length - window, 0)
            for t in range(window + 1, length):
                tokens[:, t] = judge.windows(tokens[:, t - window : t])
        found = torch.from_numpy(tokens).to(device, torch.int64)
        return Generated(found if walk_of is None else found[walk_of], full_windows, judge.ties)


def generate_plainly(model: nn.Module, starts_B: Tensor, length: int, window: int) -> Tensor:
    """What `generate` must equal, (B, L): for every token a full forward over the last `window` tokens of all walks at once."""
    _check(length, window)
    device = next(model.parameters(), starts_B).device
    with evaluating(model), torch.no_grad(), full_precision(device):
        tokens = starts_B[:, None].to(device, torch.int64)
        for t in range(1, length):
            tokens = torch.cat([tokens, _full_forward(model, tokens[:, max(0, t - window) : t])[:, None]], dim=1)
        return tokens


class _Judge:
    """Decides next tokens for windows that start at position 0, as the plain forward would; counts close calls."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model, self.device, self.ties = model, device, 0
        self.transformer: Transformer | None = None
        if isinstance(model, Transformer) and model.norm.weight.dtype in _CLOSE:
            self.transformer = model

    def begin(self, tokens_ST: Tokens) -> None:
        """Fill walks from their first tokens, before the window moves, with a key/value cache."""
        if self.transformer is None:
            for t in range(1, tokens_ST.shape[1]):
                tokens_ST[:, t] = self.windows(tokens_ST[:, :t])
            return
        rows = _chunk_rows(self.device, 4)
        for chunk in (tokens_ST[i : i + rows] for i in range(0, len(tokens_ST), rows)):
            cache = self.transformer.new_cache(len(chunk), chunk.shape[1] - 1)
            for t in range(1, chunk.shape[1]):
                newest = self._tensor(chunk[:, t - 1 : t])
                with faster_linear(self.transformer, self.device):
                    logits = self.transformer.extend(newest, cache)["next"][:, -1]
                chunk[:, t] = self._decide([logits], chunk[:, :t])

    def windows(self, windows_NT: Tokens) -> Tokens:
        """The token that follows each window."""
        if self.transformer is None:
            return _numpy(_plain(self.model, self._tensor(windows_NT)))
        rows = _chunk_rows(self.device, windows_NT.shape[1])
        chunks = torch.split(self._tensor(windows_NT), rows)
        # The plain forwards of close calls are outside: they are what the plain way computes, to the bit.
        with faster_linear(self.transformer, self.device):
            logits = [self.transformer.last(chunk) for chunk in chunks]
        return self._decide(logits, windows_NT)

    def _decide(self, logits_NV: list[Tensor], windows_NT: Tokens) -> Tokens:
        found = [_best(logits) for logits in logits_NV]
        tokens, clear = (_numpy(torch.cat(parts)) for parts in zip(*found, strict=True))
        close = np.flatnonzero(clear == 0)
        if len(close):
            tokens[close] = _numpy(_plain(self.model, self._tensor(windows_NT[close])))
            self.ties += len(close)
        return tokens

    def _tensor(self, windows_NT: Tokens) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(windows_NT)).to(self.device, torch.int64)


def _best(logits_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token, and whether no other kernel's rounding could change it (never so where there is a NaN)."""
    best = logits_NV.argmax(-1)
    if logits_NV.shape[-1] == 1:
        return best, torch.ones_like(best)
    first, second = logits_NV.topk(2).values.unbind(-1)
    close = _CLOSE[logits_NV.dtype] * (first.abs() / _ORDINARY_LOGIT).clamp(min=1)
    return best, (first - second >= close).to(best.dtype)


def _plain(model: nn.Module, windows_NT: Tensor) -> Tensor:
    """The likeliest token after each window by full forwards."""
    chunks = torch.split(windows_NT, _chunk_rows(windows_NT.device, windows_NT.shape[1]))
    return torch.cat([_full_forward(model, chunk) for chunk in chunks])


def _full_forward(model: nn.Module, windows_NT: Tensor) -> Tensor:
    rows = len(windows_NT)
    if 0 < rows < _FEWEST_ROWS:
        windows_NT = windows_NT.repeat(-(-_FEWEST_ROWS // rows), 1)
    return model(windows_NT)["next"][:rows, -1].argmax(-1)  # type: ignore[no-any-return]


def _chunk_rows(device: torch.device, tokens: int) -> int:
    return max(_FEWEST_ROWS, _CHUNK_TOKENS.get(device.type, _CHUNK_TOKENS["cpu"]) // tokens)


def _numpy(tokens: Tensor) -> Tokens:
    return tokens.to("cpu", torch.int32).numpy()


def _check(length: int, window: int) -> None:
    for name, value in (("length", length), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} is {value}; use 1 or more")
