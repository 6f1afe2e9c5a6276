"""Screen, then confirm: the best configurations of a screening again, with seeds that it has not seen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.sweeps.confirm import winners
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.entry import Entry
from loopwright.sweeps.launcher import Job
from loopwright.sweeps.launchers.inline import InlineSettings
from loopwright.sweeps.plan import Confirm, Plan, Point
from loopwright.sweeps.run import recorded_plan, run_sweep
from loopwright.sweeps.summary import SweepOutcome, summarise
from support.cli import command
from support.sweeps import Scripted, plan

RATES = (0.01, 0.1, 0.02, 0.001)


def screening(top: int = 2, seeds: int = 2, screened: tuple[int, ...] = (1,)) -> Plan:
    return plan("train.epochs=1", rates=RATES, seeds=screened, confirm=Confirm(top, seeds), name="screening")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    launcher = Scripted()
    monkeypatch.setattr(InlineSettings, "build", lambda self, folder, name: launcher)
    return launcher


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SweepOutcome:
    """A screening and its confirmation that nothing disturbed."""
    return run_sweep(screening(), out=tmp_path_factory.mktemp("whole"))


def test_the_best_get_fresh_seeds(whole: SweepOutcome) -> None:
    screened = [line for line in whole.lines if line.stage == "screen"]
    confirmed = [line for line in whole.lines if line.stage == "confirm"]
    assert (whole.exit_code, len(screened), len(confirmed)) == (0, 4, 4)
    assert {line.seed for line in screened} == {1} and [line.seed for line in confirmed] == [2, 3, 2, 3]
    best = sorted(screened, key=lambda line: line.best or math.inf)[:2]
    assert list(dict.fromkeys(line.label for line in confirmed)) == [line.label for line in best]
    assert all(line.test is not None for line in confirmed)
    # One recipe id: a seed apart from its screening, and nothing else.
    for line in confirmed:
        (twin,) = (other for other in screened if other.label == line.label)
        assert str(line.identity).rpartition("-")[0] == str(twin.identity).rpartition("-")[0]


def test_one_table_shows_both_stages(whole: SweepOutcome) -> None:
    ended = command("sweep", "wait", whole.directory)
    assert ended.code == 0
    head, *rows = ended.out.splitlines()[1:5]
    assert head.split()[:7] == ["configuration", "screened", "val_loss", "n", "val_loss", "test_loss", "test_mae"]
    assert [row.split()[0] for row in rows[:2]] == [row.label for row in whole.rows[:2]]
    assert [row.measured.val.n for row in whole.rows] == [2, 2, 0, 0]
    assert [row.screened and row.screened.val.n for row in whole.rows] == [1, 1, 1, 1]
    assert all(row.measured.test["loss"].std is not None and row.measured.seconds for row in whole.rows[:2])
    lines = (whole.directory / "summary.csv").read_text().splitlines()
    assert lines[0].startswith(
        "configuration,monitor,screened_points,screened_n,screened_val_mean,screened_val_std,points,n,"
    )


def test_again_costs_nothing(whole: SweepOutcome, scripted: Scripted) -> None:
    again = run_sweep(screening(), out=whole.directory.parents[1])
    assert (again, scripted.started) == (whole, [])


def test_the_recorded_plan_is_the_screening(whole: SweepOutcome) -> None:
    assert recorded_plan(SweepDirectory(whole.directory)) == screening()


@pytest.mark.parametrize("point", [4, 7])
def test_killed_anywhere_the_same_command_goes_on(
    whole: SweepOutcome, scripted: Scripted, tmp_path: Path, point: int
) -> None:
    """In the screening, at its last point, and in the confirmation."""

    def killed(job: Job) -> None:
        raise KeyboardInterrupt

    scripted.scripts = {point: [killed]}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(screening(), out=tmp_path)
    second = run_sweep(screening(), out=tmp_path)
    assert scripted.started == [*range(1, point + 1), *range(point, 9)]
    assert [(line.point, line.label, line.seed, line.best, line.stage) for line in second.lines] == [
        (line.point, line.label, line.seed, line.best, line.stage) for line in whole.lines
    ]


def test_seeds_begin_after_the_largest_of_the_screening(tmp_path: Path) -> None:
    outcome = run_sweep(screening(1, 1, screened=(5, 2)), out=tmp_path)
    assert [line.seed for line in outcome.lines] == [5, 2] * 4 + [6]
    (row, *_) = outcome.rows
    assert row.screened is not None and row.screened.val.n == 2


def test_fewer_than_asked_for_are_confirmed_and_it_says_so(
    tmp_path: Path, scripted: Scripted, caplog: pytest.LogCaptureFixture
) -> None:
    scripted.scripts = {1: [2], 3: [2], 4: [1]}
    with caplog.at_level("WARNING", "loopwright"):
        outcome = run_sweep(screening(3, 1), out=tmp_path)
    assert outcome.exit_code == 1
    assert [line.status for line in outcome.lines] == ["failed", "completed", "failed", "failed", "completed"]
    assert "3 configurations were to be confirmed, 1 of the screening ended with a value for each seed" in caplog.text


def test_none_is_confirmed_when_the_sweep_was_stopped(tmp_path: Path, scripted: Scripted) -> None:
    scripted.scripts = {4: [2]}
    outcome = run_sweep(screening(), out=tmp_path, fail_fast=True)
    assert (outcome.exit_code, [line.stage for line in outcome.lines]) == (1, ["screen"] * 4)


@pytest.mark.parametrize(("mode", "best"), [("min", ["b", "a"]), ("max", ["c", "a"])])
def test_winners_are_those_whose_every_seed_has_a_finite_value(mode: str, best: list[str]) -> None:
    values = {"a": (0.4, 0.6), "b": (0.3, 0.5), "c": (0.9, 0.9), "diverged": (0.1, None), "half": (0.01, None)}
    lines = [
        Entry(
            *(number, label, (), seed, "screen"),
            status="completed" if value is not None else "diverged" if label == "diverged" else "failed",
            best=value,
            monitor="val_x",
            mode=mode,
        )
        for number, (label, seed, value) in enumerate(
            ((label, seed, value) for label, pair in values.items() for seed, value in enumerate(pair)), 1
        )
    ]
    rows = summarise(lines, {line.point: {"key": f"{line.label}-s{line.seed}"} for line in lines})
    assert [row.label for row in winners(rows, 2)] == best
    assert len(winners(rows, 9)) == 3


def test_there_is_no_seed_after_the_last(tmp_path: Path) -> None:
    (point,) = plan("train.epochs=1", rates=(0.1,), seeds=(2**63 - 2,), confirm=Confirm(1, 3)).points
    with pytest.raises(ConfigError, match="`seed` is 9223372036854775806 in the screening, after which there are no 3"):
        run_sweep(Plan((Point(point.recipe, stage="screen"),), confirm=Confirm(1, 3)), out=tmp_path)
