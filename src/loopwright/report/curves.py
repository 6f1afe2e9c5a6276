"""The learning curves of a run, drawn from its record alone: `python -m loopwright.report.curves RUN`.

`figures/loss.svg|png` shows the loss of every step, its moving average and the losses of each epoch;
`figures/metrics.svg|png` one small panel per validation metric with the best epoch marked. The same record gives the
same bytes.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, ScalarFormatter, StrMethodFormatter

from loopwright.errors import LoopwrightError, RunError, UserError
from loopwright.record.files import write_atomic
from loopwright.report import frame
from loopwright.report.frame import Columns

Array = np.ndarray[Any, np.dtype[np.float64]]

# Okabe and Ito's palette (2008): told apart with any colour vision, and in grey.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
LIGHT_BLUE, INK, GREY = "#BBD9EC", "#1A1A1A", "#767676"
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
# Beyond this many steps a line per step is a blot of megabytes: the range of each bin is drawn instead.
_BINS = 1000
# Losses that span more than this factor are drawn on a logarithmic axis.
_LOG_RATIO = 30.0


def draw(run_dir: Path) -> list[Path]:
    """Draw what the record holds into `figures/` and return the files; none where there is nothing to draw yet.

    Raises RunError when the directory does not exist or its tables are damaged.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise RunError(f"{run_dir} does not exist; name a run directory")
    epochs, steps = frame.metrics(run_dir), frame.steps(run_dir)
    result = _result(run_dir / "result.json")
    written: list[Path] = []
    # The person's own matplotlibrc must not change the record's figures.
    with matplotlib.style.context(["default", STYLE]):
        for name, figure in (("loss", loss_figure(epochs, steps)), ("metrics", metrics_figure(epochs, result))):
            if figure is not None:
                written += [_save(figure, run_dir / "figures" / f"{name}.{kind}") for kind in ("svg", "png")]
    return written


def loss_figure(epochs: Columns, steps: Columns) -> Figure | None:
    """Loss against the optimizer step: every step (light), its moving average, and both losses of each epoch."""
    x_steps, per_step = _series(steps, "step", "loss")
    per_epoch = [(_series(epochs, "step", f"{split}_loss"), split) for split in ("train", "val")]
    drawn = [per_step, *(y for (_, y), _ in per_epoch)]
    if not any(len(y) for y in drawn):
        return None
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if len(per_step):
        _draw_steps(axes, x_steps, per_step)
    for (x, y), split in per_epoch:
        if len(y):
            marker = "o" if len(y) <= 60 else ""
            look: dict[str, Any] = (
                {"color": INK, "linestyle": "" if marker else "-"} if split == "train" else {"color": ORANGE}
            )
            name = "train" if split == "train" else "validation"
            axes.plot(x, y, marker=marker, markersize=3, label=_counted(f"{name}, per epoch", y), zorder=3, **look)
    strides = set(np.diff(_series(epochs, "step", "step")[1], prepend=0.0).tolist())
    axes.set_xlabel(f"optimizer step ({strides.pop():,.0f} per epoch)" if len(strides) == 1 else "optimizer step")
    axes.set_ylabel("loss")
    finite = np.concatenate([y[np.isfinite(y)] for y in drawn])
    if len(finite) and finite.min() > 0 and finite.max() / finite.min() > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylabel("loss (log scale)")
    else:
        _plain_numbers(axes)
    _whole_numbers(axes, np.concatenate([x_steps, *(x for (x, _), _ in per_epoch)]), nbins=8)
    axes.legend(loc="best")
    return figure


def metrics_figure(epochs: Columns, result: dict[str, Any]) -> Figure | None:
    """A small panel per validation metric against the epoch; the best epoch is marked in each."""
    names = [name for name in epochs if name.startswith("val_") and len(_series(epochs, "epoch", name)[1])]
    if not names:
        return None
    num_columns = len(names) if len(names) <= 3 else min(4, math.ceil(math.sqrt(len(names))))
    num_rows = math.ceil(len(names) / num_columns)
    figure = Figure(figsize=(max(2.3 * num_columns, 4.0), 1.7 * num_rows + 0.4), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    best_epoch, rule = _best(epochs, result)
    for axes, name in zip(grid, names, strict=False):
        x, y = _series(epochs, "epoch", name)
        axes.plot(x, y, color=BLUE, marker="o" if len(y) <= 60 else "", markersize=2.5)
        title = name.removeprefix("val_")
        axes.set_title(title, loc="left", fontsize=min(9.0, max(5.0, 180 / len(title))))
        _plain_numbers(axes, nbins=4)
        _whole_numbers(axes, _series(epochs, "epoch", "epoch")[0], nbins=5)
        if not np.isfinite(y).any():
            axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="center", color=GREY)
            axes.set_yticks([])
        for value in y[(x == best_epoch) & np.isfinite(y)]:
            axes.axvline(best_epoch, color=GREEN, linewidth=0.9, zorder=1)
            axes.plot([best_epoch], [value], "o", color=GREEN, markersize=5, zorder=4)
            axes.set_title(f"{value:.4g}", loc="right", fontsize=8, color=GREEN)
    for index, axes in enumerate(grid):
        if index >= len(names):
            axes.remove()
        elif index + num_columns >= len(names):
            axes.set_xlabel("epoch")
    if rule:
        figure.suptitle(
            f"validation metrics; green: best epoch {best_epoch:.0f}, {rule}", fontsize=9, x=0.01, ha="left"
        )
    return figure


def _draw_steps(axes: Axes, x: Array, y: Array) -> None:
    """The loss of every step, or of bins of steps where there are very many, and its centred moving average."""
    stride = float(np.median(np.diff(x))) if len(x) > 1 else 1.0
    label = _counted("train, per step", y)
    bin_size = math.ceil(len(y) / _BINS) if len(y) > 4 * _BINS else 1
    if bin_size == 1:
        dots = "o" if len(y) < 3 else ""
        axes.plot(x, y, color=LIGHT_BLUE, linewidth=0.8, marker=dots, markersize=3, label=label, zorder=2)
    else:
        filled = np.append(y, np.full(-len(y) % bin_size, np.nan)).reshape(-1, bin_size)
        x = np.append(x, np.full(-len(x) % bin_size, x[-1])).reshape(-1, bin_size).mean(axis=1)
        masked = np.ma.masked_invalid(filled)
        low, high, y = (getattr(masked, what)(axis=1).filled(np.nan) for what in ("min", "max", "mean"))
        axes.fill_between(x, low, high, color=LIGHT_BLUE, linewidth=0, label=f"{label} (range of {bin_size})", zorder=2)
    half = len(y) // 80
    if half:
        window = np.ones(2 * half + 1)
        finite = np.isfinite(y)
        counts = np.convolve(finite, window, "same")
        sums = np.convolve(np.where(finite, y, 0.0), window, "same")
        mean = np.divide(sums, counts, out=np.full(len(y), np.nan), where=counts > 0.5)
        num_steps = len(window) * bin_size * stride
        axes.plot(x, mean, color=BLUE, label=f"train, mean of {num_steps:,.0f} steps", zorder=2.5)


def _best(epochs: Columns, result: dict[str, Any]) -> tuple[float, str]:
    """The best epoch and the rule it follows; (nan, "") where the record does not say which metric is watched."""
    known = str(result.get("monitor") or "val_loss")
    monitor = known if known in epochs else f"val_{known}"
    mode = result.get("mode") or ("min" if monitor.endswith("loss") else None)
    x, y = _series(epochs, "epoch", monitor)
    finite = np.isfinite(y)
    if mode not in ("min", "max") or not finite.any():
        return math.nan, ""
    best = result.get("best")
    recorded = best.get("epoch") if isinstance(best, dict) else None
    order = y if mode == "min" else -y
    epoch = (
        float(recorded) if isinstance(recorded, int) and recorded in x else float(x[finite][np.argmin(order[finite])])
    )
    return epoch, f"{'lowest' if mode == 'min' else 'highest'} {monitor}"


def _series(columns: Columns, x: str, y: str) -> tuple[Array, Array]:
    """Two columns as arrays, rows with an empty cell left out; an infinite y becomes a gap (nan), like nan itself."""
    pairs = [(a, b) for a, b in zip(columns.get(x, ()), columns.get(y, ()), strict=False) if None not in (a, b)]
    table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], np.where(np.isfinite(table[:, 1]), table[:, 1], np.nan)


def _counted(label: str, y: Array) -> str:
    missing = int(np.isnan(y).sum())
    return f"{label} ({missing} not finite)" if missing else label


def _plain_numbers(axes: Axes, nbins: int = 6) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=nbins))
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _whole_numbers(axes: Axes, x: Array, nbins: int) -> None:
    """An x axis that spans all of `x` and has its ticks at whole numbers."""
    low, high = x.min(), x.max()
    margin = 0.03 * (high - low) or 0.5
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(
        FixedLocator([low]) if low == high else MaxNLocator(nbins, integer=True, steps=[1, 2, 5, 10])
    )
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _result(path: Path) -> dict[str, Any]:
    """What result.json says; nothing while the run goes on."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _save(figure: Figure, path: Path) -> Path:
    """Write a figure, without the date or the version that would make equal figures differ."""
    image = io.BytesIO()
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(image, format=path.suffix[1:], dpi=200, metadata=metadata)
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, image.getvalue(), durable=False)
    return path


def main(arguments: Sequence[str]) -> int:
    """Draw one run; the exit code."""
    try:
        if len(arguments) != 1:
            raise UserError("usage: python -m loopwright.report.curves RUN")
        draw(Path(arguments[0]))
    except LoopwrightError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
