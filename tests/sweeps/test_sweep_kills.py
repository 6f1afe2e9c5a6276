"""A sweep that is killed, its parent and its workers, at any instant: nothing lost, and nothing run twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from loopwright.config.compose import compose
from loopwright.experiment import run
from loopwright.sweeps import attempts
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.ledger import view
from support.cli import command
from support.compare import differences
from support.sweeps import SECONDS_VARIABLE, STEPS_VARIABLE, counted

pytestmark = pytest.mark.slow

INTERVAL = 10
EPOCHS, STEPS_PER_EPOCH = 14, 6
RUNS = 6
SWEEP = (
    "train",
    "-m",
    "experiment=null",
    "task.name=support.sweeps:CountedConfig",
    "name=counted",
    "train.batch_size=4",
    f"train.epochs={EPOCHS}",
    "optim.lr=0.05",
    f"seed=range({RUNS})",
    "record.code=false",
    "record.console_every=0",
    f"record.checkpoint_every='{INTERVAL} steps'",
    "launcher.workers=2",
    "launcher.retries=5",
)
STEPS = EPOCHS * STEPS_PER_EPOCH * RUNS


class Driver:
    """The command in a process of its own, its task's steps slow and counted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps_file = root / "steps.txt"
        tests = str(Path(__file__).parents[1])
        path = os.pathsep.join((tests, *filter(None, [os.environ.get("PYTHONPATH")])))
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            STEPS_VARIABLE: str(self.steps_file),
            SECONDS_VARIABLE: "0.02",
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "loopwright", *SWEEP, "--out", str(self.root / "runs")]
        with (self.root / "driver.err").open("a") as errors:
            self.process = subprocess.Popen(command, env=self.environment, stdout=errors, stderr=errors, text=True)
        return self.process

    @property
    def said(self) -> str:
        return (self.root / "driver.err").read_text()

    @property
    def executed(self) -> int:
        return counted(self.steps_file).total()

    def directory(self) -> SweepDirectory:
        (plan,) = self.root.glob("runs/sweeps/*/plan.json")
        return SweepDirectory(plan.parent)

    def workers(self) -> list[int]:
        """The processes that train now; waits until there is one."""
        while True:
            open_ones = [
                attempt.pid
                for file in self.directory().path.glob("points/*.jsonl")
                for attempt in attempts.read(file)
                if attempt.end is None and attempt.run is not None
            ]
            alive = [pid for pid in open_ones if _is_alive(pid)]
            if alive:
                return alive
            assert self.process is not None and self.process.poll() is None, self.said
            time.sleep(0.01)

    def wait_for_steps(self, number: int) -> None:
        """Until so many steps have been executed in all."""
        while self.executed < number:
            assert self.process is not None and self.process.poll() is None, self.said
            time.sleep(0.01)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Driver]:
    driver = Driver(tmp_path)
    yield driver
    if driver.process is not None and driver.process.poll() is None:
        driver.process.kill()
        driver.process.wait()


def test_killed_parents_and_workers_cost_a_checkpoint_interval_each(driver: Driver, tmp_path: Path) -> None:
    instants = random.Random("kill a sweep")
    kills = 0
    process = driver.start()
    # The parent dies at least as often as a worker: it costs nothing, and a worker that dies while a checkpoint is on its
    # way to the disk goes back to the one before.
    for what in ("parent", "worker", "asked", "parent", "worker", "cancelled"):
        driver.wait_for_steps(min(driver.executed + instants.randrange(20, 60), STEPS - 40))
        time.sleep(instants.uniform(0.0, 0.1))
        if what == "worker":
            os.kill(instants.choice(driver.workers()), signal.SIGKILL)
            kills += 1
            continue
        if what == "cancelled":
            assert command("sweep", "cancel", driver.directory().path).code == 0
        else:
            process.send_signal(signal.SIGKILL if what == "parent" else signal.SIGTERM)
        assert process.wait() == (-signal.SIGKILL if what == "parent" else 75), driver.said
        kills += what == "parent"
        process = driver.start()  # at once: the workers of the killed one may still be saving
    assert process.wait() == 0, driver.said

    directory = driver.directory()
    lines = view(directory)
    assert [line.status for line in lines] == ["completed"] * RUNS
    executed = counted(driver.steps_file)
    assert len(executed) == STEPS
    assert executed.total() <= STEPS + kills * INTERVAL, (executed.total(), STEPS, kills)
    # Nothing twice: a directory for each training, in each of which one process ended as completed.
    assert len(list(driver.root.glob("runs/counted/2*"))) == len({line.run for line in lines}) == len(lines)
    reached = killed = 0
    for line in lines:
        sessions = [
            json.loads(text) for text in Path(line.run or "").joinpath("sessions.jsonl").read_text().splitlines()
        ]
        ends = [session["end"] for session in sessions]
        assert ends.count("completed") == 1
        killed += ends.count(None)
        # A killed session tells where it began; what it did not save, the next one repeats.
        begins = [session["step_from"] for session in sessions]
        assert begins == sorted(begins) and sessions[-1]["step_reached"] == EPOCHS * STEPS_PER_EPOCH
        reached += sessions[-1]["step_reached"]
    assert reached == STEPS and killed > 0
    print(f"{kills} kills repeated {executed.total() - STEPS} of {STEPS} steps")
    for line in lines:
        alone = _alone(directory, line.point, tmp_path / "alone")
        # The bits of the run alone, to the last file. This process has imported more sources than a worker, and once it has
        # imported Ray it finds the packages that Ray brings.
        differing = differences(alone, Path(line.run or ""))
        assert [
            text for text in differing if not text.startswith("pip_freeze.txt") and "source_sha256" not in text
        ] == []


def _alone(directory: SweepDirectory, number: int, root: Path) -> Path:
    """The run directory of a point's recipe trained in this process, without a sweep."""
    point = directory.points()[number]
    recipe = compose(base=point["recipe"], allow_import=["support.sweeps"]).recipe
    outcome = run(recipe, out=root, overrides=point["overrides"])
    assert outcome.run is not None
    return Path(outcome.run)


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
