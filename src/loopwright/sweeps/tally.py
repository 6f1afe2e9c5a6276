"""The problems of many configurations, each line once, with how many configurations share it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from loopwright.errors import ConfigError

# A key that nobody has is one problem, whatever the values it was to take.
_NO_SUCH_KEY = re.compile(r"(`[^`]+`) is .*(: there is no such key.*)")


class Tally:
    """Collects what is wrong, so that all of it is said at once."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        # What is wrong with configurations -> the line of the first, and the labels of all.
        self._of: dict[str, tuple[str, list[str]]] = {}
        self._configurations = 0

    def add(self, line: str) -> None:
        """Something that is wrong with the sweep itself."""
        if line not in self._lines:
            self._lines.append(line)

    @contextmanager
    def collecting(self, where: str = "") -> Iterator[None]:
        """A block whose ConfigError is noted, after `where`, and does not end the expansion."""
        try:
            yield
        except ConfigError as error:
            for line in error.problems:
                self.add(where + line)

    @contextmanager
    def configuration(self, label: str) -> Iterator[None]:
        """A block that composes a configuration."""
        self._configurations += 1
        try:
            yield
        except ConfigError as error:
            for line in error.problems:
                found = _NO_SUCH_KEY.fullmatch(line)
                problem = found[1] + found[2] if found else line
                first, labels = self._of.setdefault(problem, (line, []))
                self._of[problem] = (line if line == first else problem, labels)
                if not labels or labels[-1] != label:
                    labels.append(label)

    def check(self) -> None:
        """Raise a ConfigError with all that was noted, if anything was."""
        lines = [*self._lines, *(line + self._shared_by(labels) for line, labels in self._of.values())]
        if lines:
            raise ConfigError(lines)

    def _shared_by(self, labels: list[str]) -> str:
        if len(labels) == self._configurations:
            return ""
        if len(labels) == 1:
            return f" (with {labels[0]})"
        return f" ({len(labels)} of {self._configurations} configurations; the first is {labels[0]})"
