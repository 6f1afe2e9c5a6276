"""The memo that continues walks beyond the window: each distinct full window is judged once, for all walks and times.

Shape letters: B walks, L tokens of a walk, N windows, W tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
# windows_NW -> the token that follows each.
Judge = Callable[[Tokens], Tokens]


def continue_walks(tokens_BL: Tokens, window: int, judge: Judge) -> int:
    """Fill tokens_BL from position `window` + 1 on, the positions before being given; returns the distinct full windows.

    What follows a window is a function of the window alone, so windows are numbered as they appear, and of each number
    the next token and the next window's number are kept. A walk in known windows (after another walk, or in a cycle of
    its own) follows the numbers; only a window that nobody has entered from this one is looked up, by all its tokens.
    Memory: 4 W + 100 bytes per distinct window, of which there are at most B (L - W).
    """
    walks, length = tokens_BL.shape
    capacity = walks * max(length - window, 0)
    known: dict[bytes, int] = {}
    next_token = np.full(capacity, -1, dtype=np.int32)
    next_number = np.full(capacity, -1, dtype=np.int64)

    def numbers(rows: NDArray[np.int64], end: int) -> list[int]:
        windows = np.ascontiguousarray(tokens_BL[rows, end - window : end])
        return [known.setdefault(row.tobytes(), len(known)) for row in windows]

    if capacity == 0:
        return 0
    at = np.array(numbers(np.arange(walks), window))
    next_token[at] = tokens_BL[:, window]
    for t in range(window + 1, length):
        number, row = np.unique(at, return_index=True)
        leads_nowhere = next_number[number] < 0
        if leads_nowhere.any():
            next_number[number[leads_nowhere]] = numbers(row[leads_nowhere], t)
        at = next_number[at]
        number, row = np.unique(at, return_index=True)
        unjudged = next_token[number] < 0
        if unjudged.any():
            next_token[number[unjudged]] = judge(tokens_BL[row[unjudged], t - window : t])
        tokens_BL[:, t] = next_token[at]
    return len(known)
