"""One pass over the rows of an events file: checked, hashed, and measured where they are for training.

Letters of shapes: N rows, T token slots, F features, G globals.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from loopwright.engine.task import Split
from loopwright.errors import DataError
from loopwright.tasks.autoencoder.hdf5 import Stored
from loopwright.tasks.autoencoder.layout import (
    FEATURES,
    FIRST_GLOBAL,
    GLOBALS,
    SETS,
    Array,
    column_name,
    failures,
    features_of,
    globals_of,
    types_of,
)
from loopwright.tasks.autoencoder.rows import numbered

SMALLEST_STD = 1e-8
_LARGEST = float(np.finfo(np.float32).max)


class Moments:
    """Mean and standard deviation of columns, and their extremes, from slices of rows, in float64.

    Slices are merged by their means and sums of squared deviations (Chan, Golub and LeVeque 1979): no large number is
    taken from another.
    """

    def __init__(self, num_columns: int) -> None:
        self.count = 0
        self.mean, self._squares = np.zeros(num_columns), np.zeros(num_columns)
        self.least, self.most = np.full(num_columns, np.inf), np.full(num_columns, -np.inf)

    def add(self, rows: Array) -> None:
        """Take in rows (N, C)."""
        if not len(rows):
            return
        values = np.ascontiguousarray(rows.T, np.float64)  # sums along a row are five times as fast, and pairwise
        mean, total = values.mean(1), self.count + len(rows)
        apart = mean - self.mean
        self._squares += np.square(values - mean[:, None]).sum(1) + apart**2 * (self.count * len(rows) / total)
        self.mean = self.mean + apart * (len(rows) / total)
        self.count = total
        self.least = np.minimum(self.least, values.min(1))
        self.most = np.maximum(self.most, values.max(1))

    @property
    def std(self) -> Array:
        """Of the rows themselves (divided by their number), `SMALLEST_STD` at least."""
        return np.maximum(np.sqrt(self._squares / max(self.count, 1)), SMALLEST_STD)


@dataclass(frozen=True)
class Scaled:
    """Makes samples of rows: (tokens (N, T, F) float32, types (N, T) int64, globals (N, G) float32), scaled.

    By the mean and std of the training split's real tokens, feature by feature, whatever the slot: a token reads the
    same in every slot, and a slot that is seldom filled does not get a scale from a handful of tokens. Padding is 0.
    """

    token_mean: Array
    token_std: Array
    global_mean: Array
    global_std: Array

    def __call__(self, rows: Array) -> tuple[Tensor, Tensor, Tensor]:
        types = types_of(rows).astype(np.int64)
        tokens = torch.empty(len(rows), types.shape[1], len(FEATURES))
        globals_ = torch.empty(len(rows), len(GLOBALS))
        scaled = (features_of(rows).astype(np.float64) - self.token_mean) / self.token_std
        tokens.numpy()[:] = np.where(types[:, :, None] > 0, scaled, 0.0)
        globals_.numpy()[:] = (globals_of(rows).astype(np.float64) - self.global_mean) / self.global_std
        return tokens, torch.from_numpy(types), globals_


@dataclass(frozen=True)
class Survey:
    """What one pass over all sets found. `num_tokens` counts the real tokens of a set, `num_types` padding too;
    `per_type` has the tokens of each type in the training split."""

    fingerprint: str
    scaled: Scaled
    num_types: int
    num_tokens: Mapping[Split, int]
    per_type: Mapping[int, int]


def survey(where: str, sets: Mapping[Split, Stored], rows: Mapping[Split, Iterable[Array]]) -> Survey:
    """Go through the slices of every set once.

    The fingerprint is a hash of the numbers as they are, whichever way they are stored. Raises DataError for the first
    row that fails a check, and where scaling would leave float32.
    """
    state = hashlib.sha256()
    largest, num_tokens = 0, dict.fromkeys(SETS, 0)
    per_type = np.zeros(1, np.int64)
    moments = {split: (Moments(len(FEATURES)), Moments(len(GLOBALS))) for split in SETS}
    for split, name in SETS.items():
        state.update(f"{name} {sets[split].dtype.str} {sets[split].num_rows}".encode())
        for first, slice_ in numbered(rows[split]):
            for _, _, said in failures(name, first, slice_):
                raise DataError(f"{where}: {said}")
            state.update(np.ascontiguousarray(slice_).data)
            types = types_of(slice_).astype(np.int64)
            real = types > 0
            num_tokens[split] += int(real.sum())
            largest = max(largest, int(types.max()))
            moments[split][0].add(features_of(slice_)[real])
            moments[split][1].add(globals_of(slice_))
            if split == "train":
                counts = np.bincount(types[real], minlength=len(per_type))
                counts[: len(per_type)] += per_type
                per_type = counts
    tokens, globals_ = moments["train"]
    scaled = Scaled(tokens.mean, tokens.std, globals_.mean, globals_.std)
    for split, name in SETS.items():
        _check_reach(where, name, moments[split], scaled)
    used = {int(number): int(per_type[number]) for number in np.flatnonzero(per_type)}
    return Survey(state.hexdigest(), scaled, largest + 1, num_tokens, used)


def _check_reach(where: str, name: str, moments: tuple[Moments, Moments], scaled: Scaled) -> None:
    """A column that is constant in the training split is divided by the smallest std; what varies elsewhere may explode."""
    pairs = (
        (moments[0], scaled.token_mean, scaled.token_std, FEATURES),
        (moments[1], scaled.global_mean, scaled.global_std, tuple(map(column_name, (FIRST_GLOBAL, FIRST_GLOBAL + 1)))),
    )
    for held, mean, std, names in pairs:
        reach = np.maximum(np.abs(held.least - mean), np.abs(held.most - mean)) / std
        for column in np.flatnonzero(reach > _LARGEST):
            raise DataError(
                f"{where}: {names[column]} of {name} lies {reach[column]:.1e} standard deviations of the training split "
                "from its mean, which float32 does not hold; is it constant in X_train?"
            )
