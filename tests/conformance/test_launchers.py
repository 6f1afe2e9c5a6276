"""What every launcher does: each job once, its exit code told, its log, its stop, its death; the same bits as alone.

`support.launched` has the launchers, the jobs, and what a launcher is exempt from and why.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loopwright import beside
from loopwright.record.read import read_sessions
from loopwright.sweeps.launcher import INTERRUPTED, Job
from support.cli import TINY
from support.launched import EXEMPT, MEMBERS, Jobs, alive, environment, until

TRAINING = (*TINY, "train.epochs=100")


def members(but: str = "", slow: tuple[str, ...] = ()) -> Any:
    """The launchers but those exempt from `but`; those of `slow` are slow at this."""
    names = [name for name in MEMBERS if but not in EXEMPT.get(name, {})]
    marked = [pytest.param(n, marks=pytest.mark.slow if MEMBERS[n].slow or n in slow else ()) for n in names]
    return pytest.mark.parametrize("jobs", marked, indirect=True)


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    member = MEMBERS[request.param]
    folder = tmp_path_factory.mktemp("launched")
    with environment(**member.variables), member.service(folder):
        launcher = member.build(folder / "launcher")
        try:
            yield Jobs(launcher, folder)
        finally:
            launcher.close()


@members()
def test_every_job_runs_once_and_tells_its_exit_code(jobs: Jobs) -> None:
    given = [jobs.job("say", code) for code in (0, 7, 3, 0)]
    assert jobs.run(*given) == [0, 7, 3, 0]
    assert [len(jobs.reports(job)) for job in given] == [1, 1, 1, 1]
    jobs.states.clear()
    jobs.look()
    assert not jobs.states, "what has ended is named once, then forgotten"


@members()
def test_more_jobs_than_room_are_handed_out_as_there_is_room(jobs: Jobs) -> None:
    room = jobs.launcher.room()
    given = [jobs.job("crowd") for _ in range(5)]
    assert jobs.run(*given) == [0] * 5
    assert all(1 <= jobs.reports(job)[1]["inside"] <= room for job in given)
    assert jobs.launcher.room() == room


@members()
def test_the_log_gets_stdout_and_stderr_and_keeps_what_it_had(jobs: Jobs) -> None:
    job = jobs.job("say", 0)
    job.log.parent.mkdir(exist_ok=True)
    job.log.write_text("of an earlier attempt\n")
    assert jobs.run(job) == [0]
    said = job.log.read_text()
    assert said.startswith("of an earlier attempt\n")
    assert "to stdout\n" in said and "to stderr\n" in said


@members()
def test_a_failing_job_leaves_its_traceback_and_others_go_on(jobs: Jobs) -> None:
    failing, unknown = jobs.job("raise"), jobs.job(module="support.no_such_module")
    left, said, fine = jobs.job("exit", 9), jobs.job("exit", "said on the way out"), jobs.job("say", 0)
    assert jobs.run(failing, unknown, left, said, fine) == [1, 1, 9, 1, 0]
    assert "Traceback" in failing.log.read_text() and "ValueError: planted" in failing.log.read_text()
    assert "no_such_module" in unknown.log.read_text()
    assert "said on the way out" in said.log.read_text()


@members()
def test_a_job_is_told_its_name(jobs: Jobs) -> None:
    job = jobs.job("say", 0)
    jobs.run(job)
    name = jobs.reports(job)[0]["job"]
    assert name and jobs.states[job.number].where == name


@members()
def test_a_job_sees_nothing_of_the_one_before(jobs: Jobs) -> None:
    before, soiling, after = jobs.job("say", 0), jobs.job("soil"), jobs.job("say", 0)
    assert [code for job in (before, soiling, after) for code in jobs.run(job)] == [0, 0, 0]
    clean, found = jobs.reports(before)[0], jobs.reports(after)[0]
    assert "SOILED" not in found["environment"]
    assert found["environment"]["PYTHONPATH"] == clean["environment"]["PYTHONPATH"]
    assert found["folder"] == clean["folder"] == os.getcwd()
    assert found["path"] == clean["path"]
    assert found["stdin"] == ""


@members("killed")
def test_a_killed_job_is_told_or_started_again_and_never_lost(jobs: Jobs) -> None:
    killed, other = jobs.job("die once"), jobs.job("say", 0)
    code, fine = jobs.run(killed, other)
    begun = len(jobs.reports(killed))
    assert fine == 0
    assert (code, begun) in (*(((ended, 1)) for ended in (-signal.SIGKILL, None)), (0, 2))
    again = jobs.job("say", 0)
    assert jobs.run(again) == [0]


@members("stopped")
def test_a_job_that_is_stopped_saves_and_those_that_wait_never_start(jobs: Jobs) -> None:
    room = jobs.launcher.room()
    running = [jobs.job("listen") for _ in range(min(room, 2))]
    jobs.launcher.submit(running)
    jobs.wait([], lambda: all(len(jobs.reports(job)) > 1 for job in running))
    waiting = [jobs.job("listen") for _ in range(2)] if room == len(running) else []
    jobs.launcher.submit(waiting)
    jobs.look()
    assert all(not jobs.ended(job) for job in (*running, *waiting))
    jobs.launcher.stop([job.number for job in (*running, *waiting)])
    assert jobs.wait([*running, *waiting]) == [INTERRUPTED] * len([*running, *waiting])
    assert all(jobs.reports(job)[-1] == {"saved": True} for job in running)
    assert not any(jobs.reports(job) for job in waiting)


@members("stopped")
def test_a_job_that_is_stopped_before_it_can_listen_is_not_lost(jobs: Jobs) -> None:
    job = jobs.job("listen")
    jobs.launcher.submit([job])
    jobs.launcher.stop([job.number])
    assert jobs.wait([job]) == [INTERRUPTED]
    assert jobs.reports(job)[1:] in ([], [{"listens": True}, {"saved": True}])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if member.slow else ())
        for name, member in MEMBERS.items()
        if "orphaned" not in EXEMPT.get(name, {})
    ],
)
def test_jobs_save_and_end_when_their_driver_is_killed(name: str, tmp_path: Path) -> None:
    with environment(**MEMBERS[name].variables):
        command = [sys.executable, "-m", "support.launched", name, str(tmp_path)]
        driver = subprocess.Popen(command, env=beside.environment(), start_new_session=True)
    reports = [tmp_path / f"report{number}.jsonl" for number in (1, 2)]

    def lines(file: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    try:
        until(lambda: all(len(lines(file)) > 1 for file in reports) or driver.poll() is not None)
    finally:
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    until(lambda: all(lines(file)[-1] == {"saved": True} for file in reports))
    until(lambda: not any(alive(lines(file)[0]["pid"]) for file in reports))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights' hash of the training in a process of its own: what `loopwright train` says."""
    command = [sys.executable, "-m", "loopwright", "train", *TRAINING, "--out", str(tmp_path_factory.mktemp("alone"))]
    ended = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    return weights(Path(json.loads(ended.stdout.splitlines()[-1])["run"]))


def weights(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["weights_sha256"])


def training(jobs: Jobs, root: Path, *words: str) -> Job:
    return jobs.job("train", *TRAINING, *words, "--resume", "--out", root, module="loopwright.cli.main")


@members(slow=("local, fresh",))
def test_a_run_has_the_bits_of_the_run_alone(jobs: Jobs, alone: str, tmp_path: Path) -> None:
    roots = [tmp_path / "first", tmp_path / "second"]
    given = [training(jobs, root) for root in roots]
    assert jobs.run(*given) == [0, 0], given[0].log.read_text()
    for root in roots:
        (run,) = root.glob("*/*/result.json")
        assert weights(run.parent) == alone


@members("killed", slow=("local, fresh",))
def test_a_training_that_is_killed_goes_on_to_the_bits_of_the_run_alone(jobs: Jobs, alone: str, tmp_path: Path) -> None:
    job = training(jobs, tmp_path, 'record.checkpoint_every="5 steps"')
    jobs.launcher.submit([job])
    jobs.wait([], lambda: rows(tmp_path) > 5 or jobs.ended(job))
    (run,) = tmp_path.glob("*/*/")
    os.kill(read_sessions(run)[0]["pid"], signal.SIGKILL)
    (code,) = jobs.wait([job])
    if code != 0:  # told, and started again by whoever drives
        assert code in (-signal.SIGKILL, None)
        assert jobs.run(training(jobs, tmp_path)) == [0]
    assert list(tmp_path.glob("*/*/")) == [run]
    first, second = (row["step_from"] for row in read_sessions(run))
    assert first == 0 < second
    assert weights(run) == alone


def rows(root: Path) -> int:
    """Epochs that the one training below `root` has written down."""
    return sum(file.read_text().count("\n") - 1 for file in root.glob("*/*/metrics.csv"))


@members("stopped", slow=("local, fresh",))
def test_a_training_that_is_stopped_saves_a_checkpoint(jobs: Jobs, tmp_path: Path) -> None:
    job = training(jobs, tmp_path, "train.epochs=1000000")
    jobs.launcher.submit([job])
    jobs.wait([], lambda: rows(tmp_path) > 2 or jobs.ended(job))
    jobs.launcher.stop([job.number])
    assert jobs.wait([job]) == [INTERRUPTED], job.log.read_text()
    (index,) = tmp_path.glob("*/*/checkpoints/index.json")
    assert json.loads(index.read_text())["last"]
