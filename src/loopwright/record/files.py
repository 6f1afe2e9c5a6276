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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loopwright.errors import MachineError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def explained(path: Path, num_bytes: int) -> Iterator[None]:
    """Turn a full or failing disk into a MachineError that names the file and the space needed."""
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
        raise


def sync_directory(path: Path) -> None:
    """Make renames and new names inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse to sync a directory; their renames are synchronous
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}:
            raise
    finally:
        os.close(descriptor)


def write_durable(path: Path, data: bytes | memoryview) -> None:
    """Write a new file and wait until its bytes are on the disk; a failed write leaves nothing behind."""
    with explained(path, len(data)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
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
            temporary.write_bytes(payload)
            os.replace(temporary, path)
        return
    write_durable(temporary, payload)
    with explained(path, len(payload)):
        os.replace(temporary, path)
        sync_directory(path.parent)


def dumps(value: Any, indent: int | None = None) -> str:
    """Strict JSON. Floats read back to the same bits; nan and inf, which JSON lacks, become strings that `float` reads."""
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _jsonable(value: Any) -> Any:
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


class AppendFile:
    """A text file that only grows, except when a resume cuts it back to a length a checkpoint remembers.

    Rows are buffered and reach the operating system with `flush`, the disk with `sync`. `length` counts what has been
    written so far, buffered rows included, in bytes. The training appends while the writer of checkpoints syncs, so
    both take the lock (0.1 us); without it a flush of each at one instant counted the same rows twice.
    """

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Open for appending; `length` cuts the file to its first bytes (0 starts it anew)."""
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if length is not None:
            if os.fstat(descriptor).st_size < length:
                size = os.fstat(descriptor).st_size
                os.close(descriptor)
                raise MachineError(
                    f"{path} has {size} bytes, fewer than the {length} its checkpoint remembers: it was damaged"
                )
            os.ftruncate(descriptor, length)
        self._lock = threading.RLock()
        self._descriptor = descriptor
        self._buffer = io.BytesIO()
        self._position = os.lseek(descriptor, 0, os.SEEK_END)
        self._dirty = length is not None

    @property
    def length(self) -> int:
        with self._lock:
            return self._position + self._buffer.tell()

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
            self._buffer = io.BytesIO()
            self._dirty = True

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
