"""Fit and residuals of a regression: the points are the predictions, whatever shape the views have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.errors import RunError
from loopwright.report.fit import fit_figure, residuals_figure
from loopwright.report.frame import Record
from loopwright.report.style import applied, rendered
from support.records import record, shows, texts, write_config, write_views

Family = Callable[[Record], Figure | None]
RNG = np.random.default_rng(0)
X, Y = RNG.uniform(size=(50, 1)), RNG.normal(size=(50, 1))
PREDICTED = Y + 0.1 * RNG.normal(size=(50, 1))


def drawn(family: Family, run_dir: Path) -> Figure:
    with applied():
        figure = family(Record(run_dir))
        assert figure is not None
    return figure


def written(family: Family, run_dir: Path) -> Figure:
    """The same, and `figure.svg`."""
    figure = drawn(family, run_dir)
    with applied():
        (run_dir / "figure.svg").write_bytes(rendered(figure, "svg"))
    return figure


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.get_lines()
    }


def dots(axes: Axes) -> list[list[float]]:
    return [list(map(float, point)) for point in np.asarray(axes.collections[0].get_offsets())]


def test_one_feature_is_a_curve_on_the_data(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, x=X, y=Y, predicted=PREDICTED)
    figure = written(fit_figure, run_dir)
    (axes,) = figure.axes
    order = np.argsort(X[:, 0])
    assert lines(axes) == {"predicted": (X[order, 0].tolist(), PREDICTED[order, 0].tolist())}
    assert dots(axes) == np.hstack([X, Y]).tolist()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x", "y")
    assert shows(run_dir / "figure.svg", X[:, 0].tolist(), Y[:, 0].tolist())
    assert not shows(run_dir / "figure.svg", X[:, 0].tolist(), PREDICTED[:, 0].tolist())
    assert {"data", "predicted", "fit, 50 samples: test split, best weights"} <= set(texts(run_dir / "figure.svg"))


def test_several_features_are_predicted_against_true(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_config(run_dir, task={"data": {"target": "price $"}})
    write_views(run_dir, "evaluation/val_best_views", x=np.hstack([X, X]), y=Y, predicted=PREDICTED)
    figure = written(fit_figure, run_dir)
    (axes,) = figure.axes
    assert dots(axes) == np.hstack([Y, PREDICTED]).tolist()
    ends, same = lines(axes)["predicted = true"]
    assert ends == same and ends[0] < min(Y.min(), PREDICTED.min()) and ends[1] > max(Y.max(), PREDICTED.max())
    assert axes.get_xlim() == axes.get_ylim() == tuple(ends) and axes.get_aspect() == 1.0
    r2 = 1 - np.mean((Y - PREDICTED) ** 2) / np.var(Y)
    assert axes.get_title(loc="right") == f"R\N{SUPERSCRIPT TWO} {r2:.3f}"
    assert shows(run_dir / "figure.svg", Y[:, 0].tolist(), PREDICTED[:, 0].tolist())
    found = texts(run_dir / "figure.svg")
    assert {"true price $", "predicted price $", "fit, 50 samples: validation split, best weights"} <= set(found)


def test_residuals_and_their_histogram(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, x=X, y=Y, predicted=PREDICTED)
    axes, counts = written(residuals_figure, run_dir).axes
    residual = (Y - PREDICTED)[:, 0]
    assert dots(axes) == np.stack([PREDICTED[:, 0], residual], axis=1).tolist()
    assert shows(run_dir / "figure.svg", PREDICTED[:, 0].tolist(), residual.tolist())
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "predicted y",
        "residual of y\n(true \N{MINUS SIGN} predicted)",
    )
    assert counts.get_xlabel() == "samples"
    assert sum(bar.get_width() for bar in counts.patches) == 50  # type: ignore[attr-defined]
    said = f"mean {residual.mean():.3g}\nstd {residual.std():.3g}".replace("-", "\N{MINUS SIGN}")
    assert counts.get_title(loc="left") == said
    for panel in (axes, counts):
        assert [np.asarray(line.get_ydata()).tolist() for line in panel.get_lines()] == [[0.0, 0.0]]


@pytest.mark.parametrize(("family", "per_output"), [(fit_figure, 1), (residuals_figure, 2)])
def test_several_outputs(tmp_path: Path, family: Family, per_output: int) -> None:
    run_dir = record(tmp_path / "run")
    y = RNG.normal(size=(20, 6))
    write_config(run_dir, task={"data": {"target": list("abcdef")}})
    write_views(run_dir, x=RNG.normal(size=(20, 3)), y=y, predicted=2 * y)
    figure = drawn(family, run_dir)
    assert len(figure.axes) == 4 * per_output
    assert [axes.get_xlabel()[-1] for axes in figure.axes[::per_output]] == list("abcd")
    write_config(run_dir, task={"data": {"target": ["a", "b"]}})  # not as many names: numbers
    assert drawn(family, run_dir).axes[0].get_xlabel().endswith(" y 1")
    assert "the first 4 of 6 outputs" in str(drawn(fit_figure, run_dir).get_suptitle())


def test_predictions_that_are_not_finite_are_counted(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    strange = PREDICTED.copy()
    strange[:3, 0] = [np.nan, np.inf, 1e300]
    write_views(run_dir, x=X, y=Y, predicted=strange)
    figure = drawn(fit_figure, run_dir)
    assert len(dots(figure.axes[0])) == 47
    assert str(figure.get_suptitle()).endswith("; 3 predictions are not finite")
    assert len(dots(drawn(residuals_figure, run_dir).axes[0])) == 47
    write_views(run_dir, x=X, y=Y, predicted=np.full_like(Y, np.nan))
    for family in (fit_figure, residuals_figure):
        assert "no finite value" in [text.get_text() for text in drawn(family, run_dir).axes[0].texts]


@pytest.mark.parametrize("value", [0.0, -3.0, 1e12])
def test_one_sample_and_constants(tmp_path: Path, value: float) -> None:
    run_dir = record(tmp_path / "run")
    for count in (1, 4):
        for features in (1, 2):
            constant = np.full((count, 1), value)
            write_views(run_dir, x=np.full((count, features), value), y=constant, predicted=constant)
            for family in (fit_figure, residuals_figure):
                assert len(dots(drawn(family, run_dir).axes[0])) == count
    for family in (fit_figure, residuals_figure):
        written(family, run_dir)


def test_nothing_to_draw(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    for family in (fit_figure, residuals_figure):
        assert family(Record(run_dir)) is None
    write_views(run_dir, class_confusion=np.eye(2), y=Y)
    for family in (fit_figure, residuals_figure):
        assert family(Record(run_dir)) is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y[:7]}, r"y and predicted do not fit together \(\(7, 1\), \(50, 1\)\)"),
        ({"x": X[:7]}, "the samples of x and y do not fit together"),
        ({"predicted": PREDICTED[:, 0]}, r"predicted is float64 of shape \(50,\); a figure needs numbers in 2 dim"),
        ({"y": np.array([["a"]])}, "y is <U1 of shape"),
        (
            {"x": np.empty((0, 1)), "y": np.empty((0, 1)), "predicted": np.empty((0, 1))},
            r"x is float64 of shape \(0, 1\)",
        ),
        ({"x": np.array([[object()]])}, "Object arrays cannot be loaded"),
    ],
)
def test_damage_is_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    run_dir = record(tmp_path / "run")
    path = write_views(run_dir, **{"x": X, "y": Y, "predicted": PREDICTED, **arrays})
    for family in (fit_figure, residuals_figure):
        with pytest.raises(RunError, match=message) as raised:
            family(Record(run_dir))
        assert str(path) in str(raised.value)


def test_views_of_an_epoch_say_so(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run")
    write_views(run_dir, "captures/epoch_0003", x=X, y=Y, predicted=PREDICTED)
    assert fit_figure(Record(run_dir)) is None
    figure = fit_figure(Record(run_dir, 3))
    assert figure is not None and figure.get_suptitle() == "fit, 50 samples: epoch 3"
