"""The corpus of a machine: strings drawn by class and length, and their splits.

Letters of shapes: N samples, L longest length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopwright.engine.task import Split
from loopwright.errors import DataError
from loopwright.streams import Streams
from loopwright.tasks.regex.fsm import FSM, Ints
from loopwright.tasks.regex.sampling import Sampler
from loopwright.tasks.regex.shares import Plan
from loopwright.tasks.regex.tokens import NUM_SPECIAL

SPLITS: tuple[Split, ...] = ("train", "val", "test")
Ratios = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Corpus:
    """Samples in the order they were drawn. Duplicates are allowed, but equal strings are in the same split.

    `symbols_NL` is -1 behind a string's end; `states_NL` holds the state after each symbol (behind the end, the last
    one); `kind_N` numbers `plan.kinds`, `split_N` numbers SPLITS, `string_N` numbers the distinct strings.
    """

    fsm: FSM
    plan: Plan
    kind_N: Ints
    length_N: Ints
    symbols_NL: Ints
    states_NL: Ints
    split_N: Ints
    string_N: Ints

    def __len__(self) -> int:
        return len(self.kind_N)

    @property
    def class_N(self) -> Ints:  # noqa: N802 - an array like those above
        """The class of each sample: that of its last state."""
        return self.fsm.state_class[self.states_NL[:, -1]]

    def rows(self, split: Split) -> Ints:
        """The samples of a split."""
        return np.flatnonzero(self.split_N == SPLITS.index(split))

    def strings(self, rows: Ints) -> list[str]:
        """Samples as text."""
        alphabet = np.array([*self.fsm.alphabet, ""])
        return ["".join(row) for row in alphabet[self.symbols_NL[rows]].tolist()]


def make_corpus(sampler: Sampler, plan: Plan, num_samples: int, ratios: Ratios, seed: int) -> Corpus:
    """Draw `num_samples` strings. The same arguments give the same corpus. Raises DataError for an empty split."""
    rng = Streams(seed).numpy("corpus")
    cell_N = rng.choice(plan.drawn.size, num_samples, p=plan.drawn.ravel() / plan.drawn.sum())
    kind_N, column_N = np.divmod(cell_N, len(plan.lengths))
    length_N = np.array(plan.lengths)[column_N]
    symbols_NL = sampler.draw(kind_N, length_N, rng)
    distinct, string_N = np.unique(symbols_NL, axis=0, return_inverse=True)
    split_N = split_of(distinct, ratios)[string_N.reshape(-1)]
    for number, split in enumerate(SPLITS):
        if not (split_N == number).any():
            raise DataError(
                f"task.data.samples={num_samples} leaves the {split} split empty: there are {len(distinct)} distinct "
                f"strings, split by their hash as {list(ratios)}; give more samples, other lengths, or another split"
            )
    states_NL = sampler.fsm.walk(symbols_NL)
    return Corpus(sampler.fsm, plan, kind_N, length_N, symbols_NL, states_NL, split_N, string_N.reshape(-1))


def split_of(symbols_NL: Ints, ratios: Sequence[float]) -> NDArray[np.int64]:
    """The split (N,) of each string: where the hash of its tokens, as a number from 0 to 1, falls among the shares.

    It depends on nothing else: not on the seed, the order, the padding or the other strings.
    """
    length_N = (symbols_NL >= 0).sum(1)
    shares = np.array([_share(row[:n]) for row, n in zip(symbols_NL, length_N.tolist(), strict=True)])
    return np.searchsorted(np.cumsum(ratios)[:-1], shares, side="right")


def _share(symbols: Ints) -> float:
    """A hash in [0, 1) of a string's tokens, as little-endian 64-bit numbers."""
    digest = hashlib.blake2b((symbols + NUM_SPECIAL).astype("<i8").tobytes(), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48
