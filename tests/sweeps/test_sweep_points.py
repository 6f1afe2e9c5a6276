"""What becomes of points that crash, fail, are busy, interrupted or cancelled."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from loopwright import experiment
from loopwright.errors import ConfigError, LockError, MachineError, UserError
from loopwright.record.lock import DirectoryLock
from loopwright.results import outcome_of
from loopwright.sweeps import attempts, worker
from loopwright.sweeps import points as points_module
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.entry import Entry
from loopwright.sweeps.launcher import Job
from loopwright.sweeps.launchers.inline import InlineSettings
from loopwright.sweeps.ledger import read_ledger
from loopwright.sweeps.plan import Plan, Point
from loopwright.sweeps.progress import Progress, Watcher
from loopwright.sweeps.run import run_sweep
from loopwright.sweeps.summary import SweepOutcome
from support import tasks
from support.sweeps import BROKEN_VARIABLE, Scripted, broken, plan

Run = Callable[..., SweepOutcome]


class Seen(Watcher):
    """Everything a watcher is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []
        self.errors: list[str | None] = []

    def ended(self, entry: Entry, progress: Progress) -> None:
        self.told.append((entry.status, entry.point, progress.done))

    def failed(self, entry: Entry, progress: Progress) -> None:
        self.told.append((entry.status, entry.point, progress.done))
        self.errors.append(entry.error)

    def again(self, entry: Entry, crashes: int, retries: int) -> None:
        self.told.append(("again", entry.point, crashes))
        assert retries == 2


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> Run:
    """Run a sweep of three points on a launcher that does as it is told; a rest takes no time."""
    monkeypatch.setattr(points_module, "FIRST_REST", 0.001)

    def run(launcher: Scripted, asked: Plan | None = None, **options: object) -> SweepOutcome:
        monkeypatch.setattr(InlineSettings, "build", lambda self, folder, name: launcher)
        given = asked or plan("train.epochs=1", rates=(0.1, 0.02, 0.01))
        return run_sweep(given, out=tmp_path, watcher=seen, **options)  # type: ignore[arg-type]

    return run


def statuses(outcome: SweepOutcome) -> list[str]:
    return [line.status for line in outcome.lines]


def test_a_crashed_point_is_started_again_before_the_others(run: Run, seen: Seen) -> None:
    launcher = Scripted({2: [-9, None, None]})
    outcome = run(launcher)
    assert (outcome.exit_code, statuses(outcome)) == (0, ["completed"] * 3)
    assert launcher.started == [1, 2, 2, 3]
    assert seen.told == [("completed", 1, 1), ("again", 2, 1), ("completed", 2, 2), ("completed", 3, 3)]


def test_crashes_beyond_the_retries_are_given_up_until_the_next_command(run: Run, seen: Seen) -> None:
    launcher = Scripted({1: [-9, -11, 5]})
    outcome = run(launcher)
    assert launcher.started == [1, 1, 1, 2, 3]
    assert (outcome.exit_code, statuses(outcome)) == (5, ["crashed", "completed", "completed"])
    assert seen.errors == ["its process ended without a word (exit code 5)"]
    assert read_ledger(SweepDirectory(outcome.directory))[0].status == "crashed"
    again = Scripted()
    assert (run(again).exit_code, again.started) == (0, [1])


def test_a_failing_point_is_told_at_once_and_stops_no_other(
    run: Run, seen: Seen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(BROKEN_VARIABLE, "7")
    launcher = Scripted()
    outcome = run(launcher, broken(7, 8))
    assert (outcome.exit_code, launcher.started) == (1, [1, 2])
    assert seen.told == [("failed", 1, 1), ("completed", 2, 2)]
    assert seen.errors == ["ArithmeticError: seed 7 does not add up"]
    line = outcome.lines[0]
    assert "Traceback" in Path(line.log).read_text() and line.run is not None and line.best is None
    again = Scripted()
    assert (run(again, broken(7, 8)).exit_code, again.started) == (1, [1])  # once more in each command
    monkeypatch.delenv(BROKEN_VARIABLE)
    assert statuses(run(Scripted(), broken(7, 8))) == ["completed", "completed"]


def test_fail_fast_stops_the_rest(run: Run) -> None:
    launcher = Scripted({1: [2]})
    outcome = run(launcher, fail_fast=True)
    assert launcher.started == [1]
    assert (outcome.exit_code, statuses(outcome)) == (1, ["failed", "waiting", "waiting"])
    assert run(Scripted()).exit_code == 0


def test_a_busy_run_is_tried_again_and_is_no_attempt(run: Run, tmp_path: Path) -> None:
    """Another process holds the run for a while."""
    first = run(Scripted())
    held = Path(first.lines[1].run or "")
    (held / "result.json").unlink()
    lock = DirectoryLock(held / ".lock").acquire()

    def released(job: Job) -> None:
        lock.release()

    launcher = Scripted({2: [None, None, released]})
    outcome = run(launcher)
    assert launcher.started == [2, 2, 2]
    assert (outcome.exit_code, statuses(outcome)) == (0, ["completed"] * 3)
    assert (outcome.lines[1].attempts, outcome.lines[1].run) == (2, str(held))
    ends = [attempt.end for attempt in attempts.read(SweepDirectory(outcome.directory).attempts_file(2))]
    assert ends == ["completed", "busy", "busy", "completed"]


def test_a_worker_that_somebody_signals_goes_on_after_a_rest(run: Run, seen: Seen) -> None:
    launcher = Scripted({1: [75, 75]})
    outcome = run(launcher)
    assert (outcome.exit_code, launcher.started.count(1)) == (0, 3)
    assert launcher.started[:2] == [1, 2]
    assert [told[0] for told in seen.told] == ["completed"] * 3


def test_a_worker_that_is_always_interrupted_before_it_can_save_is_given_up(run: Run, seen: Seen) -> None:
    def interrupted(job: Job) -> int:
        file = SweepDirectory(Path(job.arguments[0])).attempts_file(job.number)
        attempts.begin(file)
        attempts.end(file, "interrupted", 130)
        return 130

    launcher = Scripted({1: [interrupted] * 5})
    outcome = run(launcher)
    assert (outcome.exit_code, launcher.started) == (5, [1, 1, 1, 2, 3])
    assert seen.errors == ["its process was interrupted before it could save a checkpoint"]


def test_a_launcher_that_starts_jobs_again_by_itself_has_no_more_tries(run: Run) -> None:
    """Ray starts a task again whose process died, Slurm one that saved a checkpoint: only the former is a crash."""

    def dies(job: Job) -> int:
        file = SweepDirectory(Path(job.arguments[0])).attempts_file(job.number)
        for end in ("interrupted", None, "interrupted", None):
            attempts.begin(file)
            if end is not None:
                attempts.end(file, end, 75)
        return -9

    launcher = Scripted({1: [dies, dies, dies], 2: [dies]})
    outcome = run(launcher)
    assert (outcome.exit_code, launcher.started) == (5, [1, 1, 2, 2, 3])
    assert (statuses(outcome), outcome.lines[0].attempts) == (["crashed", "completed", "completed"], 8)


def test_a_task_that_ends_its_process_has_failed(run: Run, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    train = worker._train

    def leaves(directory: SweepDirectory, number: int, *rest: Any) -> Any:
        return sys.exit("no more of this") if number == 2 else train(directory, number, *rest)

    monkeypatch.setattr(worker, "_train", leaves)
    launcher = Scripted()
    outcome = run(launcher)
    assert (outcome.exit_code, statuses(outcome)) == (1, ["completed", "failed", "completed"])
    assert (launcher.started, seen.errors) == ([1, 2, 3], ["SystemExit: no more of this"])


@pytest.mark.parametrize("function", ["begin", "end"])
def test_a_disk_that_takes_not_even_the_last_words(
    run: Run, seen: Seen, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def fails(*arguments: object, **facts: object) -> None:
        raise MachineError("no room to write anything")

    monkeypatch.setattr(attempts, "end", fails)
    if function == "begin":
        monkeypatch.setattr(attempts, "begin", fails)
    else:
        monkeypatch.setattr(worker, "_train", fails)
    outcome = run(Scripted(), plan("train.epochs=1", rates=(0.1,)))
    assert (outcome.exit_code, statuses(outcome)) == (5, ["crashed"])
    assert seen.errors == ["no room to write anything"]


def test_a_signal_ends_it_and_the_same_command_goes_on(run: Run) -> None:
    def interrupt(job: Job) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return -signal.SIGTERM

    outcome = run(Scripted({2: [interrupt]}))
    assert (outcome.exit_code, statuses(outcome)) == (75, ["completed", "interrupted", "waiting"])
    launcher = Scripted()
    assert (run(launcher).exit_code, launcher.started) == (0, [2, 3])


def test_a_signal_that_an_inline_run_takes_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKEN_VARIABLE, "-8")
    stopped = run_sweep(broken(7, 8, 9), out=tmp_path)
    assert (stopped.exit_code, statuses(stopped)) == (75, ["completed", "interrupted", "waiting"])
    monkeypatch.delenv(BROKEN_VARIABLE)
    done = run_sweep(broken(7, 8, 9), out=tmp_path)
    assert (done.exit_code, done.lines[1].run, done.lines[1].attempts) == (0, stopped.lines[1].run, 2)
    alone = experiment.run(broken(8).points[0].recipe, out=tmp_path / "alone")
    assert outcome_of(Path(done.lines[1].run or "")).weights_sha256 == alone.weights_sha256


def test_a_file_asks_it_to_stop(run: Run, tmp_path: Path) -> None:
    def cancel(job: Job) -> None:
        (Path(job.arguments[0]) / "cancel").touch()

    launcher = Scripted({1: [cancel]})
    outcome = run(launcher)
    assert (outcome.exit_code, statuses(outcome)) == (75, ["completed", "waiting", "waiting"])
    assert not (outcome.directory / "cancel").exists()
    (outcome.directory / "cancel").touch()  # a leftover stops nobody
    assert run(Scripted()).exit_code == 0


def test_a_finished_sweep_starts_no_launcher(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(Scripted())
    launcher = Scripted()
    second = run(launcher)
    assert launcher.started == [] and second.exit_code == 0
    assert (second.lines, second.rows, second.directory) == (first.lines, first.rows, first.directory)
    monkeypatch.setattr(InlineSettings, "build", None)
    assert run_sweep(plan("train.epochs=1", rates=(0.1, 0.02, 0.01)), out=second.directory.parents[1]) == second


def test_a_training_that_two_sweeps_share_is_done_once(run: Run) -> None:
    first = run(Scripted())
    launcher = Scripted()
    second = run(launcher, plan("train.epochs=1", rates=(0.02, 0.005)))
    assert second.directory != first.directory and launcher.started == [1, 2]
    assert second.lines[0].run == first.lines[1].run
    assert len(list(second.directory.parents[1].glob("self_test/2*"))) == 4


def test_a_second_command_is_refused_with_who_works_on_it(run: Run, tmp_path: Path) -> None:
    outcome = run(Scripted())
    with (
        SweepDirectory(outcome.directory).lock,
        pytest.raises(
            LockError, match=rf"worked on by pid {os.getpid()} .* `loopwright sweep status {tmp_path}.* shows how"
        ),
    ):
        run(Scripted())


def test_the_ledger_follows_while_it_works(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points_module, "_WRITE_SECONDS", 0.0)
    found: list[Mapping[int, str]] = []

    def look(job: Job) -> None:
        lines = read_ledger(SweepDirectory(Path(job.arguments[0])))
        found.append({line.point: line.status for line in lines})

    run(Scripted({1: [look], 3: [look]}))
    assert found == [{1: "waiting", 2: "waiting", 3: "waiting"}, {1: "completed", 2: "completed", 3: "waiting"}]


def test_jobs_say_what_they_need_and_what_may_be_imported(run: Run) -> None:
    jobs: list[Job] = []
    recipe = tasks.recipe("Plain", device="cpu", threads=3, launcher="inline")
    asked = Plan((Point(recipe),))
    outcome = run(Scripted({1: [lambda job: jobs.append(job)]}), asked, allow_import=["math"])
    assert outcome.exit_code == 0
    (job,) = jobs
    assert (job.threads, job.gpu) == (3, False)
    assert job.arguments == (str(outcome.directory), "1", "--allow-import", "math", "--allow-import", "support.tasks")


def test_what_no_sweep_can_do(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"`record\.save` is false"):
        run(Scripted(), plan("record.save=false"))
    with pytest.raises(ConfigError, match="no points"):
        run(Scripted(), Plan(()))
    with pytest.raises(UserError, match="--detach: the runs of launcher=inline end with this command"):
        run(Scripted(), wait=False)


def test_a_ledger_that_cannot_be_written_stops_nobody(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = MachineError("no room to write ledger.jsonl")

    def refuse(*arguments: object, **options: object) -> None:
        raise full

    monkeypatch.setattr(points_module, "_WRITE_SECONDS", 0.0)
    monkeypatch.setattr("loopwright.sweeps.ledger.write_atomic", refuse)
    outcome = run(Scripted())
    assert (outcome.exit_code, statuses(outcome)) == (0, ["completed"] * 3)
    assert caplog.text.count("no room to write ledger.jsonl") == 1
