"""What a Ray worker does with a job. In a module of its own, since workers import it and need nothing of the driver's."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from loopwright.sweeps.launcher import JOB_VARIABLE
from loopwright.sweeps.launchers.process import call


def train(module: str, arguments: Sequence[str], log: str, folder: str) -> int:
    """Run a job in this worker process, which ends with it. Everything printed is appended to `log`."""
    import ray

    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.chdir(folder)
    os.environ[JOB_VARIABLE] = f"ray {ray.get_runtime_context().get_task_id()}"
    try:
        return call(module, arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
