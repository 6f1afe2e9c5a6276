"""How samples are shared out among train, val and test."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from loopwright.errors import DataError
from loopwright.streams import Streams


def ratios_problem(ratios: tuple[float, float, float]) -> str:
    """What is wrong with the ratios of a split, and the fix; "" when nothing is."""
    if not all(ratio > 0.0 for ratio in ratios):
        return "a ratio is not above 0; give train, val and test a share each"
    if not abs(sum(ratios) - 1.0) <= 1e-6:
        return f"the ratios sum to {sum(ratios):.7g}; make them sum to 1"
    return ""


def _whole(ratios: tuple[float, float, float]) -> tuple[float, float, float]:
    if problem := ratios_problem(ratios):
        raise PydanticCustomError("split", "{problem}", {"problem": problem})
    return ratios


# The shares of train, val and test: above 0, and 1 together.
Ratios = Annotated[tuple[float, float, float], AfterValidator(_whole)]


def split_rows(num_rows: int, ratios: tuple[float, ...], seed: int) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Row numbers of each split: floor of each share in a permuted order, the last split takes the rest.

    Raises DataError where a split would be empty.
    """
    order = Streams(seed).numpy("split").permutation(num_rows)
    counts = [int(ratio * num_rows + 1e-9) for ratio in ratios[:-1]]
    bounds = np.cumsum([0, *counts, num_rows - sum(counts)])
    names = ("train", "val", "test")[: len(ratios)]
    rows = {name: order[start:stop] for name, start, stop in zip(names, bounds, bounds[1:], strict=False)}
    for name, chosen in rows.items():
        if len(chosen) == 0:
            raise DataError(
                f"the {name} split of {num_rows} rows is empty with task.data.split={list(ratios)}; give more rows"
            )
    return rows
