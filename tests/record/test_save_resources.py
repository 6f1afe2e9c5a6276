"""What a save costs the training: the time of a copy, and the memory of one; the rest is done behind its back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loopwright.config.durations import Duration
from loopwright.engine.history import Ranking
from loopwright.engine.state import TrainState
from loopwright.errors import MachineError
from loopwright.record import recorder as recording
from loopwright.record.checkpoint import Encoded, decode, encode
from loopwright.record.files import write_durable
from loopwright.record.index import Index
from loopwright.record.lock import DirectoryLock
from loopwright.record.recorder import RunRecorder
from loopwright.record.settings import RecordSettings

SMALL = nn.Linear(3, 2)


@contextmanager
def recorder_at(run: Path) -> Iterator[RunRecorder]:
    run.mkdir()
    settings = RecordSettings(checkpoint_every=Duration.parse("1 steps"))
    with DirectoryLock(run / ".lock") as lock:
        recorder = RunRecorder(run, settings, ranking=Ranking("val_loss", "min"), seed=1, config={}, lock=lock)
        yield recorder
        recorder.close()


def state_of(model: nn.Module) -> TrainState:
    return TrainState(model, {"main": model.parameters()}, lambda params: torch.optim.SGD(params, lr=0.1))


def advance(state: TrainState) -> None:
    state.step += 1
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter += 1


@pytest.fixture
def held_writer(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The writer stands still before a checkpoint's first byte until the event is set."""
    go, original = threading.Event(), recording.write_durable

    def held(path: Path, data: Any) -> Any:
        assert go.wait(60)
        return original(path, data)

    monkeypatch.setattr(recording, "write_durable", held)
    return go


def test_training_goes_on_while_a_save_is_written(tmp_path: Path, held_writer: threading.Event) -> None:
    """What is written is what was there at the step, however far the training has come meanwhile."""
    with recorder_at(tmp_path / "run") as recorder:
        state = state_of(nn.Linear(3, 2))
        assert not recorder.open(state)
        advance(state)
        wanted = {name: value.clone() for name, value in state.model.state_dict().items()}
        recorder.checkpoint(state, frozenset({"best"}), now=False)  # returns: nobody has waited for the writer
        for _ in range(3):
            advance(state)
        held_writer.set()
        recorder.wait()
        entry = recorder.index.last
        assert entry is not None and entry.step == 1
        saved = recorder.index.load(entry)["model_state_dict"]
        assert all(torch.equal(saved[name], wanted[name]) for name in wanted)


def test_a_save_that_is_being_written_is_not_the_newest(tmp_path: Path, held_writer: threading.Event) -> None:
    run = tmp_path / "run"
    with recorder_at(run) as recorder:
        state = state_of(nn.Linear(3, 2))
        recorder.open(state)
        held_writer.set()
        advance(state)
        recorder.checkpoint(state, frozenset(), now=True)
        held_writer.clear()
        advance(state)
        recorder.checkpoint(state, frozenset(), now=False)
        (run / "checkpoints/step_000000002.pt").write_bytes(b"half of it")
        index = Index.read(run / "checkpoints")
        assert index.last is not None and index.last.step == 1 and not index.from_files
        found = index.newest_valid()
        assert found is not None and found[0].step == 1
        assert (run / "checkpoints/last.pt").readlink() == Path("step_000000001.pt")
        held_writer.set()
        recorder.wait()
        index = Index.read(run / "checkpoints")
        assert index.last is not None and index.last.step == 2 and index.load(index.last)["step"] == 2


def test_streamed_bytes_are_those_of_the_whole(tmp_path: Path) -> None:
    """Also for tensors that share memory, views, none at all, and more than is gathered in one write."""
    big = torch.arange(100_000.0)
    tree = {"a": big, "b": big[5:10], "c": SMALL.state_dict(), "d": torch.empty(0), "e": [1, "x", {"f": None}]}
    written = write_durable(tmp_path / "streamed.pt", Encoded(tree))
    assert (tmp_path / "streamed.pt").read_bytes() == encode(tree)
    assert written.size == len(encode(tree)) and Encoded(tree).num_bytes == 400_000 + 32
    assert torch.equal(decode(tmp_path / "streamed.pt")["b"], big[5:10])


def test_a_write_that_fails_in_the_midst_is_said_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's writer answers a failed write with an error about positions in an archive."""
    import errno
    import os

    from loopwright.record import files

    class Full:
        def __getattr__(self, name: str) -> Any:
            return self.write if name == "write" else getattr(os, name)

        def write(self, descriptor: int, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "os", Full())
    with pytest.raises(MachineError, match=r"no room to write .*big\.pt \(3\.8 MiB needed\): No space left"):
        write_durable(tmp_path / "big.pt", Encoded({"a": torch.zeros(1_000_000), "b": torch.zeros(1)}))
    assert not (tmp_path / "big.pt").exists()


MEASURED = """
import sys, torch
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from torch import nn
import importlib.util
spec = importlib.util.spec_from_file_location("resources", sys.argv[3])
resources = importlib.util.module_from_spec(spec)
spec.loader.exec_module(resources)

def mib(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

def peak(size, run):
    with resources.recorder_at(Path(run)) as recorder:
        state = resources.state_of(nn.Linear(1024, size * 256, bias=False))
        recorder.open(state)
        resources.advance(state)
        before = mib("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        recorder.checkpoint(state, frozenset({"best"}), now=True)
        return mib("VmHWM") - before

peak(1, sys.argv[1] + "/small")  # what is loaded by the first save of all is not the save's
print(peak(150, sys.argv[1] + "/large") / 150)
"""


@pytest.mark.slow
def test_peak_memory_of_a_save_is_one_copy_of_the_state(tmp_path: Path) -> None:
    """A state of 150 MiB in a process of its own: the copy is all that is held, its bytes are streamed."""
    tests = str(Path(__file__).parents[1])
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path), tests, __file__]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copies = float(done.stdout)
    assert 0.9 < copies < 1.1, f"{copies:.2f} copies"
