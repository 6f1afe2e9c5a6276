"""How `local` starts a process for a job: one interface, and the plain way, an interpreter of its own each time.

`warm.py` has the quick way.
"""

from __future__ import annotations

import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loopwright import beside


@dataclass(frozen=True, slots=True)
class Order:
    """A process to start: `python -m MODULE ARGUMENTS...` with this whole environment, printing into `log`."""

    number: int
    module: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path


class Starter(ABC):
    """Starts processes and learns how they end. Each is in a session of its own and ends when this process has ended."""

    @abstractmethod
    def start(self, order: Order) -> None:
        """Start a process. Raises OSError where the machine refuses."""

    @abstractmethod
    def ended(self) -> Mapping[int, int | None]:
        """Number and exit code of the processes that ended since the last call: -N for signal N, None if nobody knows."""

    @abstractmethod
    def pid(self, number: int) -> int | None:
        """The process id of one that runs, None before it is known."""

    @abstractmethod
    def terminate(self, number: int) -> None:
        """SIGTERM, if it still runs."""

    @abstractmethod
    def close(self) -> None:
        """Cut the lifelines: what still runs saves a checkpoint and ends, which is waited for."""


class Fresh(Starter):
    """A new interpreter for each."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._lifeline, self._held = os.pipe()

    def start(self, order: Order) -> None:
        with order.log.open("ab") as log:
            self._running[order.number] = subprocess.Popen(
                beside.module("loopwright.sweeps.launchers.process", order.module, *order.arguments),
                stdin=self._lifeline,
                stdout=log,
                stderr=log,
                env=dict(order.environment),
                start_new_session=True,
            )

    def ended(self) -> Mapping[int, int | None]:
        codes = {number: process.poll() for number, process in self._running.items()}
        done = {number: code for number, code in codes.items() if code is not None}
        for number in done:
            del self._running[number]
        return done

    def pid(self, number: int) -> int | None:
        return self._running[number].pid if number in self._running else None

    def terminate(self, number: int) -> None:
        if number in self._running:
            with suppress(ProcessLookupError):
                self._running[number].send_signal(signal.SIGTERM)

    def close(self) -> None:
        for end in (self._lifeline, self._held):
            os.close(end)
        for process in self._running.values():
            process.wait()
        self._running.clear()
