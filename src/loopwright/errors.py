"""Everything Loopwright raises on purpose, and the exit code each kind ends the command with.

LoopwrightError
  UserError            2   wrong use; one line per problem, no traceback
    ConfigError        2   a recipe that cannot be honoured, every problem at once
    DataError          2   a data file that is missing, malformed or too short
    RunError           2   a run directory that is not what was asked for
      LockError        2   another process works on the run
  CheckFailed          3   an asked-for check did not hold
  MachineError         5   disk full, out of memory; nothing committed is lost
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class LoopwrightError(Exception):
    """Base of all errors whose message is meant for the person at the keyboard."""

    exit_code: ClassVar[int] = 2


class UserError(LoopwrightError):
    """Something the user can mend; the message names the key, the value and the fix."""


class ConfigError(UserError):
    """A recipe with one or more problems.

    `problems` holds one line each, so that all of them are shown at once.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = (problems,) if isinstance(problems, str) else problems
        # A key or a value may hold a line break; a problem is one line.
        self.problems: tuple[str, ...] = tuple(" ".join(problem.splitlines()) for problem in given)
        super().__init__("\n".join(self.problems))


class DataError(UserError):
    """Data that cannot be used as they are."""


class RunError(UserError):
    """A run directory that is missing, damaged beyond repair, or does not fit the command."""


class LockError(RunError):
    """The run is being worked on by another process, which the message names."""


class CheckFailed(LoopwrightError):
    """A check that was asked for on the command line did not hold."""

    exit_code = 3


class MachineError(LoopwrightError):
    """The machine gave out (disk, memory); what was committed before is intact."""

    exit_code = 5
