"""The best token accuracy that anybody can have on given strings."""

from __future__ import annotations

import numpy as np

from loopwright.tasks.regex.fsm import Ints


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
