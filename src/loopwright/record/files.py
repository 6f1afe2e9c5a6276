"""The only place where the record touches the disk: atomic replacement, append-only files, durable directories.

Every write that a promise rests on goes through these few functions, so that faults can be injected in one place and
"the disk is full" is said in one voice.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from loopwright.errors import MachineError, RunError
from loopwright.scalars import as_plain, is_scalar

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_GATHERED = 1 << 16  # bytes of small writes that are handed to the system as one


class Streamed(Protocol):
    """Something big that is written piece by piece, so that its bytes are never in memory as a whole."""

    @property
    def num_bytes(self) -> int:
        """About how many bytes it will be, for the message when there is no room."""

    def write_to(self, file: Sink) -> None:
        """Write it, with `file.write`."""


@dataclass(frozen=True, slots=True)
class Written:
    """What has reached the disk: how many bytes, and their SHA-256."""

    size: int
    sha256: str


@contextmanager
def explained(path: Path, num_bytes: int) -> Iterator[None]:
    """Turn a full or failing disk into a MachineError that names the file and the space needed, a forbidden one into a
    RunError."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise MachineError(
                f"no room to write {path} ({num_bytes / 2**20:.1f} MiB needed): {error.strerror}; "
                "free some space and resume, everything committed before is intact"
            ) from error
        if error.errno == errno.EIO:
            raise MachineError(
                f"the disk failed while writing {path}: {error.strerror}; committed files are intact"
            ) from error
        if error.errno in _FORBIDDEN:
            raise RunError(
                f"{path} cannot be written ({error.strerror}); work on a copy of the run in a folder that you may write to"
            ) from error
        if error.errno == errno.ELOOP:
            raise RunError(f"{path} should be a file and is a link; remove it") from error
        if isinstance(error, IsADirectoryError):
            raise RunError(f"{path} should be a file and is a directory; move it away") from error
        raise


def sync_directory(path: Path) -> None:
    """Make renames and new names inside a directory durable."""
    with explained(path, 0):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        except OSError as error:  # some network file systems refuse to sync a directory; their renames are synchronous
            if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}:
                raise
        finally:
            os.close(descriptor)


class Sink:
    """The file object that a `Streamed` writes to: it counts and hashes what passes.

    After a failed write it takes the rest without complaint and `flush` raises the error: torch's writer answers an
    error in the midst with another one of its own, which says nothing of the disk.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._digest = hashlib.sha256()
        self._small = bytearray()
        self._error: BaseException | None = None
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        if self._error is None:
            try:
                if len(self._small) + len(data) > _GATHERED:
                    self._hand_over(self._small)
                    self._small = bytearray()
                if len(data) > _GATHERED:
                    self._hand_over(data)
                else:
                    self._small += data
            except BaseException as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        """Hand everything to the system. Raises the error of any write so far."""
        if self._error is not None:
            raise self._error
        self._hand_over(self._small)
        self._small = bytearray()

    def written(self) -> Written:
        return Written(self.size, self._digest.hexdigest())

    def _hand_over(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        self._digest.update(view)
        self.size += len(view)
        while view:
            view = view[os.write(self._descriptor, view) :]


def write_durable(path: Path, data: bytes | Streamed) -> Written:
    """Write a new file and wait until its bytes are on the disk; a failed write leaves nothing behind."""
    with explained(path, len(data) if isinstance(data, bytes) else data.num_bytes):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            sink = Sink(descriptor)
            if isinstance(data, bytes):
                sink.write(data)
            else:
                data.write_to(sink)
            sink.flush()
            os.fsync(descriptor)
            return sink.written()
        except BaseException:
            with suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)


def write_atomic(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Replace a file as a whole: readers see the old content or the new one, never a part.

    `durable=False` leaves out the two syncs, for files that no promise rests on.
    """
    payload = data.encode() if isinstance(data, str) else data
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    if not durable:
        with explained(path, len(payload)):
            try:
                temporary.write_bytes(payload)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)  # half a file on a full disk takes the room that others need
        return
    write_durable(temporary, payload)
    move_into_place(temporary, path)


def move_into_place(temporary: Path, path: Path) -> None:
    """Let a file that is on the disk replace another one, for good."""
    with explained(path, 0):
        os.replace(temporary, path)
        sync_directory(path.parent)


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON. Floats read back to the same bits; nan and inf, which JSON lacks, become strings that `float` reads."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
    value = as_plain(value) if is_scalar(value) else value
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    return [_jsonable(item) for item in value] if isinstance(value, list | tuple) else value


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace a JSON file atomically."""
    write_atomic(path, dumps(value, indent=2) + "\n", durable=durable)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_beginning(path: Path, length: int) -> Any:
    """The SHA-256 object of a file's first `length` bytes. Raises RunError where it has fewer or cannot be read."""
    digest, left = hashlib.sha256(), length
    if left:
        try:
            with path.open("rb") as file:
                while left and (piece := file.read(min(left, 1 << 20))):
                    digest.update(piece)
                    left -= len(piece)
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error.strerror})") from error
    if left:
        raise RunError(f"{path} has {length - left} bytes, fewer than the {length} its checkpoint remembers")
    return digest


class AppendFile:
    """A text file that only grows, except when a resume cuts it back to a length a checkpoint remembers, or `rewrite`
    replaces it.

    Rows are buffered and reach the operating system with `flush`, the disk with `sync`. `length` counts what has been
    written so far, buffered rows included, in bytes. What is written is hashed as it passes (0.1 us a row), so that a
    checkpoint can say what the file held. The training appends while the writer of checkpoints syncs, so
    both take the lock (0.1 us); without it a flush of each at one instant counted the same rows twice.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open for appending; `length` cuts the file to its first bytes (0 starts it anew)."""
        self.path = path
        if length is None:
            length = path.stat().st_size if path.exists() else 0
        self._digest = sha256_of_beginning(path, length)
        with explained(path, 0):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            os.ftruncate(descriptor, length)
        self._lock = threading.RLock()
        self._descriptor = descriptor
        self._buffer = io.BytesIO()
        self._position = os.lseek(descriptor, 0, os.SEEK_END)
        self._dirty = True

    @property
    def length(self) -> int:
        with self._lock:
            return self._position + self._buffer.tell()

    def mark(self) -> tuple[int, str]:
        """Flush; the file's length and the SHA-256 of its bytes up to there, for a checkpoint to remember."""
        with self._lock:
            self.flush()
            return self._position, self._digest.hexdigest()

    def append(self, text: str) -> None:
        with self._lock:
            self._buffer.write(text.encode())
            if self._buffer.tell() > 1 << 20:
                self.flush()

    def flush(self) -> None:
        """Hand buffered rows to the operating system. A failed write keeps them, cut back to whole rows on disk."""
        with self._lock:
            data = self._buffer.getvalue()
            if not data:
                return
            with explained(self.path, len(data)):
                try:
                    done = 0
                    while done < len(data):
                        done += os.pwrite(self._descriptor, data[done:], self._position + done)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(self._descriptor, self._position)
                    raise
            self._position += len(data)
            self._digest.update(data)
            self._buffer = io.BytesIO()
            self._dirty = True

    def rewrite(self, change: Callable[[bytes], bytes]) -> None:
        """Replace the file by what `change` makes of it: readers, and a kill, leave the old one or the new, whole."""
        with self._lock:
            self.flush()
            with open(os.dup(self._descriptor), "rb") as file:
                file.seek(0)
                data = change(file.read(self._position))
            temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
            write_durable(temporary, data)
            with explained(self.path, 0):
                descriptor = os.open(temporary, os.O_RDWR)  # before it has its name: nothing can fail afterwards
            try:
                move_into_place(temporary, self.path)
                # Under its own number: the writer of checkpoints may be about to sync it.
                os.dup2(descriptor, self._descriptor, inheritable=False)
            finally:
                os.close(descriptor)
            self._position, self._digest = len(data), hashlib.sha256(data)

    def sync(self) -> None:
        """Wait until every row is on the disk."""
        self.flush()
        if self._dirty:
            self._dirty = False  # before the wait: rows flushed during it are not on the disk yet
            try:
                with explained(self.path, 0):
                    os.fsync(self._descriptor)
            except (OSError, MachineError):
                self._dirty = True
                raise

    def close(self) -> None:
        if self._descriptor >= 0:
            self.flush()
            os.close(self._descriptor)
            self._descriptor = -1
