"""Starting processes warm: one helper imports what every run needs (1.5 s) and forks itself for each job (some ms)."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loopwright import beside
from loopwright.sweeps.launchers.starting import Fresh, Order, Starter

_CHUNK_BYTES = 1 << 16


def possible() -> bool:
    """Whether processes can be forked from one that has imported torch: on Linux, whose libraries allow for it."""
    return sys.platform == "linux"


class Warm(Starter):
    """The driver's side. A helper that died is not replaced: what comes after it is started fresh.

    `environment` is what the helper imports libraries under; what it prints is appended to `log`.
    """

    def __init__(self, environment: Mapping[str, str], log: Path) -> None:
        self._fresh = Fresh()
        self._sent: set[int] = set()
        self._pids: dict[int, int] = {}
        self._received = b""
        self._socket, helpers_end = socket.socketpair()
        with helpers_end, log.open("ab") as output:
            self._helper = subprocess.Popen(
                beside.module("loopwright.sweeps.launchers.helper"),
                stdin=helpers_end.fileno(),
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )

    def start(self, order: Order) -> None:
        if self._helper.poll() is None and self._send(_plain(order)):
            self._sent.add(order.number)
        else:
            self._fresh.start(order)

    def ended(self) -> Mapping[int, int | None]:
        done: dict[int, int | None] = dict(self._fresh.ended())
        over = self._receive()
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            number = answer["number"]
            if "pid" in answer:
                self._pids[number] = answer["pid"]
            else:
                done[number] = answer["code"]
                self._forget(number)
        if over:  # the helper was killed, and the last of its children has ended
            for number in list(self._sent):
                done[number] = None
                self._forget(number)
        return done

    def pid(self, number: int) -> int | None:
        return self._pids[number] if number in self._pids else self._fresh.pid(number)

    def terminate(self, number: int) -> None:
        if number in self._sent:
            self._send({"terminate": number})
        else:
            self._fresh.terminate(number)

    def close(self) -> None:
        self.ended()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.setblocking(True)
            # What a job has left behind may keep the socket open for ever: only those that have not ended are waited for.
            while self._sent and self._socket.recv(_CHUNK_BYTES):
                pass
        self._socket.close()
        self._helper.wait()
        self._fresh.close()

    def _forget(self, number: int) -> None:
        self._sent.discard(number)
        self._pids.pop(number, None)

    def _send(self, question: Mapping[str, Any]) -> bool:
        try:
            self._socket.setblocking(True)
            self._socket.sendall(json.dumps(question).encode() + b"\n")
        except OSError:  # the helper has gone
            return False
        return True

    def _receive(self) -> bool:
        """Read what the helper and its children have to say; whether nobody is left to say anything."""
        self._socket.setblocking(False)
        try:
            while data := self._socket.recv(_CHUNK_BYTES):
                self._received += data
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True


def _plain(order: Order) -> dict[str, Any]:
    return {
        "number": order.number,
        "module": order.module,
        "arguments": order.arguments,
        "environment": dict(order.environment),
        "log": str(order.log.absolute()),
        "folder": str(Path.cwd()),
    }
