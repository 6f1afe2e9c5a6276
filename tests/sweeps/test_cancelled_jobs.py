"""A job that a person takes out of the cluster's queue: the command that watches leaves it alone, the next one trains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from loopwright.sweeps.launcher import INTERRUPTED, JobState
from loopwright.sweeps.launchers.inline import InlineSettings
from loopwright.sweeps.run import run_sweep
from support.sweeps import Scripted, plan


class Withdrawn(Scripted):
    """Whose jobs that end with 75 were cancelled by a person."""

    def poll(self) -> Mapping[int, JobState]:
        return {number: replace(state, cancelled=state.code == INTERRUPTED) for number, state in super().poll().items()}


def test_it_is_left_alone_until_the_command_is_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = Withdrawn({1: [INTERRUPTED]})
    monkeypatch.setattr(InlineSettings, "build", lambda *given: launcher)
    ended = run_sweep(plan(), out=tmp_path)
    assert [line.status for line in ended.lines] == ["interrupted", "completed"]
    assert (ended.exit_code, launcher.started) == (INTERRUPTED, [1, 2])
    ended = run_sweep(plan(), out=tmp_path)
    assert [line.status for line in ended.lines] == ["completed"] * 2
    assert (ended.exit_code, launcher.started) == (0, [1, 2, 1])
