"""What becomes of a trial's job: deaths are counted whoever starts it again, and a cancelled one is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from loopwright.searches.directory import StudyDirectory
from loopwright.sweeps import attempts
from loopwright.sweeps.launcher import INTERRUPTED, Job, JobState
from loopwright.sweeps.launchers.inline import InlineSettings
from support.studies import facts, search, trials_of
from support.sweeps import Scripted


class Withdrawn(Scripted):
    """Whose jobs that end with 75 were cancelled by a person."""

    def poll(self) -> Mapping[int, JobState]:
        return {number: replace(state, cancelled=state.code == INTERRUPTED) for number, state in super().poll().items()}


def _dies_twice(job: Job) -> int:
    """As on Ray, which starts a killed task again by itself."""
    file = StudyDirectory(Path(job.arguments[0])).attempts_file(job.number)
    attempts.begin(file)
    attempts.begin(file)
    return -9


@pytest.mark.parametrize(("retries", "failed"), [(1, True), (2, False)])
def test_every_death_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int, failed: bool) -> None:
    launcher = Scripted({0: [_dies_twice]})
    monkeypatch.setattr(InlineSettings, "build", lambda *given: launcher)
    outcome = search(tmp_path, trials=1, recipe={"launcher.retries": retries})
    assert outcome.exit_code == 0
    states = [trial.state for trial in trials_of(outcome.found)]
    assert states == ([TrialState.FAIL, TrialState.COMPLETE] if failed else [TrialState.COMPLETE])
    assert launcher.started == ([0, 1] if failed else [0, 0])


@pytest.mark.parametrize("batch", [None, 2])
def test_a_cancelled_job_is_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | None
) -> None:
    keys: dict[str, Any] = {"trials": 3, "batch": batch, "sampler": {"name": "tpe", "n_startup_trials": 1}}
    whole = search(tmp_path / "whole", **keys)
    launcher = Withdrawn({0: [INTERRUPTED]})
    monkeypatch.setattr(InlineSettings, "build", lambda *given: launcher)
    stopped = search(tmp_path / "parts", **keys)
    assert (stopped.exit_code, launcher.started) == (INTERRUPTED, [0, 1] if batch else [0, 1, 2])
    assert trials_of(stopped.found)[0].state == TrialState.RUNNING
    parts = search(tmp_path / "parts", **keys)
    assert parts.exit_code == 0 and launcher.started.count(0) == 2
    assert sorted(set(launcher.started)) == [0, 1, 2]
    if batch:
        assert facts(parts.found) == facts(whole.found)
        assert launcher.started.count(1) == 1
