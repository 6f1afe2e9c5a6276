"""The directory lock: one holder at a time, dead ones replaced, live ones left alone."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from loopwright.errors import LockError, MachineError, RunError
from loopwright.record import lock as lock_module
from loopwright.record.lock import DirectoryLock

# The test processes import lock.py's dependencies only (no torch), so that several start quickly on one core.
_HOLD = """
import sys, time
from pathlib import Path
from loopwright.record.lock import DirectoryLock
from loopwright.errors import LockError
path, go = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.0005)
try:
    lock = DirectoryLock(path, beat_seconds=0.2).acquire()
except LockError as error:
    print("refused", error, flush=True)
else:
    print("won", flush=True)
    sys.stdin.read()
    lock.check()
    lock.release()
    print("released", flush=True)
"""


def start(path: Path, go: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLD, str(path), str(go)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def finish(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=120)
    return out.strip()


def write_owner(path: Path, *, age_seconds: float = 0.0, **changes: object) -> dict[str, object]:
    """A lock as another process would have left it, its last beat `age_seconds` ago."""
    with DirectoryLock(path):
        owner = json.loads((path / "owner.json").read_text())
    owner |= {"token": "f" * 32, **changes}
    path.mkdir()
    (path / "owner.json").write_text(json.dumps(owner))
    (path / "beat").write_text("1")
    backdate(path, age_seconds)
    return owner


def backdate(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for entry in [*path.iterdir(), path]:
        os.utime(entry, (then, then))


def test_lock_is_a_directory_with_its_owner_and_goes_on_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with DirectoryLock(path, clock=lambda: 0.0) as lock:
        owner = json.loads((path / "owner.json").read_text())
        assert owner["pid"] == os.getpid()
        assert owner["host"] == platform.node()
        assert owner["since_at"] == "1970-01-01T00:00:00Z"
        assert len(owner["token"]) == 32
        lock.check()
    assert list(tmp_path.iterdir()) == []
    lock.release()
    with pytest.raises(LockError, match="not held"):
        lock.check()


def test_second_lock_is_refused_in_one_line_naming_the_holder(tmp_path: Path) -> None:
    with DirectoryLock(tmp_path / "lock", clock=lambda: 0.0):
        with pytest.raises(LockError) as caught:
            DirectoryLock(tmp_path / "lock").acquire()
        expected = f"pid {os.getpid()} on host {platform.node()} since 1970-01-01T00:00:00Z; wait for it or stop it"
        assert str(caught.value) == f"run is being worked on by {expected}"
    DirectoryLock(tmp_path / "lock").acquire().release()


def test_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere does not exist"):
        DirectoryLock(tmp_path / "nowhere" / "lock").acquire()


def test_failed_write_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(MachineError, match="no room to write"):
        DirectoryLock(tmp_path / "lock").acquire()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_exclude_each_other_and_a_killed_holder_is_replaced(tmp_path: Path) -> None:
    path, go = tmp_path / "lock", tmp_path / "go"
    go.touch()
    holder = start(path, go)
    assert (line(holder), line(holder)) == ("ready", "won")
    with pytest.raises(LockError, match=f"pid {holder.pid} on host"):
        DirectoryLock(path).acquire()
    holder.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # killed, but still a zombie: its pid exists
    with DirectoryLock(path) as lock:
        lock.check()
        assert json.loads((path / "owner.json").read_text())["pid"] == os.getpid()
    finish(holder)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["go"]


@pytest.mark.parametrize("left_behind", ["dead owner", "no owner"])
def test_of_racing_takers_exactly_one_wins(tmp_path: Path, left_behind: str) -> None:
    path = tmp_path / "lock"
    takers = [start(path, tmp_path / "go") for _ in range(4)]
    assert {line(taker) for taker in takers} == {"ready"}
    if left_behind == "dead owner":
        write_owner(path, process_start="1")
    else:
        path.mkdir()
        backdate(path, 60.0)
    (tmp_path / "go").touch()
    verdicts = [line(taker).split()[0] for taker in takers]
    assert sorted(verdicts) == ["refused", "refused", "refused", "won"]
    endings = [finish(taker) for taker in takers]
    assert endings[verdicts.index("won")] == "released"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["go"]


def test_a_late_taker_cannot_rename_the_new_lock_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    write_owner(path, process_start="1")
    late, winner = DirectoryLock(path), DirectoryLock(path)
    judge = DirectoryLock._is_stale

    def overtaken(self: DirectoryLock, owner: lock_module.Owner | None) -> bool:
        stale = judge(self, owner)
        if self is late and winner._owner is None:
            winner.acquire()  # between the late one's judgement and its rename
        return stale

    moved: list[str] = []
    rename = os.rename

    def counted(source: Path, target: Path) -> None:
        rename(source, target)
        moved.append(Path(target).name)

    monkeypatch.setattr(DirectoryLock, "_is_stale", overtaken)
    monkeypatch.setattr(os, "rename", counted)
    with pytest.raises(LockError, match=f"pid {os.getpid()}"):
        late.acquire()
    assert moved == ["lock.gone-" + "f" * 32, "lock"]  # both the winner's; the late one's own attempts failed
    winner.check()
    winner.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_moved_by_mistake_is_put_back(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with DirectoryLock(path) as lock:
        assert lock._owner is not None
        gone = lock_module.Owner(**(json.loads((path / "owner.json").read_text()) | {"token": "a" * 32}))
        assert not DirectoryLock(path)._retire(gone)
        lock.check()


def test_reused_pid_is_stale(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, pid=os.getpid())
    with pytest.raises(LockError):
        DirectoryLock(path).acquire()
    owner = json.loads((path / "owner.json").read_text()) | {"process_start": "1"}
    (path / "owner.json").write_text(json.dumps(owner))
    with DirectoryLock(path) as lock:
        lock.check()


def test_live_local_holder_is_kept_however_old_its_beat(tmp_path: Path) -> None:
    write_owner(tmp_path / "lock", age_seconds=3600.0)
    with pytest.raises(LockError):
        DirectoryLock(tmp_path / "lock").acquire()


@pytest.mark.parametrize(
    "elsewhere", [{"host": "x"}, {"boot_id": "other"}, {"boot_id": ""}, {"pid_namespace": "pid:[1]"}], ids=str
)
def test_foreign_holder_is_judged_by_its_beats(tmp_path: Path, elsewhere: dict[str, str]) -> None:
    path = tmp_path / "lock"
    write_owner(path, age_seconds=40.0, pid=2**22, **elsewhere)  # a pid that cannot exist here says nothing
    with pytest.raises(LockError):
        DirectoryLock(path).acquire()
    backdate(path, 60.0)
    with DirectoryLock(path) as lock:
        lock.check()


def test_foreign_holder_sets_its_own_pace(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    write_owner(path, age_seconds=60.0, host="x", beat_seconds=100.0)
    with pytest.raises(LockError, match="host x"):
        DirectoryLock(path, beat_seconds=0.01).acquire()


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": 3}', '{"pid": "x", "token": "../.."}'])
def test_unreadable_owner_is_given_time_then_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    path.mkdir()
    (path / "owner.json").write_text(content)
    with pytest.raises(LockError, match="cannot be made out"):
        DirectoryLock(path).acquire()
    backdate(path, 60.0)
    with DirectoryLock(path) as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_taking_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process killed before its rename leaves: a staged lock beside, which blocks nobody and is swept later."""
    path = tmp_path / "lock"

    def killed(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        patched.setattr(lock_module.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            DirectoryLock(path).acquire()
    (staged,) = tmp_path.iterdir()
    owner = json.loads((staged / "owner.json").read_text())
    (staged / "owner.json").write_text(json.dumps(owner | {"process_start": "1"}))  # its process is gone
    with DirectoryLock(path) as lock:
        lock.check()
    assert list(tmp_path.iterdir()) == []


def test_a_kill_in_the_midst_of_preparing_leaves_nothing_after_the_next_release(tmp_path: Path):
    (tmp_path / "lock.new-0123").mkdir()
    (tmp_path / "lock.new-4567").mkdir()
    (tmp_path / "lock.new-4567" / "owner.json").write_text("{")
    DirectoryLock(tmp_path / "lock").acquire().release()
    assert list(tmp_path.iterdir()) == []


def test_a_preparation_swept_away_by_another_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, stage, swept = tmp_path / "lock", DirectoryLock._stage, []

    def stage_then_lose(self: DirectoryLock) -> tuple[Path, lock_module.Owner]:
        staged, owner = stage(self)
        if not swept:
            swept.append(staged)
            shutil.rmtree(staged)
        return staged, owner

    monkeypatch.setattr(DirectoryLock, "_stage", stage_then_lose)
    with DirectoryLock(path) as lock:
        lock.check()
    assert len(swept) == 1
    assert list(tmp_path.iterdir()) == []


def test_changed_token_stops_the_holder_and_survives_its_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = DirectoryLock(path).acquire()
    owner = json.loads((path / "owner.json").read_text()) | {"token": "b" * 32, "host": "thief", "pid": 77}
    (path / "owner.json").write_text(json.dumps(owner))
    with pytest.raises(LockError, match="taken over by pid 77 on host thief"):
        lock.check()
    lock.release()
    assert json.loads((path / "owner.json").read_text())["token"] == "b" * 32


def test_heart_beats_while_held_and_stops_on_release(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    before = threading.enumerate()
    lock = DirectoryLock(path, beat_seconds=0.01).acquire()
    (thread,) = (t for t in threading.enumerate() if t.name == "loopwright-lock" and t not in before)
    assert thread.daemon
    (path / "beat").write_text("")
    while not (path / "beat").read_text():
        time.sleep(0.005)
    lock.release()
    assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_lost_holder_does_not_beat_for_another(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = DirectoryLock(path, beat_seconds=0.01).acquire()
    os.rename(path, tmp_path / "moved")
    path.mkdir()
    time.sleep(0.05)
    assert list(path.iterdir()) == []
    lock.release()
    assert path.is_dir()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 warns of fork beside threads
def test_a_forked_child_neither_releases_nor_takes_the_lock(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "lock").acquire()
    child = os.fork()
    if child == 0:
        lock.release()
        try:
            DirectoryLock(tmp_path / "lock").acquire()
        except LockError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    lock.check()
    lock.release()
    assert list(tmp_path.iterdir()) == []
