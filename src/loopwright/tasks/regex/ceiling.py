"""What to hold a token accuracy against: the most that given strings allow, and what a table of counts gets."""

from __future__ import annotations

import numpy as np

from loopwright.tasks.regex.fsm import Ints

Counted = tuple[Ints, Ints, Ints]


def best_token_accuracy(tokens_NT: Ints, lengths_N: Ints) -> float:
    """The share of next tokens that are the most frequent one behind their prefix; exact.

    `tokens_NT` are s1 .. sn EOS, then anything; `lengths_N` the numbers n of symbols. After reading s1 .. si, a function
    of what has been read gives one answer, and is right at most as often as the most frequent next token follows this
    prefix: sum over prefixes of max_t count(prefix, t), over the number of predictions, n per string. NaN without any.

    >>> best_token_accuracy(np.array([[2, 2, 1], [2, 1, 0]]), np.array([2, 1]))
    0.6666666666666666
    """
    prefix_N, right, total = np.zeros(len(tokens_NT), dtype=np.int64), 0, int(lengths_N.sum())
    base = int(tokens_NT.max(initial=0)) + 1
    for position in range(tokens_NT.shape[1] - 1):
        kept = lengths_N > position
        tokens_NT, lengths_N, prefix_N = tokens_NT[kept], lengths_N[kept], prefix_N[kept]
        if not len(tokens_NT):
            break
        _, prefix_N = np.unique(prefix_N * base + tokens_NT[:, position], return_inverse=True)
        pairs, count = np.unique(prefix_N * base + tokens_NT[:, position + 1], return_counts=True)
        best = np.zeros(len(tokens_NT), dtype=np.int64)
        np.maximum.at(best, pairs // base, count)
        right += int(best.sum())
    return right / total if total else float("nan")


def table_token_accuracy(train: Counted, given: Counted) -> float:
    """The token accuracy of a table: after each state and position, the token that follows most often in `train`.

    A (tokens_NT, states_NT, lengths_N): tokens are s1 .. sn EOS, states those after each symbol. State and position are all
    that the machine knows of a prefix, so this is about what a model can learn; cells that `train` never visits answer
    with the most frequent token of all. NaN without any prediction.
    """
    (states_N, positions_N, next_N), (other_states_N, other_positions_N, other_next_N) = _cells(train), _cells(given)
    if not len(other_next_N):
        return float("nan")
    size = [
        1 + max(int(a.max(initial=0)), int(b.max(initial=0))) for a, b in zip(_cells(train), _cells(given), strict=True)
    ]
    counts = np.zeros(size, dtype=np.int64)
    np.add.at(counts, (states_N, positions_N, next_N), 1)
    everywhere = counts.sum((0, 1)).argmax()
    answer = np.where(counts.any(2), counts.argmax(2), everywhere)
    return float((answer[other_states_N, other_positions_N] == other_next_N).mean())


def _cells(counted: Counted) -> Counted:
    """State, position and next token of every prediction."""
    tokens_NT, states_NT, lengths_N = counted
    sample, position = np.nonzero(np.arange(tokens_NT.shape[1] - 1) < lengths_N[:, None])
    return states_NT[sample, position], position, tokens_NT[sample, position + 1]
