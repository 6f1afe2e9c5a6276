"""Samples of tokens as pictures: a grid of images where a sample is one, else each feature against the token.

Letters of shapes: S samples, T tokens, F features, R rows and C columns of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loopwright.errors import RunError
from loopwright.record.read import read_json
from loopwright.report.captures import spread
from loopwright.report.frame import Array, Record
from loopwright.report.shown import alike, unfit, view, whole
from loopwright.report.style import GREY, INK, ORANGE, literal, no_value

_MOST_FEATURES = 4
_MOST_TOKENS = 120  # side by side
_PER_LINE = 8
_GAP = "#C9D6DF"  # what is between pictures is no pixel
_LOOKS: tuple[dict[str, Any], ...] = (
    {"color": INK, "marker": "o", "markersize": 3.5, "markerfacecolor": "none"},
    {"color": ORANGE, "marker": "x", "markersize": 4},
)


@dataclass(frozen=True)
class Tokens:
    """Arrays (S, T, F) that belong together, by what they are called; which tokens are real; the layout of a picture.

    `scale` are the values between which pictures go from white to black: the originals, where there are any.
    """

    arrays: Mapping[str, Array]
    real_ST: np.ndarray[Any, np.dtype[np.bool_]]
    image: tuple[int, int, int] | None
    features: tuple[str, ...]
    scale: Array

    @classmethod
    def of(cls, record: Record, names: Mapping[str, str], types: str) -> Tokens | None:
        """The views `names`, as they are called in the figure, with the types beside them; None where one is missing.

        Raises RunError where they are damaged.
        """
        arrays = {shown: view(record, name, 3) for name, shown in names.items()}
        found = {shown: array for shown, array in arrays.items() if array is not None}
        if len(found) < len(arrays):
            return None
        first = next(iter(found.values()))
        alike(record, " and ".join(names), [array.shape for array in found.values()])
        types_ST = whole(record, types, 2)
        real_ST = np.ones(first.shape[:2], dtype=bool) if types_ST is None else types_ST > 0
        alike(record, f"{types} and {next(iter(names))}", [real_ST.shape, first.shape[:2]])
        original = view(record, "original", 3)
        scale = first if original is None else original
        return cls(found, real_ST, _image(record, first.shape[1:]), _features(record, first.shape[2]), scale)

    def drawn(self) -> Figure:
        return self._features_drawn() if self.image is None else self._pictures_drawn(*self.image)

    def _pictures_drawn(self, rows: int, columns: int, side: int) -> Figure:
        """Lines of pictures, those of each array below those of the one before, all in one scale."""
        first = next(iter(self.arrays.values()))
        finite = self.scale[np.isfinite(self.scale)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
        per_line, gap = min(len(first), _PER_LINE), max(1, columns // 10)
        starts = range(0, len(first), per_line)
        lines = [(name if not start else "", start, array) for start in starts for name, array in self.arrays.items()]
        height, width = rows + gap, columns + gap
        shape = height * len(lines) + gap, width * per_line + gap
        sheet = np.ma.MaskedArray(np.zeros(shape), mask=True)
        for line, (_, start, array_STF) in enumerate(lines):
            for place, tokens_TF in enumerate(array_STF[start : start + per_line]):
                top, left = line * height + gap, place * width + gap
                sheet[top : top + rows, left : left + columns] = picture(tokens_TF, rows, columns, side)
        size = 0.8 * per_line, 0.8 * len(lines) * height / width
        figure = Figure(figsize=(max(3.2, size[0] + 1.5), size[1] + 0.6), layout="constrained")
        axes = figure.add_subplot()
        colors = matplotlib.colormaps["gray_r"].with_extremes(bad=_GAP)
        shown = axes.imshow(sheet, cmap=colors, vmin=low, vmax=high if high > low else low + 1, interpolation="none")
        axes.grid(visible=False)
        axes.set_xticks([])
        named = [
            (line * height + gap + (rows - 1) / 2, literal(name)) for line, (name, _, _) in enumerate(lines) if name
        ]
        axes.set_yticks([at for at, _ in named], [name for _, name in named], rotation=90, va="center")
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        figure.colorbar(shown, ax=axes, label="pixel value", fraction=0.03, pad=0.02, aspect=18, ticks=MaxNLocator(4))
        return figure

    def _features_drawn(self) -> Figure:
        """A panel for each feature: the real tokens of a few samples, one sample beside the other."""
        counts = self.real_ST.sum(axis=1)
        num_samples = max(1, int(np.searchsorted(np.cumsum(counts), _MOST_TOKENS, side="right")))
        sample_N, token_N = np.nonzero(self.real_ST[:num_samples])
        ends = np.cumsum(counts[:num_samples]) + np.arange(1, num_samples + 1)  # an empty place between samples
        place_N = np.arange(len(sample_N)) + sample_N
        features = spread(range(len(self.features)), _MOST_FEATURES)
        figure = Figure(figsize=(7.2, 1.2 * len(features) + 0.9), layout="constrained")
        panels = figure.subplots(len(features), 1, squeeze=False, sharex=True).ravel()
        for axes, feature in zip(panels, features, strict=True):
            values = [array[sample_N, token_N, feature] for array in self.arrays.values()]
            for look, name, value_N in zip(_LOOKS, self.arrays, values, strict=False):
                axes.plot(place_N, value_N, linestyle="", label=name, **look)
            for end in ends[:-1]:
                axes.axvline(end - 1, color=GREY, linewidth=0.6, zorder=1)
            if not any(np.isfinite(value_N).any() for value_N in values):
                no_value(axes)
            axes.grid(axis="x", visible=False)
            axes.yaxis.set_major_locator(MaxNLocator(4))
            axes.set_ylabel(literal(self.features[feature]))
        panels[-1].set_xlim(-1, max(1, int(ends[-1]) - 1))
        middles = ends - 1 - (counts[:num_samples] + 1) / 2
        panels[-1].set_xticks(middles, [str(sample + 1) for sample in range(num_samples)])
        panels[-1].tick_params(axis="x", length=0)
        panels[-1].set_xlabel("sample, its tokens in their order")
        if len(self.arrays) > 1:
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(self.arrays))
        figure.align_ylabels(panels)
        return figure


def picture(tokens_TF: Array, rows: int, columns: int, side: int) -> Array:
    """The picture (R, C) that square patches of `side` x `side` pixels make, both in the order of reading."""
    patches = tokens_TF.reshape(rows // side, columns // side, side, side)
    return patches.transpose(0, 2, 1, 3).reshape(rows, columns)


def _image(record: Record, shape: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(rows, columns, patch side) where a sample is a picture. Raises RunError where the tokens (T, F) do not make one."""
    image = whole(record, "image", 1)
    if image is None:
        return None
    rows, columns, side = (int(size) for size in image) if len(image) == 3 else (0, 0, 0)
    if min(rows, columns, side) < 1 or rows % side or columns % side or shape != (rows * columns // side**2, side**2):
        raise unfit(record, f"tokens of shape {shape} make no picture of (rows, columns, patch side) {image.tolist()}")
    return rows, columns, side


def _features(record: Record, count: int) -> tuple[str, ...]:
    """The features' names in `task/data.json`, else numbers from 1."""
    path = record.path / "task" / "data.json"
    names = (read_json(path) or {}).get("features")
    if isinstance(names, list) and len(names) == count:
        if not all(isinstance(name, str) for name in names):
            raise RunError(f"{path} is damaged: 'features' are no names")
        return tuple(names)
    return tuple(f"feature {number + 1}" for number in range(count))
