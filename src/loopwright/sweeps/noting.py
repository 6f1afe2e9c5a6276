"""A job's own side of its attempts file: the lines that say it begins and how it ended, whatever happens between them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.errors import LockError, LoopwrightError
from loopwright.sweeps import attempts
from loopwright.sweeps.launcher import label
from loopwright.sweeps.launchers.process import CTRL_C


class Trained(NamedTuple):
    """How a training ended: its status, the exit code, and what else is worth noting."""

    status: str
    code: int
    facts: dict[str, Any]


def noted(file: Path, train: Callable[[], Trained], *, durable: bool = True) -> int:
    """Train, and note it in the job's attempts file. Returns the exit code. `durable` as of `attempts.begin`."""

    def end(status: str, code: int, **facts: Any) -> int:
        # On a disk that takes nothing more, the exit code and the log have to do.
        with suppress(LoopwrightError):
            attempts.end(file, status, code, durable=durable, **facts)
        return code

    try:
        attempts.begin(file, label(), durable=durable)
        trained = train()
    except LockError as error:  # the process before it is still ending, or somebody else trains the same
        _say(f"busy: {error}")
        return end("busy", error.exit_code, error=str(error))
    except LoopwrightError as error:
        _say(f"error: {error}")
        return end("failed", error.exit_code, error=str(error))
    except KeyboardInterrupt:  # the second one
        end("interrupted", CTRL_C)
        raise
    except (Exception, SystemExit) as error:
        end("failed", 1, error=f"{type(error).__name__}: {error}")
        traceback.print_exc()  # last: a task may have closed stderr
        return 1
    return end(trained.status, trained.code, **trained.facts)


def _say(text: str) -> None:
    """Into the job's log, if that takes anything."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201
