"""What a figure takes of a run's views: one array at a time, checked, and the words for what it shows."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from loopwright.errors import RunError
from loopwright.report.frame import Array, Record

# What is larger cannot be drawn: its square is infinite.
_LARGEST = 1e150
_BEST = re.compile(r"(train|val|test)_best_views")
_SPLITS = {"train": "training", "val": "validation", "test": "test"}


def view(record: Record, name: str, ndim: int) -> Array | None:
    """An array of the views in float64, what is not finite as nan; None where the record has none of that name.

    Raises RunError where the file is damaged or the array is empty, no numbers, or of another number of dimensions.
    """
    views = record.views
    if views is None or name not in views.names:
        return None
    array = views.read(name)
    if array.ndim != ndim or not array.size or array.dtype.kind not in "fiub":
        raise RunError(
            f"{views.path}: {name} is {array.dtype} of shape {array.shape}; a figure needs numbers in {ndim} dimension(s)"
        )
    numbers = array.astype(np.float64)
    return np.where(np.abs(numbers) < _LARGEST, numbers, np.nan)


def whole(record: Record, name: str, ndim: int) -> Array | None:
    """A view that counts or numbers something. Raises RunError where one is no whole number from 0."""
    numbers = view(record, name, ndim)
    if numbers is not None and not (np.isfinite(numbers) & (numbers >= 0) & (numbers % 1 == 0)).all():
        raise unfit(record, f"{name} has values that are no whole numbers from 0")
    return numbers


def alike(record: Record, what: str, shapes: Sequence[tuple[int, ...]]) -> None:
    """Raises RunError unless the shapes, of arrays that belong together, are equal."""
    if len(set(shapes)) > 1:
        raise unfit(record, f"{what} do not fit together ({', '.join(map(str, shapes))})")


def unfit(record: Record, what: str) -> RunError:
    """An error that names the file of the views."""
    return RunError(f"{record.views.path if record.views else record.path} is damaged: {what}")


def measured(record: Record) -> str:
    """Of which samples and weights the views are, for a title."""
    if record.epoch is not None:
        return f"epoch {record.epoch}"
    found = _BEST.fullmatch(record.views.path.stem) if record.views else None
    return f"{_SPLITS[found[1]]} split, best weights" if found else ""
