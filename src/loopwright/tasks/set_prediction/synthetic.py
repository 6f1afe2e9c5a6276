"""A synthetic history with a planted signal, whose best reachable recall is known exactly.

The 39 parts stand on a hidden cycle, drawn from the seed. Each part of an event is followed, with probability `signal`
and independently of the others, by its successor on the cycle; the places left over are filled with parts drawn
uniformly from all others. At signal 0 an event says nothing about the next one; at signal 1 the next one is a fixed
function of it. Only the last event matters, so a longer window helps nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from loopwright.streams import Streams
from loopwright.tasks.set_prediction.history import History
from loopwright.tasks.set_prediction.validate import NUM_PARTS, PARTS_PER_EVENT


@dataclass(frozen=True, eq=False)
class Synthetic:
    """A generated history, the hidden rule behind it, and the recall that nothing can exceed on average.

    `successor` (39,) holds at p - 1 the part number that follows part p.
    """

    history: History
    successor: NDArray[np.int64]
    best_recall_at_k: dict[int, float]


def make_history(rows: int, signal: float, seed: int) -> Synthetic:
    """Generate `rows` events on the weekdays from 2000-01-01 on. The same arguments give the same history.

    >>> make_history(rows=30, signal=1.0, seed=0).best_recall_at_k
    {5: 1.0, 20: 1.0}
    """
    rng = Streams(seed).numpy("history")
    cycle = rng.permutation(NUM_PARTS)
    successor = np.empty(NUM_PARTS, dtype=np.int64)
    successor[cycle] = np.roll(cycle, -1)
    # All the chance is drawn beforehand, whatever the signal: a part's key is its place in a uniform order, and the
    # successors that are kept jump that queue, so the five lowest keys are these and a uniform choice of all others.
    kept = rng.random((rows, PARTS_PER_EVENT)) < signal
    keys = rng.random((rows, NUM_PARTS))
    parts = np.empty((rows, PARTS_PER_EVENT), dtype=np.int64)
    last = rng.permutation(NUM_PARTS)[:PARTS_PER_EVENT]
    for row in range(rows):
        keys[row, successor[last[kept[row]]]] = -1.0
        last = parts[row] = np.sort(keys[row].argpartition(PARTS_PER_EVENT)[:PARTS_PER_EVENT])
    days = np.busday_offset("2000-01-01", np.arange(rows), roll="forward").astype(object)
    best = {k: best_recall(signal, k) for k in (5, 20)}
    return Synthetic(History.of(tuple(days), parts + 1), successor + 1, best)


def best_recall(signal: float, k: int) -> float:
    """The highest expected recall@k that any predictor can have on such a history.

    With B ~ Binomial(5, s) successors kept, 5 - B places are filled from the 39 - B other parts, 5 - B of which are
    successors that were not kept: E[successors present] = a = sum_b P(B = b) (b + (5 - b)^2 / (39 - b)). By symmetry a
    successor is present with probability a / 5 and any other part with (5 - a) / 34, which is never more; so the best
    answer is the successors first and then anything.
    """
    n, m = NUM_PARTS, PARTS_PER_EVENT
    weights = [comb(m, b) * signal**b * (1.0 - signal) ** (m - b) for b in range(m + 1)]
    present = sum(weight * (b + (m - b) ** 2 / (n - b)) for b, weight in enumerate(weights))
    return (min(k, m) * present / m + max(k - m, 0) * (m - present) / (n - m)) / m
