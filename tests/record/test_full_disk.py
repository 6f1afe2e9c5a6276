"""A full or failing disk: a clear message, exit code 5, nothing lost that was committed, and the run goes on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import MachineError
from loopwright.record import files
from loopwright.record.files import AppendFile, write_atomic, write_durable
from support.cli import TINY, command, train
from support.compare import assert_same

RECIPE = (*TINY, "train.epochs=3", "record.checkpoint_every='3 steps'")


class Disk:
    """Stands in for `os` in record/files.py; fails the n-th call that a test names."""

    def __init__(self, call: str, when: Callable[[Any], bool], code: int = errno.ENOSPC) -> None:
        self.call, self.when, self.code = call, when, code
        self.failed = 0

    def __getattr__(self, name: str) -> Any:
        original = getattr(os, name)
        if name != self.call:
            return original

        def attempt(*arguments: Any) -> Any:
            if self.when(arguments[0]):
                self.failed += 1
                raise OSError(self.code, os.strerror(self.code))
            return original(*arguments)

        return attempt


def opened(word: str) -> Callable[[Any], bool]:
    return lambda path: word in str(path)


def after(count: int) -> Callable[[Any], bool]:
    """From the (count + 1)-th call on, for good: a disk does not become emptier by itself."""
    calls = [0]

    def full(_: Any) -> bool:
        calls[0] += 1
        return calls[0] > count

    return full


FAULTS = {
    "a checkpoint": Disk("open", opened("step_000000009")),
    "the index": Disk("open", opened("index.json")),
    "the very first checkpoint": Disk("open", opened("step_000000003")),
    "model.pt": Disk("open", opened("model.pt")),
    "the result": Disk("open", opened("result.json")),
    "the rename of the index": Disk("replace", opened("index.json")),
    "rows of the tables, at the start": Disk("pwrite", after(0)),
    "rows of the tables, later": Disk("pwrite", after(7)),
    "syncing, at the start": Disk("fsync", after(6)),
    "syncing, later": Disk("fsync", after(40)),
    "any write": Disk("write", after(9)),
    "the end of a quota": Disk("open", opened("step_000000012"), errno.EDQUOT),
    "a broken disk": Disk("fsync", after(30), errno.EIO),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_full_disk_ends_with_5_and_the_run_goes_on_to_the_same_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Disk
) -> None:
    whole = train(tmp_path / "whole", *RECIPE[len(TINY) :])
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", fault)
        ended = command("train", *RECIPE, "--out", tmp_path / "full")
    assert fault.failed > 0
    assert ended.code == 5, ended.err
    assert len(ended.errors) == 1 and "Traceback" not in ended.err
    assert os.strerror(fault.code) in ended.errors[0] and "intact" in ended.errors[0]
    assert str(tmp_path / "full") in ended.errors[0]
    again = command("train", *RECIPE, "--out", tmp_path / "full", "--resume", "--json")
    assert again.code == 0, again.err
    assert_same(whole.run, again.run)


def test_committed_checkpoints_survive_the_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "os", Disk("open", opened("step_000000012")))
        ended = command("train", *RECIPE, "--out", tmp_path)
    assert ended.code == 5
    again = command("train", *RECIPE, "--out", tmp_path, "--resume")
    assert "going on from step 9 " in again.err


def test_failed_write_leaves_nothing_and_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.json"
    write_atomic(path, "old")
    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", Disk(call, lambda _: True))
            with pytest.raises(MachineError, match=r"no room to write .*f\.json"):
                write_atomic(path, "new")
        assert path.read_text() == "old"
    for call in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(files, "os", Disk(call, lambda _: True))
            with pytest.raises(MachineError):
                write_durable(tmp_path / "new.pt", b"x" * 10)
        assert not (tmp_path / "new.pt").exists()


def test_rows_that_found_no_room_are_kept_and_written_whole_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = AppendFile(tmp_path / "t.csv", 0)
    table.append("a,b\n")
    table.flush()
    table.append("1,2\n3,4\n")

    class HalfFull(Disk):
        """Takes half of what it is given, then is full."""

        def __getattr__(self, name: str) -> Any:
            if name != "pwrite":
                return getattr(os, name)

            def attempt(descriptor: int, data: bytes, position: int) -> int:
                self.failed += 1
                if self.failed > 1:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return os.pwrite(descriptor, data[: len(data) // 2], position)

            return attempt

    with monkeypatch.context() as patch:
        patch.setattr(files, "os", HalfFull("pwrite", lambda _: True))
        with pytest.raises(MachineError, match="no room"):
            table.flush()
    assert (tmp_path / "t.csv").read_text() == "a,b\n" and table.length == 12
    table.sync()
    table.close()
    assert (tmp_path / "t.csv").read_text() == "a,b\n1,2\n3,4\n"


def test_other_errors_keep_their_kind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_durable(tmp_path / "none" / "f", b"")
