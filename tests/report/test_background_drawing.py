"""The process that draws: what is in the person's folder is none of its modules, and nothing waits for it too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopwright.config.compose import compose
from loopwright.experiment import run
from loopwright.report import background
from loopwright.report.draw import draw_epochs
from support.interruptions import Signal
from support.records import record

SMALL = ("experiment=self_test", "task.data.rows=60", "model.hidden=[4]", "train.epochs=3", "record.code=false")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A drawing that takes longer than a scheduler would wait."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(999)"])
    monkeypatch.setattr(background, "_drawing", [background.Drawing(process, tmp_path)])
    monkeypatch.setattr(background, "_left_alone", [])
    yield process
    process.kill()
    process.wait()


def test_a_run_that_was_interrupted_waits_for_no_figure(slow: subprocess.Popen[bytes], tmp_path: Path) -> None:
    recipe = compose([*SMALL, "plots=standard"]).recipe
    outcome = run(recipe, out=tmp_path, hooks=[Signal(2, signal.SIGUSR1)])
    assert outcome.status == "interrupted"
    assert background._drawing == [] and slow.poll() is None  # nothing for the program's end to wait for


@pytest.mark.figures
def test_the_figures_of_another_run_are_not_waited_for(slow: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Ten short trainings in one process do not queue for their figures."""
    drawing = background.draw_later(record(tmp_path / "run"), ["losses"])
    assert drawing is not None and slow.poll() is None and len(background._drawing) == 2
    drawing.wait(240)
    assert (tmp_path / "run" / "figures" / "losses.svg").exists()
    background.leave()


@pytest.mark.figures
def test_a_file_in_the_persons_folder_is_no_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "project"
    here.mkdir()
    (here / "queue.py").write_text("raise SystemExit('the wrong module')\n")
    (here / "matplotlib.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(here)
    background.draw_later(record(tmp_path / "run"), ["losses"])
    background.wait()
    assert sorted(path.name for path in (tmp_path / "run" / "figures").iterdir()) == ["losses.png", "losses.svg"]


def test_a_drawing_whose_end_somebody_else_asked_for_has_ended(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    drawing = background.Drawing(process, tmp_path)
    os.waitpid(process.pid, 0)
    drawing.wait(240)
    assert drawing.cpu_seconds() == 0.0


def test_epochs_that_are_no_numbers_have_no_figures(tmp_path: Path) -> None:
    run_dir = record(tmp_path / "run", epochs=4)
    table = run_dir / "metrics.csv"
    header, first, second, third, fourth = table.read_text().splitlines()
    rows = [first, second.replace("2,", "inf,", 1), third.replace("3,", "nan,", 1), fourth.replace("4,", "1e300,", 1)]
    table.write_text("\n".join([header, *rows]) + "\n")
    written = draw_epochs(run_dir, ["metrics"])
    assert [path.name for path in written] == ["metrics-epoch-001.png"]
