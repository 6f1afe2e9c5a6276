"""The gate's figure: the curves, the thresholds as the recipe names them, and where the gate passed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loopwright.report.frame import Record
from loopwright.report.gate import gate_figure
from loopwright.report.style import GREEN, applied, rendered
from support.records import record, texts, write_config, write_result


def walks(run_dir: Path, epochs: int = 4, steps: int = 50, periods: int = 1, **gate: object) -> Path:
    def val(row: int) -> dict[str, object]:
        return {"loss": 3 / row, "edge": 0.9 + row / 50, "rule": "" if row == 1 else row / 5}

    record(run_dir, epochs, steps, periods=periods, val=val)
    write_config(run_dir, stop={"gate": gate or {"edge": 0.95, "val_rule": 0.75}, "hold": 1})
    return run_dir


def drawn(run_dir: Path) -> Figure:
    figure = gate_figure(Record(run_dir))
    assert figure is not None
    return figure


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in axes.get_lines()
    }


def green(axes: Axes) -> list[float]:
    return [float(np.asarray(line.get_xdata())[0]) for line in axes.get_lines() if line.get_color() == GREEN]


def test_metrics_and_thresholds_with_or_without_prefix(tmp_path: Path) -> None:
    loss, gate = drawn(walks(tmp_path / "run")).axes
    assert list(lines(loss)) == ["train, per step", "train, mean of 5 steps"]
    assert loss.get_xlabel() == "optimizer step (50 per epoch)" and loss.get_ylabel() == "loss"
    found = lines(gate)
    assert list(found) == ["edge", "edge: threshold 0.95", "rule", "rule: threshold 0.75"]
    assert found["edge"] == ([1.0, 2.0, 3.0, 4.0], [0.9 + e / 50 for e in (1, 2, 3, 4)])
    assert found["rule"] == ([2.0, 3.0, 4.0], [0.4, 0.6, 0.8])  # no check was possible in epoch 1
    assert found["edge: threshold 0.95"][1] == [0.95, 0.95]
    assert (gate.get_xlabel(), gate.get_ylabel()) == ("epoch", "gated metrics")


@pytest.mark.parametrize(
    ("result", "title", "step", "epoch"),
    [
        ({}, "gate not passed yet", [], []),
        ({"gate_passed": False, "last": {"epoch": 4, "step": 200}}, "gate not passed", [], []),
        (
            {"gate_passed": True, "last": {"epoch": 4, "step": 200}},
            "gate passed at epoch 4; green: where it passed",
            [200.0],
            [4.0],
        ),
        ({"gate_passed": True, "last": {"epoch": "4"}}, "gate not passed yet", [], []),
        ({"gate_passed": True, "last": None}, "gate not passed yet", [], []),
        ({"gate_passed": None, "status": "completed"}, "gate not passed yet", [], []),
    ],
)
def test_where_the_gate_passed(
    tmp_path: Path, result: dict[str, object], title: str, step: list[float], epoch: list[float]
) -> None:
    run_dir = walks(tmp_path / "run")
    write_result(run_dir, **result)
    figure = drawn(run_dir)
    assert figure.get_suptitle() == title
    assert [green(axes) for axes in figure.axes] == [step, epoch]


def test_rows_within_epochs_stand_at_their_steps(tmp_path: Path) -> None:
    run_dir = walks(tmp_path / "run", 2, 50, periods=2)
    write_result(run_dir, gate_passed=True, last={"epoch": 2, "step": 75})
    figure = drawn(run_dir)
    loss, gate = figure.axes
    assert lines(gate)["edge"][0] == [25.0, 50.0, 75.0, 100.0]
    assert lines(gate)["rule"][0] == [50.0, 75.0, 100.0]
    assert (loss.get_xlabel(), gate.get_xlabel()) == ("optimizer step", "optimizer step")
    assert loss.get_xlim() == gate.get_xlim()
    assert green(loss) == green(gate) == [75.0]
    assert figure.get_suptitle() == "gate passed at step 75; green: where it passed"


def test_a_gate_that_was_never_asked_is_not_drawn(tmp_path: Path) -> None:
    run_dir = walks(tmp_path / "run")
    write_result(run_dir, status="completed", last={"epoch": 4, "step": 200})
    assert gate_figure(Record(run_dir)) is None


def test_metrics_of_different_size_have_an_axis_each(tmp_path: Path) -> None:
    run_dir = walks(tmp_path / "run", loss=0.5, edge=0.95)
    write_config(run_dir, stop={"gate": {"loss": 0.5, "edge": 0.95}, "hold": 3})
    figure = drawn(run_dir)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "validation loss", "validation edge"]
    assert [list(lines(axes)) for axes in figure.axes[1:]] == [
        ["loss", "loss: threshold 0.5"],
        ["edge", "edge: threshold 0.95"],
    ]
    assert figure.get_suptitle() == "gate not passed yet (3 evaluations in a row)"


def test_the_words_reach_the_file(tmp_path: Path) -> None:
    with applied():
        (tmp_path / "gate.svg").write_bytes(rendered(drawn(walks(tmp_path / "run")), "svg"))
    assert {"edge: threshold 0.95", "rule: threshold 0.75", "gate not passed yet", "gated metrics"} <= set(
        texts(tmp_path / "gate.svg")
    )


def test_missing_and_undefined_values(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", 3, 1, val=lambda e: {"edge": "nan" if e < 3 else 0.5, "rule": ""})
    write_config(run_dir, stop={"gate": {"edge": 0.9, "rule": 0.9, "train_loss": 0.1, "never": 0.2}})
    (run_dir / "steps.csv").unlink()
    *first, loss, never = drawn(run_dir).axes
    assert [list(lines(axes)) for axes in (*first, loss, never)] == [
        ["edge (2 not finite)", "edge: threshold 0.9"],
        ["rule: threshold 0.9 (no value yet)"],
        ["train_loss", "train_loss: threshold 0.1"],
        ["never: threshold 0.2 (no value yet)"],
    ]
    assert loss.get_ylabel() == "train_loss"


def test_one_step_one_epoch_and_none(tmp_path: Path) -> None:
    run_dir = walks(tmp_path / "run", 1, 1)
    loss, gate = drawn(run_dir).axes
    assert lines(loss)["train, per step"][0] == [1.0] and lines(gate)["edge"][0] == [1.0]
    (run_dir / "metrics.csv").write_text("epoch,step\n")
    assert gate_figure(Record(run_dir)) is None
    assert gate_figure(Record(record(tmp_path / "no gate"))) is None
