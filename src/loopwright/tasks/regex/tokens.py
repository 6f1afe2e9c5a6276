"""Strings as tokens: the vocabulary, the tensors of a batch with their masks, and the loader that yields them.

Token 0 is PAD, token 1 is EOS, symbol k of the alphabet is token k + 2. A string of n symbols has T = n + 1 tokens: its
symbols, then EOS. Letters of shapes: B samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopwright.data.tensors import TensorLoader
from loopwright.streams import Streams
from loopwright.tasks.regex.fsm import FSM, Ints

PAD, EOS, NUM_SPECIAL = 0, 1, 2
_ON_HOST = 3


class Batch(NamedTuple):
    """Samples right-padded to one length; all tensors have the samples first.

    The first seven (B, T) are on the device; the counts (B,) stay on the host, so that nobody waits for the device to
    say how many tokens a loss is about.
    """

    tokens: Tensor
    """s1 .. sn EOS PAD .., int64"""
    next: Tensor
    """the token that follows each: s2 .. sn EOS PAD PAD .., int64"""
    classes: Tensor
    """class of the state after reading s1 .. si, int64; 0 from EOS on"""
    states: Tensor
    """that state, int64; 0 from EOS on"""
    attention: Tensor
    """True at real tokens, EOS included"""
    next_mask: Tensor
    """where the next-token loss counts"""
    state_mask: Tensor
    """where the losses of class and state count"""
    num_next: Tensor
    num_state: Tensor
    lengths: Tensor
    """n, the number of symbols"""


def vocabulary(alphabet: Sequence[str]) -> list[str]:
    """The name of each token id."""
    return ["<pad>", "<eos>", *alphabet]


def loss_masks(tokens_BT: Tensor, next_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where tokens are real, where the next-token loss counts, and where the losses of class and state count; (B, T) each.

    The next-token loss leaves out PAD targets only: EOS is learnt. The losses of class and state leave out PAD and the last
    real position (EOS), which has no state.
    """
    attention = tokens_BT != PAD
    next_mask = next_BT != PAD
    last_B1 = attention.sum(1, keepdim=True) - 1
    position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
    state_mask = attention & (position_T != last_B1)
    return attention, next_mask, state_mask


def encode(fsm: FSM, symbols_NL: Ints, states_NL: Ints, device: torch.device) -> Batch:
    """Samples, -1 behind their ends, as one batch of L + 1 tokens each."""
    num_samples, longest = symbols_NL.shape
    rows, lengths = np.arange(num_samples), (symbols_NL >= 0).sum(1)
    real_NL = symbols_NL >= 0
    tokens, after, classes, states = (np.zeros((num_samples, longest + 1), dtype=np.int64) for _ in range(4))
    tokens[:, :-1] = np.where(real_NL, symbols_NL + NUM_SPECIAL, PAD)
    tokens[rows, lengths] = EOS
    after[:, :-1] = tokens[:, 1:]
    states[:, :-1] = np.where(real_NL, states_NL, 0)
    classes[:, :-1] = np.where(real_NL, fsm.state_class[states_NL], 0)
    tensors = [torch.from_numpy(array) for array in (tokens, after, classes, states)]
    attention, next_mask, state_mask = loss_masks(tensors[0], tensors[1])
    host = next_mask.sum(1), state_mask.sum(1), torch.from_numpy(lengths)
    return Batch._make((*(t.to(device) for t in (*tensors, attention, next_mask, state_mask)), *host))


class BatchLoader:
    """Batches of an encoded split in addressed order, as `TensorLoader` has them, the counts left on the host."""

    def __init__(self, split: Batch, batch_size: int, streams: Streams | None = None) -> None:
        self._device = TensorLoader(split[:-_ON_HOST], batch_size, streams)
        self._host = TensorLoader(split[-_ON_HOST:], batch_size, streams)
        self.num_samples = self._device.num_samples

    def __len__(self) -> int:
        return len(self._device)

    def head(self, num_samples: int) -> BatchLoader:
        """The same loader over its first samples only."""
        tensors = (*self._device.tensors, *self._host.tensors)
        return BatchLoader(Batch._make(t[:num_samples] for t in tensors), self._device.batch_size, self._device.streams)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index` (from 0), from batch `start` on."""
        for device, host in zip(self._device.epoch(index, start), self._host.epoch(index, start), strict=True):
            yield Batch._make((*device, *host))
