"""The cache: read back to the same arrays, never trusted, never in the way."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright.data.cache import folder
from loopwright.streams import Streams
from loopwright.tasks.walks import cache, corpus
from loopwright.tasks.walks.settings import WalksData, WalksEvaluation
from loopwright.tasks.walks.task import WalksConfig, WalksTask
from support.walks import Mean, tiny_data

WALKS = np.arange(600, dtype=np.int16).reshape(20, 30)
SHAPES: cache.Shapes = {"train": ((18, 30), np.dtype(np.int16)), "val": ((2, 30), np.dtype(np.int16))}


@pytest.fixture(autouse=True)
def where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Path]:
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING, logger="loopwright"):
        yield tmp_path / "cache" / "walks"


class Maker:
    """Makes the arrays and counts how often it had to."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> dict[str, Any]:
        self.times += 1
        return {"train": WALKS[:18].copy(), "val": WALKS[18:].copy()}


def asked(make: Maker, key: str = "a") -> dict[str, Any]:
    held = cache.cached(key, SHAPES, make)
    assert set(held) == {"train", "val"}
    assert (held["train"] == WALKS[:18]).all() and (held["val"] == WALKS[18:]).all()
    assert held["train"].dtype == np.int16
    return held


def test_what_was_made_is_read_the_next_time(where: Path) -> None:
    make = Maker()
    asked(make), asked(make)
    assert make.times == 1 and [file.name for file in where.iterdir()] == ["a.npz"]
    asked(make, "b")
    assert make.times == 2


def test_a_flipped_bit_anywhere_is_found(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    asked(make)
    whole = (where / "a.npz").read_bytes()
    for turn, position in enumerate(range(0, len(whole), 3)):
        broken = bytearray(whole)
        broken[position] ^= 1 << turn % 8
        (where / "a.npz").write_bytes(broken)
        asked(make)  # the arrays are right, whether the bit mattered or not
    assert make.times > 0.8 * len(whole) / 3  # it did nearly everywhere; some bytes of a zip file mean nothing
    assert all("made anew" in line and str(where / "a.npz") in line for line in caplog.messages)
    assert len(caplog.messages) == make.times - 1


@pytest.mark.parametrize("size", [0, 1, 100, -1])
def test_a_file_cut_short_is_made_anew(where: Path, size: int, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    asked(make)
    whole = (where / "a.npz").read_bytes()
    (where / "a.npz").write_bytes(whole[:size])
    asked(make)
    assert make.times == 2 and len(caplog.messages) == 1
    asked(make)
    assert make.times == 2


def test_a_file_of_another_configuration_is_not_taken(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    make = Maker()
    asked(make, "b")
    (where / "b.npz").rename(where / "a.npz")
    asked(make, "a")
    assert make.times == 2 and "not ours" in caplog.messages[0]


class Harm:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm done",)


def test_a_foreign_file_executes_nothing(where: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make = Maker()
    where.mkdir(parents=True)
    harm = np.array([Harm()], dtype=object)
    np.savez(where / "a.npz", train=harm, val=harm, seal=harm)
    asked(make)
    (where / "a.npz").unlink()
    for turn, alone in enumerate((harm, WALKS)):
        np.save(where / "a.npy", alone)
        (where / "a.npy").rename(where / "a.npz")
        asked(make)
        assert make.times == turn + 2
    assert not Path("harm done").exists()


def test_arrays_of_another_shape_or_type_are_not_taken(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sealed rightly, as another version of the program could have done."""
    where.mkdir(parents=True)
    wrong = {"train": WALKS[:17], "val": WALKS[18:]}
    for held in (wrong, {name: walks.astype(np.int32) for name, walks in Maker()().items()}):
        np.savez(where / "a.npz", seal=np.array(cache._seal("a", held)), **held)
        make = Maker()
        asked(make)
        assert make.times == 1
    assert len(caplog.messages) == 2


def test_a_folder_that_cannot_be_written_to_only_warns(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    where.parent.write_text("a file where the folder should be")
    make = Maker()
    asked(make), asked(make)
    assert make.times == 2
    assert (
        caplog.messages
        == [f"the walks cannot be cached in {where} (Not a directory); they are made anew each time"] * 2
    )


def test_a_full_disk_only_warns_and_leaves_nothing(
    where: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(stream: Any, **arrays: Any) -> None:
        stream.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.np, "savez", full)
    make = Maker()
    asked(make)
    assert "No space left on device" in caplog.messages[0] and not list(where.iterdir())


def test_what_a_killed_process_left_is_swept_a_day_later(where: Path) -> None:
    where.mkdir(parents=True)
    old, new = where / "a.1-abc.tmp", where / "a.2-def.tmp"
    for left in (old, new):
        left.write_text("half")
    os.utime(old, (1, 1))
    asked(Maker())
    assert sorted(file.name for file in where.iterdir()) == ["a.2-def.tmp", "a.npz"]


def test_many_at_once_do_no_harm(where: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each writes under a name of its own and renames it: a reader sees a whole file or none."""
    failed: list[BaseException] = []
    start = threading.Barrier(8)

    def work() -> None:
        try:
            start.wait()
            for turn in range(12):
                asked(Maker())
                if turn % 4 == 3:
                    (where / "a.npz").unlink(missing_ok=True)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not list(where.glob("*.tmp"))
    assert not [line for line in caplog.messages if "damaged" in line]


def test_the_folder_is_the_variable_or_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "own"))
    assert folder("walks") == tmp_path / "own" / "walks"
    monkeypatch.delenv("LOOPWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folder("walks") == tmp_path / "xdg" / "loopwright" / "walks"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("walks") == tmp_path / ".cache" / "loopwright" / "walks"


def built(**data: Any) -> WalksTask:
    config = WalksConfig(data=tiny_data(**data), evaluation=WalksEvaluation(walks=5))
    return config.build(Mean(), batch_size=16, streams=Streams(1), device=torch.device("cpu"))


def test_a_task_takes_its_walks_from_the_cache_and_they_are_the_same(
    where: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = built()
    assert len(list(where.iterdir())) == 1
    monkeypatch.setattr(corpus, "make_walks", None)
    again = built()
    assert all(torch.equal(first.items[split], again.items[split]) for split in ("train", "val"))
    assert (first.starts["val"] == again.starts["val"]).all()


def test_every_setting_of_the_data_has_a_file_of_its_own(where: Path) -> None:
    changes: list[dict[str, Any]] = [
        {}, {"vertices": 18}, {"p_in": 0.8}, {"p_out": 0.4}, {"jumpers_per_block": 2}, {"delays": (0.75,)},
        {"window": 5}, {"walk_length": 14}, {"num_walks": 70}, {"seed": 2}, {"blocks": 4},
    ]  # fmt: skip
    assert {name for change in changes for name in change} == set(WalksData.model_fields)
    for change in changes:
        built(**change)
    assert len(list(where.glob("*.npz"))) == len(changes)
