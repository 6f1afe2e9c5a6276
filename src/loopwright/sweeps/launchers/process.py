"""What happens in the process of a job that the launcher `local` started: `python -m loopwright.sweeps.launchers.process`.

Its stdin is the lifeline, a pipe that nobody writes to and whose other end the driver holds. When the driver has gone,
however it went, the pipe ends, and the job is asked to save a checkpoint and to end.
"""

from __future__ import annotations

import atexit
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import NoReturn

from loopwright.sweeps.launcher import JOB_VARIABLE

CTRL_C = 130  # what a program exits with that Ctrl-C ended


def call(module: str, arguments: Sequence[str]) -> int:
    """The module's `main(arguments)` as if it were the program; what the interpreter would exit with after it."""
    try:
        imported = importlib.import_module(module)
        sys.argv[:] = [imported.__file__ or module, *arguments]
        return int(imported.main(list(arguments)))
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)  # noqa: T201 - into the job's log
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return CTRL_C
    except Exception:
        traceback.print_exc()
        return 1


def take_lifeline() -> None:
    """Make stdin, the lifeline, an empty one, and follow the lifeline from a thread."""
    lifeline = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_follow, args=(lifeline,), name="loopwright-lifeline", daemon=True).start()


def name_job() -> None:
    """Tell the job what its launcher calls it: its process id."""
    os.environ[JOB_VARIABLE] = f"pid {os.getpid()}"


def leave(code: int) -> NoReturn:
    """End a forked process as the interpreter would end, but for taking every module apart, which costs 0.15 s.

    Threads that are no daemons are waited for, and `atexit` functions are called: figures in the making are among them.
    """
    threading._shutdown()  # type: ignore[attr-defined]  # as `multiprocessing` does in its children
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _follow(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Run the job `MODULE ARGUMENTS...` in a process of its own."""
    take_lifeline()
    name_job()
    return call(arguments[0], arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
