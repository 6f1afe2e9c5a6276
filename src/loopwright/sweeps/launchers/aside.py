"""Keeping a talkative library aside: what it says goes into a file, and what it changes in this process is undone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(log: Path, **environment: str) -> Iterator[None]:
    """A block whose stdout and stderr, with those of the processes that are started in it, are appended to `log`.

    `environment` is set within it. The handler of SIGTERM is put back afterwards: a driver has its own mind about signals.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    handler = signal.getsignal(signal.SIGTERM)
    before = {name: os.environ.get(name) for name in environment}
    sys.stdout.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("ab") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.environ.update(environment)
            yield
    finally:
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        for name, word in before.items():
            if word is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = word
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
