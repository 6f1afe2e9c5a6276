"""Signals to real processes: a checkpoint and 75 for the first one, the end at once for the second."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.compare import assert_same, trajectory
from support.warm import Child, Warm

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
TRAIN = (
    "train",
    "experiment=self_test",
    "task.data.rows=100",
    "model.hidden=[4]",
    "model.dropout=0.2",
    "train.batch_size=8",
    "train.epochs=4",
    "plots=none",
    "record.code=false",
    "record.console_every=0",
    "--resume",
    "--out",
)


def only_run(root: Path) -> Path:
    (run,) = root.glob("*/2*")
    return run


def status(run: Path) -> str:
    return str(json.loads((run / "result.json").read_text())["status"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    root = tmp_path_factory.mktemp("whole")
    warm.finish(*TRAIN, root)
    return only_run(root)


def held(warm: Warm, root: Path, place: str, nth: int) -> Child:
    child = warm.start(*TRAIN, root, hold=place, nth=nth)
    assert warm.standing_at(child)
    return child


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("place", "nth", "step"), [("a step", 1, 1), ("a step", 13, 13), ("an evaluation", 2, 18)])
def test_first_signal_ends_with_75_after_a_checkpoint(
    tmp_path: Path, warm: Warm, whole: Path, number: int, place: str, nth: int, step: int
) -> None:
    child = held(warm, tmp_path, place, nth)
    child.send(number)
    child.go_on()
    assert child.wait() == 75, child.err()
    run = only_run(tmp_path)
    assert (
        status(run) == "interrupted" and f"in step {step};" in json.loads((run / "result.json").read_text())["reason"]
    )
    index = json.loads((run / "checkpoints/index.json").read_text())
    assert index["last"] == f"step_{step:09d}.pt"
    assert child.err().startswith(f"warning: {signal.Signals(number).name}: a checkpoint follows at the next step")
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_second_signal_ends_at_once_and_the_run_still_goes_on(
    tmp_path: Path, warm: Warm, whole: Path, number: int, code: int
) -> None:
    """A process that dies of SIGTERM is 143 to a shell."""
    child = held(warm, tmp_path, "a step", 13)
    child.send(number)
    while "once more stops at once" not in child.err():
        time.sleep(0.002)  # two signals of a kind at one instant are one
    child.send(number)
    assert child.wait() == code
    assert "Traceback" not in child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))


def test_warnings_of_a_scheduler_may_come_as_often_as_they_like(tmp_path: Path, warm: Warm, whole: Path) -> None:
    child = held(warm, tmp_path, "a step", 13)
    child.send(signal.SIGUSR1)
    while "once more stops at once" not in child.err():
        time.sleep(0.002)
    child.send(signal.SIGUSR1)
    child.go_on()
    assert child.wait() == 75, child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_real_command_interrupted_again_and_again(tmp_path: Path, whole: Path, number: int) -> None:
    """In a shell, as a job script would: the same line until it is done."""
    train = [sys.executable, "-m", "loopwright", *TRAIN, str(tmp_path), "record.checkpoint_every='1 steps'"]
    while True:
        process = subprocess.Popen(train, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Every step is a checkpoint with several syncs, so the first of them is well before the end.
        while process.poll() is None and not list(tmp_path.glob("*/2*/checkpoints/index.json")):
            time.sleep(0.001)
        process.send_signal(number)
        _, err = process.communicate()
        if process.returncode == 75:
            break
        # On a busy machine this process may have slept through the whole training; another one is started then.
        assert process.returncode in (0, -number), err
        shutil.rmtree(only_run(tmp_path))
    assert status(only_run(tmp_path)) == "interrupted"
    again = [*train[:-1], "record.checkpoint_every='30 s'"]
    assert subprocess.run(again, capture_output=True).returncode == 0
    assert status(only_run(tmp_path)) == "completed"
    assert trajectory(only_run(tmp_path)) == trajectory(whole)
