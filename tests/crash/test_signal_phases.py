"""Signals in every phase of a run: a step, an evaluation, a save, the final test; once, and twice in a row."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from support import warm as places
from support.compare import assert_same
from support.warm import Child, Warm

pytestmark = pytest.mark.slow

TRAIN = (
    "train",
    "experiment=self_test",
    "task.data.rows=60",
    "model.hidden=[4]",
    "model.dropout=0.2",
    "train.batch_size=8",
    "train.epochs=3",
    "plots=none",
    "record.code=false",
    "record.console_every=0",
    "record.checkpoint_every='2 steps'",
    "--resume",
    "--out",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
NUM_EPOCHS = 3
# Where it stands, and which time it comes there; the evaluation after the last epoch's is the final test.
PHASES = {
    "a step": ("a step", 4),
    "an evaluation": ("an evaluation", 2),
    "a save": ("half of a checkpoint is written", 3),
    "a commit": ("the index is renamed, old files are there", 3),
    "the last evaluation": ("an evaluation", NUM_EPOCHS),
    "the final test": ("an evaluation", NUM_EPOCHS + 1),
}


def only_run(root: Path) -> Path:
    (run,) = root.glob("*/2*")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    root = tmp_path_factory.mktemp("whole")
    warm.finish(*TRAIN, root)
    return only_run(root)


def standing(warm: Warm, root: Path, phase: str) -> Child:
    place, nth = PHASES[phase]
    assert place in places.HOLDS
    child = warm.start(*TRAIN, root, hold=place, nth=nth)
    assert warm.standing_at(child)
    return child


def send(child: Child, number: int) -> None:
    """Send a signal and wait until it has been received: two of a kind at one instant are one."""
    child.send(number)
    while "once more stops at once" not in child.err():
        time.sleep(0.002)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", PHASES)
def test_one_signal(tmp_path: Path, warm: Warm, whole: Path, phase: str, number: int) -> None:
    """Between steps: 75 after a checkpoint. After the last epoch nothing is left to interrupt: it ends as it would have."""
    child = standing(warm, tmp_path, phase)
    child.send(number)
    child.go_on()
    code = child.wait()
    run = only_run(tmp_path)
    status = json.loads((run / "result.json").read_text())["status"]
    if phase in ("the last evaluation", "the final test"):
        assert (code, status) == (0, "completed"), child.err()
    else:
        assert (code, status) == (75, "interrupted"), child.err()
        warm.finish(*TRAIN, tmp_path)
    assert_same(whole, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
@pytest.mark.parametrize("phase", [name for name in PHASES if name not in ("a save", "a commit")])
def test_twice_in_a_row(tmp_path: Path, warm: Warm, whole: Path, phase: str, number: int, code: int) -> None:
    """At once, without a checkpoint; the next start goes on from the one before. 143 to a shell for SIGTERM."""
    child = standing(warm, tmp_path, phase)
    send(child, number)
    child.send(number)
    child.go_on()
    assert child.wait() == code, child.err()
    assert "Traceback" not in child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))


@pytest.mark.parametrize("phase", ["a save", "a commit"])
def test_twice_in_a_row_while_a_save_is_under_way(tmp_path: Path, warm: Warm, whole: Path, phase: str) -> None:
    """SIGTERM ends the process in the midst of it, which is a kill like any other."""
    child = standing(warm, tmp_path, phase)
    send(child, signal.SIGTERM)
    child.send(signal.SIGTERM)
    assert child.wait() == -signal.SIGTERM, child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))


@pytest.mark.parametrize("phase", PHASES)
def test_a_schedulers_warning_twice(tmp_path: Path, warm: Warm, whole: Path, phase: str) -> None:
    child = standing(warm, tmp_path, phase)
    send(child, signal.SIGUSR1)
    child.send(signal.SIGUSR1)
    child.go_on()
    assert child.wait() == (0 if phase in ("the last evaluation", "the final test") else 75), child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))


@pytest.mark.parametrize("phase", ["a step", "a save"])
def test_a_schedulers_warning_and_then_its_first_sigterm(tmp_path: Path, warm: Warm, whole: Path, phase: str) -> None:
    """The time limit falls into the save that the warning asked for: it is finished, whoever kills has to send SIGKILL."""
    child = standing(warm, tmp_path, phase)
    send(child, signal.SIGUSR1)
    child.send(signal.SIGTERM)
    child.go_on()
    assert child.wait() == 75, child.err()
    warm.finish(*TRAIN, tmp_path)
    assert_same(whole, only_run(tmp_path))
