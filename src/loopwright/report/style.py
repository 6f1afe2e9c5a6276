"""How every figure looks: palette, matplotlib settings, axes with plain numbers, and saving to the same bytes."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter, StrMethodFormatter

from loopwright.record.files import explained, write_atomic
from loopwright.report.frame import Array

# Okabe and Ito's palette (2008): told apart with any colour vision, and in grey.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
LIGHT_BLUE, INK, GREY = "#BBD9EC", "#1A1A1A", "#767676"
CATEGORIES = (BLUE, ORANGE, GREEN, "#CC79A7", "#E69F00", "#56B4E9", INK, GREY)
# Even steps of lightness (Nunez and others, 2018): what comes first is dark, what comes last is light.
ORDERED = "cividis"
# How the axis of the rows of metrics.csv is called.
ROW_LABELS = {"epoch": "epoch", "step": "optimizer step"}
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "font.size": 9,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "loopwright",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Values that span more than this factor are drawn on a logarithmic axis.
_LOG_RATIO = 30.0


@contextmanager
def applied() -> Iterator[None]:
    """Our settings and no others: a person's own matplotlibrc must not change the record's figures."""
    with matplotlib.style.context(["default", STYLE]), warnings.catch_warnings():
        # A token or metric may be named in a script that the font lacks; it is drawn as an empty box.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def rendered(figure: Figure, kind: str) -> bytes:
    """The file content of a figure (`svg`, `png`), without the date or the version that would make equal figures differ."""
    image = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {"Software": None}
    figure.savefig(image, format=kind, dpi=200, metadata=metadata)
    return image.getvalue()


def save(image: bytes, path: Path) -> Path:
    """Write a rendered figure; returns its path. Raises MachineError where there is no room, RunError where it may not."""
    with explained(path, len(image)):
        path.parent.mkdir(exist_ok=True)
    write_atomic(path, image, durable=False)
    return path


def literal(name: str) -> str:
    """A name from the record as text that matplotlib draws as it stands: `$` starts no formula, control characters show."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
    return "".join(shown).replace("$", r"\$")


def headline(figure: Figure, text: str) -> None:
    """A title over the whole figure, broken into lines that fit its width."""
    # 9 pt letters are about half as wide as high: 72 / 4.6 of them to an inch.
    lines = textwrap.wrap(text, max(20, int(figure.get_figwidth() * 15.6)))
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left")


def small_title(axes: Axes, name: str) -> None:
    """A panel's name at its upper left, smaller where it is long."""
    axes.set_title(literal(name), loc="left", fontsize=min(9.0, max(5.0, 180 / max(1, len(name)))))


def no_value(axes: Axes) -> None:
    """Say that a panel has nothing to show."""
    axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=GREY)
    axes.set_yticks([])


def counted(label: str, y: Array) -> str:
    """A label that says how many values are missing from the line."""
    missing = int(np.isnan(y).sum())
    return f"{label} ({missing} not finite)" if missing else label


def dotted(y: Array, most: int = 60) -> str:
    """The marker of a line: dots while they can be told apart."""
    return "o" if len(y) <= most else ""


class _ShareLocator(MaxNLocator):
    """Ticks of values that cannot leave 0..1, though the axis does to show dots at its ends in full."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        ticks = np.asarray(super().tick_values(vmin, vmax))
        if not _inside(ticks[(ticks >= vmin) & (ticks <= vmax)]).all():
            self.set_params(steps=[1, 2, 5, 10])  # 1 is a multiple of these
            ticks = np.asarray(super().tick_values(max(vmin, 0.0), min(vmax, 1.0)))
        return [float(tick) for tick in ticks]


def _inside(values: Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which values lie in 0..1, but for a rounding of the ticks."""
    return np.asarray((values > -1e-9) & (values < 1 + 1e-9))


def plain_numbers(axes: Axes, nbins: int = 6, values: Array | None = None) -> None:
    """A y axis whose numbers are written out, without an offset; no tick beyond 0..1 where all `values` lie there."""
    finite = np.array([]) if values is None else values[np.isfinite(values)]
    share = bool(len(finite)) and bool(_inside(finite).all())
    axes.yaxis.set_major_locator((_ShareLocator if share else MaxNLocator)(nbins=nbins))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def whole_numbers(axes: Axes, x: Array, nbins: int) -> None:
    """An x axis that spans all of `x` and has its ticks at whole numbers."""
    low, high = x.min(), x.max()
    margin = 0.03 * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(
        FixedLocator([low]) if low == high else MaxNLocator(nbins, integer=True, steps=[1, 2, 5, 10])
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def scaled(axes: Axes, label: str, values: Array) -> None:
    """Label the y axis, logarithmic where the finite `values` are positive and span more than a factor of 30."""
    finite = values[np.isfinite(values)]
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylabel(f"{label} (log scale)")
        if np.floor(np.log10(finite.max())) - np.ceil(np.log10(finite.min())) < 1:  # one power of ten tells no scale
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylabel(label)
        plain_numbers(axes)


def best_line(axes: Axes, at: float, **look: Any) -> None:
    """A thin green line at the epoch or step that counts."""
    axes.axvline(at, color=GREEN, linewidth=0.9, zorder=1, **look)
