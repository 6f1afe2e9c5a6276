"""What pure chance scores, exactly, and whether a result is distinguishable from it.

Whatever the scores, if the five true parts are a uniform draw that does not depend on the past, then the places of the
true parts in the ranking are a uniform 5-subset of 1..39, independently for every window. So the number among the k
highest is hypergeometric, and the mean over n windows has the variance of one window divided by n.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from math import comb, sqrt
from statistics import NormalDist
from typing import Any

from loopwright.tasks.set_prediction.validate import NUM_PARTS, PARTS_PER_EVENT

LEVEL = 0.99


@cache
def chance_moments(metric: str) -> tuple[float, float]:
    """Mean and variance of one window's `recall_at_k`, `hit_at_k` or `mrr` under chance.

    recall: H / 5 with H hypergeometric(39, 5, k). hit: 1 - C(39 - k, 5) / C(39, 5). mrr: the best rank is r with
    probability C(39 - r, 4) / C(39, 5). Raises ValueError for another metric.
    """
    n, m = NUM_PARTS, PARTS_PER_EVENT
    kind, _, k_text = metric.rpartition("_at_")
    if metric == "mrr":
        outcomes = {1.0 / rank: comb(n - rank, m - 1) for rank in range(1, n - m + 2)}
    elif kind in ("recall", "hit") and k_text.isdigit() and 1 <= int(k_text) <= n:
        k = int(k_text)
        outcomes = {}
        for hits in range(m + 1):
            value = hits / m if kind == "recall" else float(hits > 0)
            outcomes[value] = outcomes.get(value, 0) + comb(k, hits) * comb(n - k, m - hits)
    else:
        raise ValueError(f"{metric!r} has no chance level; use recall_at_K, hit_at_K (K from 1 to {n}) or mrr")
    total = comb(n, m)
    mean = sum(value * ways for value, ways in outcomes.items()) / total
    return mean, sum((value - mean) ** 2 * ways for value, ways in outcomes.items()) / total


def chance_interval(metric: str, n: int, level: float = LEVEL) -> tuple[float, float, float]:
    """(low, mean, high): where the mean of a metric over n windows lies under chance with probability `level`.

    Two-sided and normal, by the exact variance; cut to 0..1. Raises ValueError for n below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a chance interval needs at least one window")
    mean, variance = chance_moments(metric)
    reach = NormalDist().inv_cdf(0.5 + level / 2.0) * sqrt(variance / n)
    return max(mean - reach, 0.0), mean, min(mean + reach, 1.0)


def chance_table(metrics: Iterable[str], num_windows: Mapping[str, int]) -> dict[str, Any]:
    """What the record keeps of chance: `level`, and by split and metric `low`, `mean` and `high` of `chance_interval`."""
    names = list(metrics)
    splits = {
        split: {name: dict(zip(("low", "mean", "high"), chance_interval(name, n), strict=True)) for name in names}
        for split, n in num_windows.items()
    }
    return {"level": LEVEL, **splits}


def standing(metric: str, value: float, n: int) -> str:
    """Say "at", "above" or "below": where a mean over n windows stands to chance at the 99 % level."""
    low, _, high = chance_interval(metric, n)
    return "below" if value < low else "above" if value > high else "at"


def verdict(metric: str, value: float, n: int) -> str:
    """One line for the summary.

    >>> verdict("recall_at_20", 0.5131, 1428)
    'recall_at_20 0.5131 is at chance (99 % interval 0.4984..0.5272 of 1,428 windows)'
    """
    low, _, high = chance_interval(metric, n)
    where = standing(metric, value, n)
    interval = f"{100 * LEVEL:g} % interval {low:.4f}..{high:.4f} of {n:,} windows"
    return f"{metric} {value:.4f} is {where} chance ({interval})"
