"""Calibration: bins worked out by hand, Wilson's intervals, points where forecasts come true as often as they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report.calibration import calibration_figure, reliability
from loopwright.report.frame import Record
from loopwright.report.style import applied, rendered
from support.records import record, shows, texts, write_views

RNG = np.random.default_rng(1)


def drawn(run_dir: Path) -> Figure:
    with applied():
        figure = calibration_figure(Record(run_dir))
    assert figure is not None
    return figure


def points(figure: Figure) -> tuple[list[float], list[float]]:
    (bars,) = (found for found in figure.axes[0].containers if isinstance(found, ErrorbarContainer))
    return np.asarray(bars[0].get_xdata()).tolist(), np.asarray(bars[0].get_ydata()).tolist()


def test_bins_by_hand() -> None:
    forecast = np.array([0.05, 0.1, 0.3, 0.35, 0.9, 0.95])
    came = np.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    count, mean, share, low, high = reliability(forecast, came, np.array([0.1, 0.3, 0.5, 0.6, 0.9]))
    assert count.tolist() == [2, 2, 2]  # what lies beyond the edges is in the outer bins, an empty bin is left out
    assert mean == pytest.approx([0.075, 0.325, 0.925])
    assert share.tolist() == [0.5, 0.0, 1.0]
    # Wilson, n = 2: 0 of 2 reaches up to z^2 / (n + z^2).
    z2 = 1.959964**2
    assert high[1] == pytest.approx(z2 / (2 + z2)) and low[1] == pytest.approx(0.0)
    assert low[2] == pytest.approx(1 - z2 / (2 + z2)) and high[2] == pytest.approx(1.0)
    assert low[0] == pytest.approx(1 - high[0]) and low[0] == pytest.approx(0.0945, abs=1e-4)


def test_calibrated_forecasts_lie_on_the_line_and_others_do_not(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    probability = RNG.beta(1, 5, size=(500, 39))
    target = (RNG.uniform(size=probability.shape) < probability).astype(np.float32)
    write_views(run_dir, probability=probability.astype(np.float32), target=target)
    figure = drawn(run_dir)
    x, y = points(figure)
    assert 8 <= len(x) <= 12 and np.abs(np.subtract(x, y)).max() < 0.1
    assert y[-1] > 0.4
    assert "expected calibration error 0.00" in " ".join(str(figure.get_suptitle()).split())
    write_views(run_dir, probability=1 - probability, target=target)
    assert np.abs(np.subtract(*points(drawn(run_dir)))).max() > 0.5


def test_the_svg_has_the_points_and_says_what_they_are(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, probability=RNG.uniform(0.05, 0.3, size=(60, 39)), target=RNG.uniform(size=(60, 39)) < 0.2)
    figure = drawn(run_dir)
    with applied():
        (tmp_path / "c.svg").write_bytes(rendered(figure, "svg"))
    assert shows(tmp_path / "c.svg", *points(figure))
    found = set(texts(tmp_path / "c.svg"))
    assert {"perfectly calibrated", "observed, 95 %", "share that came true", "predicted probability"} <= found
    assert any(text.startswith("share of all (0.") for text in found)
    assert any(text.startswith("calibration of 2,340 forecasts: test split, best weights") for text in found)
    above, below = figure.axes
    assert sum(bar.get_height() for bar in below.patches) == 2340  # type: ignore[attr-defined]
    assert above.get_xlim() == below.get_xlim()


@pytest.mark.parametrize("value", [0.0, 0.125, 1.0])
def test_a_model_without_an_opinion(tmp_path: Path, value: float) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, probability=np.full((3, 8), value), target=np.eye(3, 8))
    assert points(drawn(run_dir)) == ([value], [0.125])


def test_forecasts_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, probability=[[0.1, np.nan, 0.3], [0.2, np.inf, 0.4]], target=np.zeros((2, 3)))
    assert "4 forecasts" in str(drawn(run_dir).get_suptitle())


def test_nothing_to_draw_and_damage(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    assert calibration_figure(Record(run_dir)) is None
    write_views(run_dir, probability=np.zeros((2, 3)))
    assert calibration_figure(Record(run_dir)) is None
    for arrays, message in (
        ({"probability": np.full((2, 3), 1.5), "target": np.zeros((2, 3))}, "are no probabilities beside 0 and 1"),
        ({"probability": np.full((2, 3), 0.5), "target": np.full((2, 3), 0.5)}, "are no probabilities beside 0 and 1"),
        ({"probability": np.full((2, 3), np.nan), "target": np.zeros((2, 3))}, "are no probabilities"),
        ({"probability": np.zeros((2, 3)), "target": np.zeros((3, 3))}, "do not fit together"),
        ({"probability": np.zeros(3), "target": np.zeros(3)}, "2 dimension"),
    ):
        path = write_views(run_dir, **arrays)
        with pytest.raises(RunError, match=message) as raised:
            calibration_figure(Record(run_dir))
        assert str(path) in str(raised.value)
