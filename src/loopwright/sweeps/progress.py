"""What a sweep tells the person who watches, as it happens. This one logs; the command prints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from loopwright.sweeps.entry import Entry

log = logging.getLogger("loopwright")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a sweep is: points with an outcome or given up, of all; `seconds_left` is None before the first has ended."""

    done: int
    total: int
    seconds_left: float | None


class Watcher:
    """Is told of every point that ends, at once."""

    def ended(self, entry: Entry, progress: Progress) -> None:
        """A point has its outcome."""
        log.info("%d/%d %s: %s", progress.done, progress.total, entry.status, entry.title)

    def failed(self, entry: Entry, progress: Progress) -> None:
        """A point is given up by this command."""
        log.error("%s: %s: %s (log: %s)", entry.status, entry.title, entry.error, entry.log)

    def again(self, entry: Entry, crashes: int, retries: int) -> None:
        """A point whose process died is started again."""
        log.warning("%s: %s; started again (%d of %d)", entry.title, entry.error, crashes, retries)

    def standing(self, counts: Mapping[str, int], progress: Progress) -> None:
        """How many points stand how; comes at each look, many times a second."""
