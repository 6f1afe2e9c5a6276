"""`launcher=slurm` and the job script on a real Slurm of one node: arrays, requeueing, killed tasks, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from loopwright.api import compose
from loopwright.errors import UserError
from loopwright.experiment import run
from loopwright.record.read import read_json, read_sessions
from loopwright.sweeps import attempts
from loopwright.sweeps.launcher import Job, JobState
from loopwright.sweeps.launchers.slurm import SlurmLauncher, SlurmSettings
from loopwright.sweeps.plan import Plan, Point
from loopwright.sweeps.run import run_sweep
from support.cli import command
from support.slurm import Slurm, slurm
from support.studies import search, trials_of
from support.sweeps import SECONDS_VARIABLE, STEPS_VARIABLE, counted

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[1]
# 18 steps in three epochs.
TRAINING = (
    "task=support.sweeps:CountedConfig",
    "device=cpu",
    "plots=none",
    "record.code=false",
    "record.checkpoint_every='2 steps'",
    "train.epochs=3",
    "train.batch_size=4",
)
EXAMPLE = TESTS.parent / "examples" / "cluster" / "train.sbatch"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """One Slurm for all tests, found by every command that a test starts; arrays have at most four tasks."""
    with (
        slurm(tmp_path_factory.mktemp("slurm") / "s", max_array_size=4) as running,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name in [name for name in os.environ if name.startswith(("SLURM", "SBATCH", "SQUEUE"))]:
            patch.delenv(name)
        for name in ("PATH", "SLURM_CONF"):
            patch.setenv(name, running.env[name])
        patch.setenv("PYTHONPATH", str(TESTS))
        yield running


@pytest.fixture(autouse=True)
def empty_queue(cluster: Slurm) -> Iterator[None]:
    """What a test leaves in the queue ends with it."""
    yield
    if cluster.run("squeue", "--noheader"):
        cluster.run("scancel", "--full", "--signal=KILL", "--user", cluster.run("id", "-un"))
        cluster.run("scancel", "--user", cluster.run("id", "-un"))
        cluster.wait_until_empty(60)


def _slowly(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> Path:
    """Let every step take so long, and write it down in the file that is returned."""
    monkeypatch.setenv(STEPS_VARIABLE, str(folder / "steps"))
    monkeypatch.setenv(SECONDS_VARIABLE, seconds)
    return folder / "steps"


def launcher(folder: Path, **settings: object) -> SlurmLauncher:
    chosen = SlurmSettings.model_validate({"name": "slurm", **settings})
    return SlurmLauncher(chosen, folder / "launcher", "test, of it", settle_seconds=1.0)


def job(folder: Path, number: int, portions: int = 3000, code: int = 0, **asked: int) -> Job:
    """A job that sleeps for so many tenths of a second."""
    arguments = (str(folder / f"file {number}"), str(portions), str(code))
    return Job(number, "support.sleeper", arguments, folder / "logs" / f"{number}.log", **asked)  # type: ignore[arg-type]


def watched(started: SlurmLauncher, until: Callable[[Mapping[int, JobState]], bool]) -> dict[int, JobState]:
    """Look until something holds of the jobs (those that have ended included), and return how they stand."""
    ended: dict[int, JobState] = {}
    limit = time.monotonic() + 90
    while True:
        states = {**ended, **started.poll()}
        ended |= {number: state for number, state in states.items() if state.phase == "ended"}
        if until(states):
            return states
        assert time.monotonic() < limit, states
        time.sleep(0.2)


def all_are(phase: str) -> Callable[[Mapping[int, JobState]], bool]:
    return lambda states: all(state.phase == phase for state in states.values())


def begun(*files: Path) -> None:
    """Wait until the jobs are awake: each has counted a portion."""
    _wait(lambda: all(file.exists() and "portion" in file.read_text() for file in files))


def _wait(until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 90
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.1)


def test_one_array_with_an_exit_code_for_each_task(cluster: Slurm, tmp_path: Path) -> None:
    """A folder with a space, a percent sign and a quote; more jobs than an array may have; a line break in a word."""
    here = tmp_path / "a b%a'c"
    here.mkdir()
    started = launcher(here, time="5 min", resources={"mem": "50M", "--comment": "a 'b' #c\"d"})
    jobs = [job(here, number, 1, code=number % 3) for number in range(1, 5)]
    broken = Job(5, "support.sleeper", (str(here / "two\nlines"), "1", "7"), here / "logs" / "5.log")
    started.submit([*jobs, broken])
    states = watched(started, all_are("ended"))
    assert {number: state.code for number, state in states.items()} == {1: 1, 2: 2, 3: 0, 4: 1, 5: 7}
    arrays = {state.where.removeprefix("slurm ").partition("_")[0] for state in states.values()}
    assert len(arrays) == 2  # of four and of one
    assert (here / "two\nlines").read_text().splitlines()[0] == f"start {states[5].where}"
    assert [(here / "logs" / f"{number}.log").read_text() for number in range(1, 5)] == [
        f"ended with {number % 3}\n" for number in range(1, 5)
    ]
    assert started.poll() == {}
    assert launcher(here).poll() == {}  # each end is told once


def test_a_launcher_that_was_killed_finds_its_jobs(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was killed between sbatch and the note of what Slurm calls the array, and before sbatch."""
    started = launcher(tmp_path)
    started.submit([job(tmp_path, 1, 1), job(tmp_path, 2)])
    with monkeypatch.context() as patch:
        patch.setattr(SlurmLauncher, "hand_in", _killed)
        with pytest.raises(KeyboardInterrupt):
            started.submit([job(tmp_path, 9)])
    for file in (tmp_path / "launcher").glob("*/id"):
        file.unlink()
    begun(tmp_path / "file 2")
    second = launcher(tmp_path)
    states = watched(second, lambda states: states[1].phase == "ended")
    assert states.keys() == {1, 2} and states[1].code == 0 and states[2].phase == "running"
    third = launcher(tmp_path)
    assert {number: state.phase for number, state in third.poll().items()} == {2: "running"}
    third.stop([2])
    assert watched(third, all_are("ended"))[2] == JobState("ended", 75, states[2].where)


def _killed(*_: object) -> str:
    raise KeyboardInterrupt


def test_signals(cluster: Slurm, tmp_path: Path) -> None:
    """USR1 to a task requeues it; cancelled by a person it does not come back; a killed process is told as such."""
    started = launcher(tmp_path, workers=3)
    started.submit([job(tmp_path, number) for number in (1, 2, 3, 4)])
    begun(*(tmp_path / f"file {number}" for number in (1, 2, 3)))
    states = watched(started, lambda states: len(states) == 4)
    assert [states[number].phase for number in (1, 2, 3, 4)] == ["running"] * 3 + ["queued"]  # three workers
    tasks = {number: state.where.removeprefix("slurm ") for number, state in states.items()}
    cluster.run("scancel", "--batch", "--signal=USR1", tasks[1])
    cluster.run("scancel", tasks[2], tasks[4])
    (child,) = _processes("file 3")
    os.kill(child, signal.SIGKILL)
    states = watched(started, lambda states: all(states[number].phase == "ended" for number in (2, 3, 4)))
    assert (states[2].code, states[2].cancelled) == (75, True)
    assert (states[3].code, states[3].cancelled) == (-9, False)
    assert (states[4].code, states[4].cancelled) == (75, True)
    file = tmp_path / "file 1"
    watched(started, lambda states: file.read_text().count("start") == 2)
    started.stop([1])
    stopped = watched(started, all_are("ended"))[1]
    assert (stopped.code, stopped.cancelled) == (75, False)
    time.sleep(1.0)
    assert set(cluster.states().values()) <= {"COMPLETED", "FAILED", "CANCELLED"}
    assert [(tmp_path / f"file {number}").read_text().count("start") for number in (1, 2, 3)] == [2, 1, 1]
    assert not (tmp_path / "file 4").exists()


def _processes(file: str) -> list[int]:
    """The processes that sleep for a file of this name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
            if b"support.sleeper" in words and f"/{file}\0".encode() in words:
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_a_second_array_waits_for_its_turn(cluster: Slurm, tmp_path: Path) -> None:
    """`workers` holds across arrays; a stopped task that waits never starts; one whose script is killed has no code."""
    started = launcher(tmp_path, workers=2)
    started.submit([job(tmp_path, 1), job(tmp_path, 2)])
    started.submit([job(tmp_path, 3)])
    begun(tmp_path / "file 1", tmp_path / "file 2")
    states = watched(started, lambda states: len(states) == 3)
    assert [states[number].phase for number in (1, 2, 3)] == ["running", "running", "queued"]
    started.stop([3])
    (child,) = _processes("file 1")
    os.kill(int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    started.stop([2])
    states = watched(started, all_are("ended"))
    assert [states[number].code for number in (1, 2, 3)] == [None, 75, 75]
    assert not (tmp_path / "file 3").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"partition": "nope"}, "invalid partition.*; `launcher.partition` is 'nope'"),
        ({"gpus": 1}, "generic resource.*; `launcher.gpus` is 1"),
        ({"resources": {"foo": 1}}, "unrecognized option.*; `launcher.resources` is {'foo': 1}"),
        ({"resources": {"mem": "900T"}}, "; `launcher.resources` is {'mem': '900T'}"),
    ],
)
def test_what_slurm_refuses_names_the_key(
    settings: dict[str, object], says: str, cluster: Slurm, tmp_path: Path
) -> None:
    started = launcher(tmp_path, **settings)
    with pytest.raises(UserError, match=f"^sbatch refuses the jobs: .*{says}$"):
        started.submit([job(tmp_path, 1)])
    assert launcher(tmp_path).poll() == {} and not list((tmp_path / "launcher").iterdir())


def test_a_sweep_with_a_killed_and_a_requeued_point(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every point ends with the bits of a run alone."""
    recipes = [compose(*TRAINING, "launcher=slurm", f"seed={seed}") for seed in range(3)]
    steps = _slowly(tmp_path, monkeypatch, "0.25")
    sweep = tmp_path / "runs" / "sweeps" / "three"
    sabotage = threading.Thread(target=_sabotage, args=(cluster, sweep))
    sabotage.start()
    ended = run_sweep(
        Plan(tuple(Point(each) for each in recipes), "three"), out=tmp_path / "runs", allow_import=("support",)
    )
    sabotage.join()
    assert ended.exit_code == 0, [(line.status, line.error) for line in ended.lines]
    monkeypatch.delenv(STEPS_VARIABLE)
    for line, each in zip(ended.lines, recipes, strict=True):
        assert line.run is not None
        alone = run(each, out=tmp_path / "alone")
        result = read_json(Path(line.run) / "result.json")
        assert result is not None and result["weights_sha256"] == alone.weights_sha256
    assert [line.attempts for line in ended.lines] == [2, 2, 1]
    taken = counted(steps)
    assert all(taken[seed, step] == 1 for seed in (1, 2) for step in range(1, 19))
    assert {taken[0, step] for step in range(1, 19)} <= {1, 2}
    assert sum(taken[0, step] for step in range(1, 19)) <= 18 + 2  # what came after the last checkpoint
    assert all(read_sessions(Path(str(line.run)))[1]["step_from"] > 0 for line in ended.lines[:2])
    ends = [[attempt.end for attempt in attempts.read(sweep / "points" / f"{n:04d}.jsonl")] for n in (1, 2, 3)]
    assert ends == [[None, "completed"], ["interrupted", "completed"], ["completed"]]
    assert all(line.where.startswith("slurm ") for line in ended.lines)


def _sabotage(cluster: Slurm, sweep: Path) -> None:
    """Kill the process of point 1, and have the task of point 2 requeued, once both have trained a while."""
    first, second = _training(sweep / "points" / "0001.jsonl"), _training(sweep / "points" / "0002.jsonl")
    os.kill(first.pid, signal.SIGKILL)
    cluster.run("scancel", "--batch", "--signal=USR1", second.where.removeprefix("slurm "))


def _training(file: Path) -> attempts.Attempt:
    """The first process of a point, once its run has a checkpoint."""

    def saved() -> bool:
        tried = attempts.read(file)
        index = read_json(Path(tried[0].run) / "checkpoints" / "index.json") if tried and tried[0].run else None
        return index is not None and any(entry["step"] > 0 for entry in index["files"])

    _wait(saved)
    return attempts.read(file)[0]


def test_a_sweep_that_is_left_alone(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitted and left, cancelled from elsewhere, gone on with by a command that is killed, and finished: no step twice."""
    steps = _slowly(tmp_path, monkeypatch, "0.5")
    out = tmp_path / "runs"
    words = (*TRAINING, "--out", out, "--allow-import", "support", "launcher=slurm", "name=left", "seed=0,1")
    submitted = command("sweep", *words, "--detach", "--json")
    assert submitted.code == 0, submitted.err
    (sweep,) = (out / "sweeps").iterdir()
    files = [sweep / "points" / f"{number:04d}.jsonl" for number in (1, 2)]
    for file in files:
        _training(file)
    standing = command("sweep", "status", sweep, "--json").json
    assert not standing["driven"] and [point["status"] for point in standing["points"]] == ["running"] * 2
    assert [point["where"].partition("_")[2] for point in standing["points"]] == ["0", "1"]
    assert "withdrew 2 runs" in command("sweep", "cancel", sweep).out
    cluster.wait_until_empty()
    standing = command("sweep", "status", sweep, "--json").json
    assert [point["status"] for point in standing["points"]] == ["interrupted"] * 2

    driver = subprocess.Popen(
        [sys.executable, "-m", "loopwright", "sweep", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for file in files:
        _wait(lambda file=file: len(attempts.read(file)) == 2)  # type: ignore[misc]
    driver.kill()
    driver.wait()
    ended = command("sweep", *words, "--json")
    assert ended.code == 0, ended.err
    assert [[attempt.end for attempt in attempts.read(file)] for file in files] == [["interrupted", "completed"]] * 2
    assert counted(steps) == {(seed, step): 1 for seed in (0, 1) for step in range(1, 19)}


def test_a_search_proposes_as_workers_come_free(cluster: Slurm, tmp_path: Path) -> None:
    """The queue would take every trial at once: `workers` says how many are proposed before a result is in."""
    recipe = {"launcher": "slurm", "record.save": True}
    with pytest.raises(UserError, match=r"^the queue of launcher=slurm has room for the whole study, .*--workers N"):
        search(tmp_path / "refused", recipe=recipe)
    found = search(tmp_path, "launcher.workers=2", trials=4, recipe=recipe).found
    trials = trials_of(found)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 4
    first = sorted(trial.datetime_complete for trial in trials if trial.datetime_complete)[0]
    assert all(trial.datetime_start is not None for trial in trials)
    assert sum(trial.datetime_start < first for trial in trials if trial.datetime_start) == 2
    assert len(list(tmp_path.glob("searches/tiny/**/slurm-*/id"))) >= 2


def test_a_job_longer_than_its_time_limit(cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """examples/cluster/train.sbatch: requeued until done, the same bits as in one go. Slurm's least limit is a minute."""
    # 18 steps: too many until the signal comes, which is 15 to 45 s after the start, and few enough for the second start.
    steps = _slowly(tmp_path, monkeypatch, "2.6")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    limits = ("--time=1", "--mem=1G", "--signal=B:USR1@45")
    number = cluster.run(
        "sbatch", "--parsable", *limits, EXAMPLE, "--out", tmp_path / "runs", *TRAINING, "name=long", cwd=tmp_path
    )
    cluster.wait_until_empty()
    log = (tmp_path / f"loopwright-{number}.log").read_text()
    (found,) = (tmp_path / "runs" / "long").glob("2*")
    result = read_json(found / "result.json")
    assert result is not None and result["status"] == "completed", log
    sessions = read_sessions(found)
    assert len(sessions) >= 2 and sessions[1]["step_from"] > 0, log
    assert counted(steps) == {(42, step): 1 for step in range(1, 19)}
    assert "SIGUSR1: a checkpoint follows" in log
    monkeypatch.delenv(STEPS_VARIABLE)
    assert run(compose(*TRAINING), out=tmp_path / "alone").weights_sha256 == result["weights_sha256"]
