"""Bins of string lengths, for accuracies by length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

Bin = tuple[int, int]


def length_bins(edges: Sequence[int], shortest: int, longest: int) -> tuple[Bin, ...]:
    """The bins (lowest, highest), both inclusive, that the upper `edges` cut the lengths into; every length is in one.

    >>> length_bins((5, 10, 15, 20), 1, 12)
    ((1, 5), (6, 10), (11, 12))
    """
    uppers = [edge for edge in edges if shortest <= edge < longest] + [longest]
    return tuple((low + 1, high) for low, high in pairwise([shortest - 1, *uppers]))


def bin_name(edges: Bin) -> str:
    """The metric's name of a bin."""
    return f"token_accuracy_len_{edges[0]}_{edges[1]}"
