"""Windows over a history, and the split of their targets by time.

Letters of shapes: R rows (events), W events in a window, N = R - W samples, F parts (39).
"""

from __future__ import annotations

from math import floor

import torch
from torch import Tensor

from loopwright.data.splits import ratios_problem
from loopwright.errors import DataError


def windows(vectors: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Samples of a history: x (N, W, F) float32, the events t..t+W-1 of sample t, and y (N, F), event t+W.

    Both are views of `vectors` (R, F) as float32: 10,000 windows of 21 take 1.5 MB rather than 33. Raises DataError for
    fewer than W + 1 rows.
    """
    num_rows = len(vectors)
    if num_rows < window + 1:
        raise DataError(
            f"a history of {num_rows} rows is too short for task.data.window={window}; give at least {window + 1} rows"
            " or a shorter window"
        )
    vectors = vectors.to(torch.float32)
    return vectors[:-1].unfold(0, window, 1).transpose(1, 2), vectors[window:]


def split_by_time(n: int, ratios: tuple[float, float, float]) -> tuple[slice, slice, slice]:
    """The first floor(r1 n) samples for training, the next floor(r2 n) for validation, the rest for the test.

    Raises DataError for ratios that are not positive or do not sum to 1 within 1e-6, and for an empty split.
    """
    if problem := ratios_problem(ratios):
        raise DataError(f"task.data.split={ratios}: {problem}")
    # 0.29 * 100 is 28.999999999999996: the product is meant in decimals.
    train, val = (floor(ratio * n + 1e-9) for ratio in ratios[:2])
    slices = slice(0, train), slice(train, train + val), slice(train + val, n)
    for name, part in zip(("train", "val", "test"), slices, strict=True):
        if part.stop <= part.start:
            raise DataError(
                f"task.data.split={ratios} leaves {name} none of the {n} windows; give more rows or another share"
            )
    return slices
