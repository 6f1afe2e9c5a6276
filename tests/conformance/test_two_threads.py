"""A table grows in one thread while the writer of checkpoints syncs it in another."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from loopwright.record import files
from loopwright.record.files import AppendFile


def test_rows_appended_while_another_thread_syncs_are_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite

    def slow(*given: int) -> int:
        time.sleep(0.0005)  # lets the other thread run in the middle of a flush, where it must wait for the lock
        return write(*given)

    monkeypatch.setattr(files.os, "pwrite", slow)
    file = AppendFile(tmp_path / "rows", 0)
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            file.sync()

    writers = [threading.Thread(target=sync) for _ in range(2)]
    for writer in writers:
        writer.start()
    lines = [f"{number}\n" for number in range(300)]
    for number, line in enumerate(lines):
        file.append(line)
        if number % 10 == 0:
            file.flush()
    done.set()
    for writer in writers:
        writer.join()
    length = file.length
    file.close()
    assert (tmp_path / "rows").read_text() == "".join(lines)
    assert length == (tmp_path / "rows").stat().st_size
