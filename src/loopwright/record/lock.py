"""`DirectoryLock`: one process at a time works on a run directory, also on a shared file system.

The lock is a directory that holds `owner.json` (who) and `beat` (rewritten every few seconds). It is made under another
name and renamed into place, which fails where a lock stands: so it is exclusive, and never there without its owner, not
even after a kill between two instructions. Whether it is stale is decided without trusting two clocks:

    same machine    the owner lives if its pid exists with the recorded start time
    other machine   stale after five missed beats, both ages taken from the file server: the modification time of
                    `beat` against that of a file touched now

A stale lock is renamed away under a name made of its owner's token. That name stays taken until the new owner
releases, so a second process that judged the same owner stale cannot rename the new lock away.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import logging
import os
import platform
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from loopwright.errors import LockError, RunError
from loopwright.record.files import explained

log = logging.getLogger("loopwright")

_MISSED_BEATS = 5


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `pid_namespace` tells containers apart that share a host name and a kernel."""

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    process_start: str
    token: str
    since_at: str
    beat_seconds: float

    def lives(self) -> bool | None:
        """Whether the process still runs; None where this machine cannot tell."""
        here = (platform.node(), _boot_id(), _pid_namespace())
        if os.name != "posix" or not self.boot_id or (self.host, self.boot_id, self.pid_namespace) != here:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's process, which exists
        start = _process_start(self.pid)
        return not start or not self.process_start or start == self.process_start


class DirectoryLock:
    """A lock at `path`, held between `acquire` and `release` or in a `with` block.

    `beat_seconds` is the time between two signs of life, `clock` gives the seconds since 1970 for the message. Raises
    LockError while another process (or another lock object of this one) holds it. A forked child does not inherit the
    lock: its `release` does nothing, its `acquire` finds the parent.
    """

    def __init__(self, path: Path, *, beat_seconds: float = 10.0, clock: Callable[[], float] = time.time) -> None:
        self.path = Path(path)
        self.beat_seconds = beat_seconds
        self._clock = clock
        self._owner: Owner | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DirectoryLock:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, wait_seconds: float = 0.0) -> DirectoryLock:
        """Take the lock, from a dead owner if need be. Raises LockError when it is still held after `wait_seconds`."""
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                return self._acquire_now()
            except LockError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)

    def is_held(self) -> bool:
        """Whether a living process holds the lock now; a dead one's leftover does not count."""
        try:
            return self.path.is_dir() and not self._is_stale(self._read())
        except FileNotFoundError:
            return False

    def _acquire_now(self) -> DirectoryLock:
        for _ in range(3):  # each turn is lost only to another process that won it, or swept our preparation away
            staged, owner = self._stage()
            try:
                # The lock appears complete: a kill at any instant leaves either none, or one that names its owner.
                os.rename(staged, self.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                with contextlib.suppress(FileNotFoundError):  # released meanwhile: try again
                    self._take_over()
                continue
            finally:
                shutil.rmtree(staged, ignore_errors=True)
            self._owner = owner
            self.check()  # after a long pause here, somebody may have given us up
            self._stop.clear()
            self._thread = threading.Thread(target=self._keep_beating, name="loopwright-lock", daemon=True)
            self._thread.start()
            return self
        raise LockError(self._held_by(self._read()))

    def _take_over(self) -> None:
        """Move a dead owner's lock out of the way. Raises LockError where the owner lives."""
        inode = self.path.stat().st_ino
        owner = self._read()
        if not self._is_stale(owner):
            raise LockError(self._held_by(owner))
        if self._retire(owner, inode) and owner:
            log.info("took over from pid %d on host %s, which is gone", owner.pid, owner.host)

    def check(self) -> None:
        """Make sure the lock is still ours; called before every commit. Raises LockError when it is not."""
        if self._owner is None:
            raise LockError(f"the lock {self.path} is not held; nothing more may be written")
        for attempt in range(2):  # NFS is close-to-open consistent only: look again before giving up
            owner = self._read()
            if owner is not None and owner.token == self._owner.token:
                return
            if attempt == 0:
                time.sleep(0.05)
        raise LockError(
            f"the lock {self.path} was taken over by {_describe(owner) if owner else 'another process'}; "
            "this process stops, what it committed before is intact"
        )

    def release(self) -> None:
        """Give the lock back. Does nothing when it is not held, was taken over, or belongs to the parent of a fork."""
        owner, self._owner = self._owner, None
        if owner is None or owner.pid != os.getpid():
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)  # a hanging file server must not hold the process back
        self._retire(owner)
        name = glob.escape(self.path.name)
        for grave in self.path.parent.glob(f"{name}.gone-*"):
            shutil.rmtree(grave, ignore_errors=True)
        for staged in self.path.parent.glob(f"{name}.new-*"):  # of a process killed before its rename
            lock = DirectoryLock(staged)
            # One without an owner may be a moment old; whoever makes it notices, and makes another.
            if lock._read() is None or not lock.is_held():
                shutil.rmtree(staged, ignore_errors=True)

    def _stage(self) -> tuple[Path, Owner]:
        """A complete lock under a name of its own, to be renamed into place."""
        pid, token = os.getpid(), secrets.token_hex(16)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock()))
        machine = (platform.node(), _boot_id(), _pid_namespace())
        owner = Owner(*machine, pid, _process_start(pid), token, since, self.beat_seconds)
        staged = self.path.with_name(f"{self.path.name}.new-{token}")
        try:
            staged.mkdir()
        except FileNotFoundError:
            raise RunError(f"{self.path.parent} does not exist; name an existing run directory") from None
        try:
            # Not synced: a lock need not outlive a power cut, and a sync costs 10 ms. Swept away meanwhile: see above.
            with explained(staged, 512), contextlib.suppress(FileNotFoundError):
                (staged / "owner.json").write_text(json.dumps(asdict(owner)))
                (staged / "beat").write_text("")
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        return staged, owner

    def _keep_beating(self) -> None:
        while not self._stop.wait(self.beat_seconds):
            # A beat that fails is a missed beat; "r+" never creates the file in somebody else's lock.
            with contextlib.suppress(OSError), open(self.path / "beat", "r+") as file:
                file.write("1")

    def _read(self) -> Owner | None:
        """The recorded owner, or None while there is no readable one."""
        for _ in range(2):
            with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
                os.listdir(self.path)  # makes an NFS client look again for a file it believes missing
                facts = json.loads((self.path / "owner.json").read_text())
                owner = Owner(**{field.name: facts.get(field.name) for field in fields(Owner)})
                if 0 < owner.pid < 2**31 and owner.token.isalnum():
                    return owner
        return None

    def _is_stale(self, owner: Owner | None) -> bool:
        """Without a readable owner (a damaged file) age alone decides, as for another machine."""
        lives = owner.lives() if owner else None
        if lives is not None:
            return not lives
        recorded = owner.beat_seconds if owner else None
        beat_seconds = recorded if isinstance(recorded, int | float) and recorded > 0 else self.beat_seconds
        return self._age() > _MISSED_BEATS * beat_seconds

    def _age(self) -> float:
        """Seconds since the last sign of life, by the clock of the file server."""
        probe = self.path.with_name(f"{self.path.name}.probe-{secrets.token_hex(8)}")
        signs = [_modified(self.path)]
        with contextlib.suppress(FileNotFoundError):
            signs.append(_modified(self.path / "beat"))
        try:
            probe.write_text("1")
            return _modified(probe) - max(signs)
        finally:
            probe.unlink(missing_ok=True)

    def _retire(self, owner: Owner | None, inode: int = 0) -> bool:
        """Rename the lock away if it still is `owner`'s (without one: has this inode); true for the one that did."""
        grave = self.path.with_name(f"{self.path.name}.gone-{owner.token if owner else inode}")
        try:
            if owner is None:
                (self.path / "beat").touch()  # only a directory with something in it blocks a second rename
            os.rename(self.path, grave)
        except OSError:
            return False
        moved = DirectoryLock(grave)._read()
        if (moved and moved.token) == (owner and owner.token):
            return True
        with contextlib.suppress(OSError):  # a new owner came between the look and the rename
            os.rename(grave, self.path)
        return False

    def _held_by(self, owner: Owner | None) -> str:
        if owner is None:
            return f"run is being worked on by a process that cannot be made out ({self.path}); wait a minute and try again"
        return f"run is being worked on by {_describe(owner)}; wait for it or stop it"


def _describe(owner: Owner) -> str:
    return f"pid {owner.pid} on host {owner.host} since {owner.since_at}"


def _modified(path: Path) -> float:
    """When a file was last written. Opening it first makes an NFS client ask the server."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    """What tells one start of a machine from the next; "" where there is no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """When a process started, as a text to compare; "" where that cannot be found out, "zombie" for one that ended."""
    try:
        # The command, in parentheses, may itself contain spaces and parentheses.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return "zombie" if state in "ZX" else rest[18]
    except (OSError, ValueError, IndexError):
        pass
    try:
        return subprocess.run(
            ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=5
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
