"""The work of a sweep for `drive`: which points are to be started, and what becomes of those that end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from loopwright import clock
from loopwright.errors import LoopwrightError
from loopwright.sweeps import attempts
from loopwright.sweeps.ending import FIRST_REST, LONGEST_REST
from loopwright.sweeps.entry import Entry, counts
from loopwright.sweeps.launcher import Job, JobState
from loopwright.sweeps.ledger import Ledger
from loopwright.sweeps.progress import Progress, Watcher
from loopwright.sweeps.summary import summarise, write_summary

log = logging.getLogger("loopwright")

_WRITE_SECONDS = 1.0


class Points:
    """Trains points: crashed ones are started again at once, up to `retries` times; failed ones are told and left alone.

    Those that are interrupted though nobody stopped the sweep, or whose run another process works on, come again after a
    rest. `fail_fast` stops everything with the first point that is given up. `jobs` are made by number.
    """

    def __init__(
        self,
        ledger: Ledger,
        numbers: Sequence[int],
        jobs: Mapping[int, Job],
        watcher: Watcher,
        *,
        retries: int,
        fail_fast: bool = False,
    ) -> None:
        self.ledger, self.jobs, self.watcher = ledger, jobs, watcher
        self.retries, self.fail_fast = retries, fail_fast
        self.directory = ledger.directory
        self.cancelled = self.given_up = False
        self._waiting: dict[int, None] = dict.fromkeys(
            number for number in numbers if not ledger.entries[number].has_outcome
        )
        self._left = set(self._waiting)
        self._rest: dict[int, tuple[float, float]] = {}  # number -> (not before, seconds of the next rest)
        self._crashes: dict[int, int] = {}
        self._before: dict[int, int] = {}  # number -> how many attempts it had when it was started here
        self._states: Mapping[int, JobState] = {}
        self._began, self._ended_here = clock.monotonic(), 0
        self._written, self._changed, self._told = -_WRITE_SECONDS, True, False

    def ready(self, room: int) -> Sequence[Job]:
        now = clock.monotonic()
        due = [number for number in self._waiting if self._rest.get(number, (now, 0.0))[0] <= now][:room]
        for number in due:
            del self._waiting[number]
            self._before[number] = len(attempts.read(self.directory.attempts_file(number)))
        return [self.jobs[number] for number in due]

    def ended(self, number: int, state: JobState) -> None:
        if number not in self.ledger.entries:
            return  # a job of an earlier plan, which is not asked for now
        self._waiting.pop(number, None)  # one that an earlier command left in a queue may have ended since
        self._states = {other: known for other, known in self._states.items() if other != number}
        entry = self.ledger.update(number, state, self._before.get(number, 0))
        self._changed = True
        if number not in self._left:
            return
        if entry.has_outcome:
            self._is_done(entry)
            self.watcher.ended(entry, self.progress)
        elif entry.status == "failed":
            self._give_up(entry)
        elif entry.status == "crashed":
            tried = attempts.read(self.directory.attempts_file(number))[self._before.get(number, 0) :]
            self._crashes[number] = crashes = self._crashes.get(number, 0) + attempts.crashes(tried)
            if crashes > self.retries:
                self._give_up(entry)
            else:
                self._waiting = {number: None, **self._waiting}  # before those that have not begun
                self.watcher.again(entry, crashes, self.retries)
        elif state.cancelled:
            self._is_done(entry)  # the same command, given again, goes on with it
        else:
            rest = self._rest.get(number, (0.0, FIRST_REST))[1]
            self._rest[number] = (clock.monotonic() + rest, min(2 * rest, LONGEST_REST))
            self._waiting[number] = None

    def watch(self, states: Mapping[int, JobState]) -> None:
        for number, state in states.items():
            self._waiting.pop(number, None)  # one that an earlier command left in a queue
            if number in self.ledger.entries and self._states.get(number) != state:
                self.ledger.update(number, state)
                self._changed = True
        self._states = dict(states)
        self.watcher.standing(self.counts, self.progress)
        if self._changed and clock.monotonic() >= self._written + _WRITE_SECONDS:
            self.write()

    @property
    def finished(self) -> bool:
        return not self._waiting

    @property
    def stopping(self) -> bool:
        self.cancelled = self.cancelled or self.directory.cancelled.exists()
        return self.cancelled or (self.fail_fast and self.given_up)

    @property
    def counts(self) -> dict[str, int]:
        return counts(self.ledger.entries.values())

    @property
    def progress(self) -> Progress:
        """Done and total are the whole sweep's; the time left is that of the points done here, on as many workers."""
        total, left = len(self.ledger.entries), len(self._left)
        seconds = (clock.monotonic() - self._began) / self._ended_here * left if self._ended_here else None
        return Progress(total - left, total, seconds)

    def write(self) -> None:
        """Write the ledger and the summary as they stand. They are views: a disk that takes none stops nobody."""
        self._written, self._changed = clock.monotonic(), False
        try:
            self.ledger.write()
            write_summary(self.directory.summary_file, summarise(self.ledger.lines, self.ledger.points))
        except LoopwrightError as error:
            if not self._told:
                log.warning("%s", error)
            self._told = True

    def _is_done(self, entry: Entry) -> None:
        self._left.discard(entry.point)
        self._ended_here += 1

    def _give_up(self, entry: Entry) -> None:
        self._is_done(entry)
        self.given_up = True
        self.watcher.failed(entry, self.progress)
