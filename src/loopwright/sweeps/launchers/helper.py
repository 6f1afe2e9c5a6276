"""The helper of `warm.py`: `python -m loopwright.sweeps.launchers.helper`.

Its stdin is a socket: an order a line comes in, `{"number": N, "pid": P}` and `{"number": N, "code": C}` go out. It never
changes, so no job sees anything of the job before it.

It alone holds the far end of its children's lifeline, and ends when the socket says that the driver has gone. The children
keep the socket open without using it: when the helper itself was killed, its end tells that all of them have ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

import numpy as np

from loopwright import beside
from loopwright.record.source import changed_files, source_hashes
from loopwright.sweeps.launchers.process import call, leave, name_job, take_lifeline
from loopwright.sweeps.launchers.shares import LIBRARY_THREADS

_CHUNK_BYTES = 1 << 16


def serve(connection: socket.socket) -> dict[str, Any] | None:
    """Fork a child for each order until the driver has gone. Returns its order in a child, None in the helper.

    What a job's module names as its `IMPORTS` is imported here, before the first of its jobs.
    """
    known: set[str] = set()
    lifeline, held = os.pipe()
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    numbers: dict[int, int] = {}
    received = b""
    while True:
        ready, _, _ = select.select([connection.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, _CHUNK_BYTES)
            for pid, code in _reaped():
                _answer(connection, number=numbers.pop(pid), code=code)
        if connection.fileno() not in ready:
            continue
        data = connection.recv(_CHUNK_BYTES)
        if not data:
            return None
        *lines, received = (received + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "terminate" in order:
                for pid, number in numbers.items():
                    if number == order["terminate"]:
                        os.kill(pid, signal.SIGTERM)
                continue
            if order["module"] not in known:
                known.add(order["module"])
                _import(order["module"])
            with warnings.catch_warnings():
                # Newer Pythons warn of threads: there are none but those that a library starts again after a fork.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.dup2(lifeline, 0)
                for descriptor in (lifeline, held, woken, waker):
                    os.close(descriptor)
                return order  # type: ignore[no-any-return]
            numbers[pid] = order["number"]
            _answer(connection, number=order["number"], pid=pid)


def _import(module: str) -> None:
    """Import what the jobs of a module share; what fails here fails again in the job, whose log is for it."""
    with suppress(Exception):
        for name in getattr(importlib.import_module(module), "IMPORTS", ()):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is imported stays shared with the children: no collection touches it


def _reaped() -> list[tuple[int, int]]:
    """Process ids and exit codes of the children that have ended."""
    found = []
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _answer(connection: socket.socket, **facts: int) -> None:
    with suppress(OSError):  # the driver has gone; the next look at the socket says so
        connection.sendall(json.dumps(facts).encode() + b"\n")


def _become(order: Mapping[str, Any], imported: _Imported) -> int:
    """Turn this forked process into that of its job, and run it; with a new interpreter where the helper's will not do."""
    os.setsid()
    with open(order["log"], "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.chdir(order["folder"])
    environment = order["environment"]
    if not imported.serves(environment):
        command = beside.module("loopwright.sweeps.launchers.process", order["module"], *order["arguments"])
        os.execve(command[0], command, environment)
    os.environ.clear()
    os.environ.update(environment)
    # A new interpreter's generator has a state of its own; Python's generator gets one after a fork, NumPy's does not.
    np.random.seed()
    take_lifeline()
    name_job()
    return call(order["module"], order["arguments"])


class _Imported:
    """What a job may find changed since the helper imported it: our code, and the threads that libraries were told."""

    def __init__(self) -> None:
        self._sources = source_hashes()
        self._threads = _threads(os.environ)

    def serves(self, environment: Mapping[str, str]) -> bool:
        return _threads(environment) == self._threads and not changed_files(self._sources, source_hashes())


def _threads(environment: Mapping[str, str]) -> list[str | None]:
    return [environment.get(name) for name in LIBRARY_THREADS]


def main() -> NoReturn:
    """Import, then serve; a child ends with its job's exit code."""
    # Descriptor 0 becomes each child's lifeline, so the socket moves out of its way.
    connection = socket.socket(fileno=os.dup(0))
    imported = _Imported()
    order = serve(connection)
    leave(0 if order is None else _become(order, imported))


if __name__ == "__main__":
    main()
