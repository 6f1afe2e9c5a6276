"""A disk that is really full: a small file system in memory where this process may mount one, else the failing layer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import loopwright
from loopwright.engine.hooks import Hook, Info
from loopwright.errors import MachineError
from loopwright.record.index import Index
from support.cli import TINY, command, train
from support.compare import assert_same
from support.faults import Disk

RECIPE = (*TINY, "model.hidden=[256,256]", "train.epochs=3", "record.checkpoint_every='1 steps'", "record.keep_last=3")
MIB = 2**20


class Room(Hook):
    """Takes all the room that is left, but for `left` bytes, after a step; gives it back when asked."""

    def __init__(self, root: Path, step: int, left: int) -> None:
        self.file, self.step, self.left = root / "somebody_elses.bin", step, left

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            with self.file.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(b"\0" * 4096)
                except OSError:
                    pass
                size = file.tell()
                file.truncate(max(0, size - self.left))

    def give_back(self) -> None:
        self.file.unlink()


class Layer(Hook):
    """The same without a mount: from a step on, nothing that needs room gets it."""

    def __init__(self, root: Path, step: int, left: int) -> None:
        self.disk, self.step = Disk(root), step

    def on_step_end(self, info: Info) -> None:
        self.disk.full = self.disk.full or info.step == self.step

    def give_back(self) -> None:
        self.disk.full = False


@contextmanager
def small_disk(where: Path, layer: bool) -> Iterator[type[Room] | type[Layer]]:
    """A file system of 24 MiB at a place; whoever may not mount gets the layer."""
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "loopwright-test", str(where)]
    if layer or subprocess.run(mount, capture_output=True).returncode != 0:
        yield Layer
        return
    try:
        yield Room
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.parametrize("layer", [False, True], ids=["mounted where permitted", "layer"])
@pytest.mark.parametrize("left", [0, 300_000])
def test_a_full_disk(tmp_path: Path, left: int, layer: bool) -> None:
    """No room at all, and room for a part of a checkpoint (of some 0.8 MiB)."""
    whole = train(tmp_path / "whole", *RECIPE[len(TINY) :]).run
    size = (whole / "checkpoints/step_000000015.pt").stat().st_size
    assert 0.5 * MIB < size < 2 * MIB
    where = tmp_path / "small"
    with small_disk(where, layer) as kind:
        filler = kind(where, 7, left)
        arguments: dict[str, Any] = {"out": where, "resume": True}
        if isinstance(filler, Layer):
            with filler.disk.install(), pytest.raises(MachineError) as caught:
                loopwright.train(*RECIPE, **arguments, hooks=[filler])
        else:
            with pytest.raises(MachineError) as caught:
                loopwright.train(*RECIPE, **arguments, hooks=[filler])
        (run,) = where.glob("self_test/2*")
        message = str(caught.value)
        assert caught.value.exit_code == 5
        assert "No space left" in message and str(run) in message and "MiB needed" in message
        assert "step_0000000" not in message or f"{size / MIB:.1f} MiB needed" in message
        index = Index.read(run / "checkpoints")
        assert not index.from_files and [index.load(entry)["step"] for entry in index.entries]
        newest = index.last
        assert newest is not None and newest.step >= 5
        assert not list(run.glob("checkpoints/.*.tmp"))
        if isinstance(filler, Room) and left == 0:
            ended = command("train", *RECIPE, "--out", where, "--resume")  # there is still no room
            assert ended.code == 5 and len(ended.errors) == 1 and "No space left" in ended.errors[0], ended.err
        filler.give_back()
        again = command("train", *RECIPE, "--out", where, "--resume", "--json")
        assert again.code == 0, again.err
        assert f"going on from step {newest.step} " in again.err
        assert_same(whole, run)
