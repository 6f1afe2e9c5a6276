"""A run that may be read and not written to, and what a process that was killed in a write leaves in it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from loopwright.errors import RunError
from loopwright.evaluation import evaluate_run
from loopwright.experiment import run
from loopwright.record.files import write_atomic
from loopwright.report.draw import draw
from support.compare import assert_same
from support.interruptions import interrupted_at, starter
from support.records import record
from support.tokens import events_recipe

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def forbid(monkeypatch: pytest.MonkeyPatch, number: int, *functions: str) -> None:
    """As root nothing is forbidden: let the system say it all the same."""

    def refuse(*given: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    for function in functions:
        monkeypatch.setattr(Path, function, refuse)


@pytest.mark.parametrize("number", FORBIDDEN)
def test_a_file_that_may_not_be_written_is_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch, number, "write_bytes")
    with pytest.raises(RunError, match=r"a\.txt cannot be written \(.+\); work on a copy of the run"):
        write_atomic(tmp_path / "a.txt", "a", durable=False)


@pytest.mark.parametrize("function", ["mkdir", "write_bytes"])
def test_figures_of_a_run_that_may_not_be_written_to(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = record(tmp_path / "run")
    forbid(monkeypatch, errno.EACCES, function)
    with pytest.raises(RunError, match=r"losses\.svg cannot be written \(Permission denied\)"):
        draw(where, ["losses"])


def test_evaluating_a_run_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(events_recipe(train={"epochs": 1}), out=tmp_path)
    assert outcome.run is not None
    forbid(monkeypatch, errno.EROFS, "mkdir")
    with pytest.raises(RunError, match=r"evaluation cannot be written \(Read-only file system\)"):
        evaluate_run(outcome.run, "val", allow_import=("support",))


def test_views_that_a_killed_process_half_wrote_are_swept(tmp_path: Path) -> None:
    """They are written before the result: the next process opens the run once more."""
    start = starter(run, recipe=events_recipe(train={"epochs": 1}, plots="standard"), out=tmp_path / "parts")
    whole = run(events_recipe(train={"epochs": 1}, plots="standard"), out=tmp_path / "whole")

    def killed_in_a_write(**how: object) -> object:
        outcome = start(**how)
        if outcome.status == "interrupted":
            folder = Path(str(outcome.run)) / "evaluation"
            folder.mkdir()
            (folder / ".test_best_views.npz.1.tmp").write_bytes(b"half")
        return outcome

    resumed = interrupted_at(killed_in_a_write, 2)  # type: ignore[arg-type]
    assert_same(whole.run, resumed.run)
