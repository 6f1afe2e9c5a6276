"""The columns of an events file, and what every row of it has to be.

Letters of shapes: N rows (events), T token slots (18), F features of a token (4), G globals (2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from loopwright.engine.task import Split

Array = np.ndarray[Any, np.dtype[Any]]

SETS: Mapping[Split, str] = {"train": "X_train", "val": "X_val", "test": "X_test"}
NUM_TOKENS = 18
FEATURES = ("energy", "pT", "eta", "phi")
GLOBALS = ("missing energy", "its angle")
FIRST_GLOBAL = NUM_TOKENS
FIRST_FEATURE = FIRST_GLOBAL + len(GLOBALS)
NUM_COLUMNS = FIRST_FEATURE + NUM_TOKENS * len(FEATURES)
# Ids become rows of an embedding and of tables by type; larger ones are a column that holds something else.
LARGEST_TYPE = 999
# Files are gone through by as many rows at a time. The sums behind a mean follow these slices, so that it has the same
# bits however much memory may be used.
SLICE = 32_768


def types_of(rows: Array) -> Array:
    """The token type ids (N, T) of rows (N, 92)."""
    return rows[:, :NUM_TOKENS]


def globals_of(rows: Array) -> Array:
    """The globals (N, G) of rows (N, 92)."""
    return rows[:, FIRST_GLOBAL:FIRST_FEATURE]


def features_of(rows: Array) -> Array:
    """The features of the tokens (N, T, F) of rows (N, 92)."""
    return rows[:, FIRST_FEATURE:].reshape(len(rows), NUM_TOKENS, len(FEATURES))


def column_name(column: int) -> str:
    """What a column holds.

    >>> column_name(0), column_name(18), column_name(25)
    ('the type id of token 1', 'missing energy', 'pT of token 2')
    """
    if column < FIRST_GLOBAL:
        return f"the type id of token {column + 1}"
    if column < FIRST_FEATURE:
        return GLOBALS[column - FIRST_GLOBAL]
    token, feature = divmod(column - FIRST_FEATURE, len(FEATURES))
    return f"{FEATURES[feature]} of token {token + 1}"


def _not_finite(rows: Array) -> Array:
    if rows.dtype.itemsize == 4:
        return np.asarray(~np.isfinite(rows))
    return np.asarray(~(np.abs(rows) <= np.finfo(np.float32).max))


def _no_type(rows: Array) -> Array:
    types = types_of(rows)
    whole = np.isfinite(types) & (types == np.trunc(types))
    return np.asarray(~(whole & (types >= 0) & (types <= LARGEST_TYPE)))


def _no_token(rows: Array) -> Array:
    return np.asarray((types_of(rows) == 0).all(1, keepdims=True))


# What holds for every row, and where in rows (N, 92) it does not: a mask of bad numbers, columns from 0 on.
CHECKS: tuple[tuple[str, Callable[[Array], Array]], ...] = (
    ("every number is finite and fits float32", _not_finite),
    (f"type ids are whole numbers from 0 to {LARGEST_TYPE}", _no_type),
    ("every event has a token", _no_token),
)


def failures(name: str, first: int, rows: Array) -> Iterator[tuple[int, int, str]]:
    """For each check that rows (N, 92) of a set fail: its number, how many rows do, and the first of them in words.

    `first` is the number of the first of these rows in the set, from 0.
    """
    for number, (_, check) in enumerate(CHECKS):
        bad = check(rows)
        if bad.any():
            row, column = (int(place) for place in np.argwhere(bad)[0])
            yield number, int(bad.any(1).sum()), f"row {first + row} of {name} {_problem(number, rows[row], column)}"


def _problem(check: int, values: Array, column: int) -> str:
    """What is wrong with a row (92,) that fails a check at a column, and how to mend it."""
    if check == 2:
        return f"has no token: its {NUM_TOKENS} type ids are all 0, which is padding; leave the event out"
    value, where = values[column], f"in column {column} ({column_name(column)})"
    if check == 0:
        if not np.isfinite(value):
            return f"has {value} {where}; leave the event out, or write 0 and type 0 where there is no token"
        return f"has {value:g} {where}, which float32 does not hold; use another unit"
    if value < 0:
        return f"has {value:g} {where}; no id is negative: 0 is padding, token types count from 1"
    return f"has {value:g} {where}; write whole numbers from 0 (padding) to {LARGEST_TYPE}"
