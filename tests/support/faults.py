"""A disk that fails on demand: counts what a save asks of it, and lets any one of these operations go wrong.

`Disk` stands between `os` and the files below a directory. Only while it is `watching` are operations numbered; the one
whose number is `at` meets the fault:

    killed          the process dies before it; nothing it does afterwards reaches the disk
    torn            half of a write arrives, then the process dies
    short           a write takes half of what it is given and says so
    no room         it and whatever needs room after it fails with ENOSPC
    broken          it fails with EIO, once
    lost rename     a rename is said to be done and is not; the process dies after the save
    power cut       the power goes before it: data and names that were not synced are gone
    names outlive   the same, but names reach the disk by themselves: an unsynced file is there, and empty

The locks of a run are left alone: they live as long as the process, and the test's process goes on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

NEEDS_ROOM = ("create", "write", "pwrite", "replace", "symlink", "mkdir")
WRITES = ("write", "pwrite")
RENAMES = ("replace", "rename")
FAULTS = ("killed", "torn", "short", "no room", "broken", "lost rename", "power cut", "names outlive")


class Crash(BaseException):
    """The process is dead. No handler of the program stops it, as none would stop SIGKILL."""


@dataclass(frozen=True)
class Operation:
    """One thing that was asked of the disk."""

    kind: str
    path: str

    def can_be(self, fault: str) -> bool:
        """Whether a fault makes sense here."""
        allowed = {"torn": WRITES, "short": WRITES, "no room": NEEDS_ROOM, "lost rename": RENAMES}
        return self.kind in allowed.get(fault, (self.kind,))

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


@dataclass
class Node:
    """A file or a link: where it is now, and what of it would survive a power cut."""

    path: Path
    durable: bytes = b""
    target: str | None = None


class Disk:
    """The files below `root`; `install` it, then what this process does to them goes through here."""

    def __init__(self, root: Path, fault: str | None = None, at: int | None = None) -> None:
        self.root, self.fault, self.at = root.resolve(), fault, at
        self.operations: list[Operation] = []
        self.happened = False
        self.watched = self.dead = self.full = False
        self._names: dict[Path, Node] = {}
        self._durable: dict[Path, Node] = {}
        self._open: dict[int, Path] = {}

    @contextmanager
    def install(self) -> Iterator[Disk]:
        """Take the place of `os`; at the end put it back and, after a power cut, leave what survived it."""
        for path in self.root.rglob("*"):
            if path.is_symlink():
                self._names[path] = Node(path, target=os.readlink(path))
            elif path.is_file():
                self._names[path] = Node(path, path.read_bytes())
        self._durable = dict(self._names)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "close", "write", "pwrite", "fsync", "ftruncate", "unlink", "mkdir", "symlink"):
                patch.setattr(os, name, self._stand_in(name, getattr(os, name)))
            for name in RENAMES:
                patch.setattr(os, name, self._stand_in(name, getattr(os, name)))
            yield self
        if self.dead and self.fault in ("power cut", "names outlive"):
            self._reboot(self._durable if self.fault == "power cut" else self._names)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Number the operations of this block, the save in question."""
        self.watched = True
        try:
            yield
            if self.at is not None and self.at == len(self.operations):
                self._die()  # killed after the last one
            if self.happened and self.fault == "lost rename":
                self._die()
        finally:
            self.watched = False

    def _stand_in(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def act(first: Any, *rest: Any, **options: Any) -> Any:
            subject = rest[0] if name in ("symlink", *RENAMES) else first
            path = self._open.get(subject) if isinstance(subject, int) else self._below(subject)
            if path is None:
                return original(first, *rest, **options)
            if name == "close":
                self._open.pop(first, None)
                return original(first)
            if self.dead:
                raise Crash
            reading = name == "open" and not rest[0] & (os.O_WRONLY | os.O_RDWR)
            kind = "create" if name == "open" else name
            if not reading:
                short = self._meet(kind, path, original, first, rest)
                if short is not None:
                    return short if name in WRITES else None
            result = original(first, *rest, **options)
            self._remember(name, path, first, result)
            return result

        return act

    def _meet(self, kind: str, path: Path, original: Callable[..., Any], first: Any, rest: Any) -> int | None:
        """Number the operation and let the fault happen; not None when that took its place."""
        here = self.watched and len(self.operations) == self.at
        if self.watched:
            self.operations.append(Operation(kind, str(path.relative_to(self.root))))
        self.happened = self.happened or here
        if self.full and kind in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if not here:
            return None
        if self.fault == "no room":
            self.full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if self.fault == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        if self.fault in ("torn", "short"):
            data, *position = rest
            done = int(original(first, data[: len(data) // 2], *position))
            if self.fault == "torn":
                self._die()
            return done
        if self.fault == "lost rename":
            return 0
        self._die()
        return None

    def _die(self) -> None:
        self.dead = self.happened = True
        raise Crash

    def _below(self, path: Any) -> Path | None:
        if not isinstance(path, str | os.PathLike):
            return None
        full = Path(os.path.abspath(path))
        if not full.is_relative_to(self.root):
            return None
        return None if any(part.startswith(".lock") for part in full.relative_to(self.root).parts) else full

    def _remember(self, name: str, path: Path, first: Any, result: Any) -> None:
        """Follow names and what is synced, as a file system that does no more than it must would."""
        if name == "open":
            self._open[result] = path
            if path.is_file():
                self._names.setdefault(path, Node(path))
        elif name == "fsync" and path.is_dir():
            self._durable = {p: node for p, node in self._durable.items() if p.parent != path}
            self._durable |= {p: node for p, node in self._names.items() if p.parent == path}
        elif name == "fsync" and path in self._names:
            self._names[path].durable = path.read_bytes()
        elif name in RENAMES:
            source = Path(os.path.abspath(first))
            node = self._names.pop(source, None)
            if node is None:  # written around this layer: one of the files that no promise rests on
                node = Node(path, path.read_bytes() if path.is_file() else b"")
            node.path = path
            self._names[path] = node
            self._open = {number: path if at == source else at for number, at in self._open.items()}
        elif name == "unlink":
            self._names.pop(path, None)
        elif name == "symlink":
            self._names[path] = Node(path, target=str(first))

    def _reboot(self, names: dict[Path, Node]) -> None:
        for path in [
            path for path in self.root.rglob("*") if self._below(path) and (path.is_symlink() or path.is_file())
        ]:
            path.unlink()
        for path, node in names.items():
            if node.target is not None:
                path.symlink_to(node.target)
            else:
                path.write_bytes(node.durable)
