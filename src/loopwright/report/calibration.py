"""Whether probabilities can be believed: `calibration`, how often what is given some probability comes true.

Letters of shapes: S samples, F parts, N = S F forecasts, B bins.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from loopwright.report.frame import Array, Record
from loopwright.report.shown import alike, measured, unfit, view
from loopwright.report.style import BLUE, GREY, INK, LIGHT_BLUE, headline, plain_numbers, scaled

_NUM_BINS, _NUM_CELLS = 12, 40  # of the diagram, of the histogram
_TAIL = 0.5  # per cent of the forecasts at either end whose spread sets no bin
_Z = 1.959964  # 95 %, two-sided


def calibration_figure(record: Record) -> Figure | None:
    """A reliability diagram (Murphy and Winkler 1977) above a histogram of the probabilities.

    A point is a bin: its mean probability and the share that came true, with Wilson's (1927) 95 % interval. The bins are
    equally wide over the middle 99 % of the probabilities; the outer ones take the rest. None without forecasts. Raises
    RunError where the views are damaged.
    """
    probability_SF, target_SF = view(record, "probability", 2), view(record, "target", 2)
    if probability_SF is None or target_SF is None:
        return None
    alike(record, "probability and target", [probability_SF.shape, target_SF.shape])
    kept = np.isfinite(probability_SF) & np.isfinite(target_SF)
    forecast_N, came_N = probability_SF[kept], target_SF[kept]
    if not len(forecast_N) or forecast_N.min() < 0 or forecast_N.max() > 1 or not np.isin(came_N, (0.0, 1.0)).all():
        raise unfit(record, "probability and target are no probabilities beside 0 and 1")
    edges_B = _edges(forecast_N)
    count_B, mean_B, share_B, low_B, high_B = reliability(forecast_N, came_N, edges_B)
    figure = Figure(figsize=(4.4, 5.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    ends = [float(forecast_N.min()), float(forecast_N.max())]
    cells = np.linspace(ends[0], ends[1], _NUM_CELLS + 1)
    above.plot(ends, ends, color=INK, linewidth=0.9, zorder=1, label="perfectly calibrated")
    bars = np.maximum([share_B - low_B, high_B - share_B], 0.0)
    above.errorbar(
        mean_B,
        share_B,
        bars,
        fmt="o",
        color=BLUE,
        markersize=4,
        elinewidth=1.0,
        capsize=2,
        label="observed, 95 %",
        zorder=3,
    )
    above.set_ylabel("share that came true")
    plain_numbers(above, values=np.concatenate([low_B, high_B]))
    rate = float(came_N.mean())
    above.axhline(rate, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), zorder=1, label=f"share of all ({rate:.3f})")
    above.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, ncols=2)
    below.hist(forecast_N, bins=cells.tolist(), color=LIGHT_BLUE, edgecolor=BLUE, lw=0.6)
    below.set_xlabel("predicted probability")
    scaled(below, "forecasts", np.histogram(forecast_N, cells)[0].astype(np.float64))
    error = float((count_B * np.abs(mean_B - share_B)).sum() / count_B.sum())
    said = f"calibration of {len(forecast_N):,} forecasts: {measured(record)}; expected calibration error {error:.4f}"
    headline(figure, said)
    return figure


def reliability(forecast_N: Array, came_N: Array, edges_B: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Of each bin with a forecast: their number, mean probability, share that came true, and its 95 % interval.

    Bin b takes edges_B[b] <= p < edges_B[b + 1]; the first and the last take what lies beyond. The interval is Wilson's:
    (s + z^2/2n +- z sqrt(s (1 - s)/n + z^2/4n^2)) / (1 + z^2/n).
    """
    bin_N = np.digitize(forecast_N, edges_B[1:-1])
    count_B = np.bincount(bin_N, minlength=len(edges_B) - 1).astype(np.float64)
    sums = (np.bincount(bin_N, values, len(edges_B) - 1) for values in (forecast_N, came_N))
    used = count_B > 0
    n, (mean_B, share_B) = count_B[used], (total[used] / count_B[used] for total in sums)
    middle = (share_B + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z * np.sqrt(share_B * (1 - share_B) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return n, mean_B, share_B, middle - reach, middle + reach


def _edges(forecast_N: Array) -> Array:
    low, high = np.percentile(forecast_N, [_TAIL, 100 - _TAIL])
    return np.linspace(low, high, _NUM_BINS + 1) if high > low else np.array([low, high])
