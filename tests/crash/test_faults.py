"""Every operation that one save asks of the disk goes wrong once, in every way; the run goes on to the same bits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import loopwright
from loopwright.errors import MachineError
from loopwright.record.index import Index
from loopwright.record.recorder import RunRecorder
from support.cli import TINY
from support.compare import differences
from support.faults import FAULTS, Crash, Disk, Operation

RECIPE = (*TINY, "task.data.rows=40", "train.epochs=3", "record.checkpoint_every='1 epochs'", "record.keep_last=1")
STEPS = 2  # an epoch
# The first save of a run; one that takes the place of the best and the newest.
SAVES = {"first": STEPS, "replacing": 2 * STEPS}


def train(root: Path) -> Path:
    outcome = loopwright.train(*RECIPE, out=root, resume=True)
    assert not isinstance(outcome, list) and outcome.status == "completed" and outcome.run is not None
    return Path(outcome.run)


def only_run(root: Path) -> Path:
    (run,) = root.glob("*/2*")
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("whole"))


@contextmanager
def watched_save(disk: Disk, save: str) -> Iterator[None]:
    """Let the disk watch one save, rows that are flushed for it included; nothing else happens meanwhile."""
    original = RunRecorder.checkpoint

    def checkpoint(self: RunRecorder, state: Any, tags: frozenset[str], *, now: bool) -> None:
        if state.step != SAVES[save]:
            original(self, state, tags, now=now)
            return self.wait()  # a save in the background would be done at another time in every process
        with disk.watching():
            original(self, state, tags, now=now)
            self.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunRecorder, "checkpoint", checkpoint)
        yield


def operations(root: Path, save: str) -> list[Operation]:
    root.mkdir()
    disk = Disk(root)
    with disk.install(), watched_save(disk, save):
        train(root)
    return disk.operations


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Operation]]:
    return {save: operations(tmp_path_factory.mktemp("count") / save, save) for save in SAVES}


def without_names(operation: Operation) -> str:
    path = operation.path.replace(f".{os.getpid()}.", ".").split("/", 2)
    return f"{operation.kind} {path[2] if len(path) > 2 else '.'}"


def test_what_a_save_asks_of_the_disk_and_in_which_order(asked: dict[str, list[Operation]]) -> None:
    """The protocol as a literal: all data synced, then the index renamed, then what follows the commit."""
    assert [without_names(operation) for operation in asked["replacing"]] == [
        "pwrite events.jsonl",
        "create checkpoints/step_000000004.pt",
        "write checkpoints/step_000000004.pt",
        "fsync checkpoints/step_000000004.pt",
        "fsync checkpoints",
        "fsync metrics.csv",
        "fsync steps.csv",
        "fsync events.jsonl",
        "create .model.pt.tmp",
        "write .model.pt.tmp",
        "fsync .model.pt.tmp",
        "create checkpoints/.index.json.tmp",
        "write checkpoints/.index.json.tmp",
        "fsync checkpoints/.index.json.tmp",
        "replace checkpoints/index.json",
        "fsync checkpoints",
        "unlink checkpoints/step_000000002.pt",
        "replace model.pt",
        "fsync .",
        "unlink checkpoints/epoch_0001.pt",
        *(
            f"{kind} checkpoints/{name}"
            for link in ("last", "best", "epoch_0002")
            for kind, name in (
                ("unlink", f".{link}.pt.tmp"),
                ("symlink", f".{link}.pt.tmp"),
                ("replace", f"{link}.pt"),
            )
        ),
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("save", SAVES)
def test_every_operation_of_a_save_goes_wrong(
    tmp_path: Path,
    whole: Path,
    asked: dict[str, list[Operation]],
    save: str,
    fault: str,
    record_property: Callable[[str, object], None],
) -> None:
    """Before every operation is after the one before it; the end of the list is after the last."""
    wanted = [number for number, operation in enumerate(asked[save]) if operation.can_be(fault)]
    if fault in ("killed", "power cut", "names outlive"):
        wanted.append(len(asked[save]))
    committed = next(n for n, o in enumerate(asked[save]) if str(o).endswith("checkpoints/index.json")) + 1
    for number in wanted:
        root = tmp_path / str(number)
        root.mkdir()
        disk = Disk(root, fault, number)
        with disk.install(), watched_save(disk, save):
            if fault == "short":  # nothing is wrong with it, the rest has to be written
                train(root)
            else:
                with pytest.raises((Crash, MachineError)) as caught:
                    train(root)
        where = f"{fault} at {number}: {asked[save][number]}" if number < len(asked[save]) else f"{fault} at the end"
        assert disk.happened, where
        run = only_run(root)
        if fault in ("no room", "broken"):
            assert isinstance(caught.value, MachineError) and "intact" in str(caught.value), where
            assert str(run) in str(caught.value), where
        index = Index.read(run / "checkpoints")
        newest = index.newest_valid()
        before = SAVES[save] - STEPS
        synced = number > committed if fault in ("power cut", "names outlive") else number >= committed
        if fault == "short":
            assert newest is not None and newest[0].step == 3 * STEPS
        elif synced or fault == "lost rename":  # of the index: the file itself is there, and found
            assert newest is not None and newest[0].step == SAVES[save], where
        else:
            assert (newest[0].step if newest is not None else 0) in (before, SAVES[save]), where
        assert train(root) == run
        lines = differences(whole, run)
        assert not lines, "\n".join([where, *lines])
    record_property("remark", f"{save} save, {fault}: {len(wanted)} operations, all resumed to the same bits")
