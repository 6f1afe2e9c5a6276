"""A sweep's directory: its plan, a file of attempts and a log for each point, the ledger and the summary.

sweeps/<name or hash>/
    plan.json          every point that was ever asked for, with its whole recipe, and which are asked for now
    ledger.jsonl       a line per point: identity, run, attempts, status, best
    summary.csv        a row per configuration
    points/0007.jsonl  the processes that worked on point 7
    logs/0007.log      what they printed
    launcher/          scripts and lists of the launcher
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import RunError
from loopwright.record.files import dumps, explained, write_atomic
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import read_json

if TYPE_CHECKING:  # it knows recipes, and so torch, which a look at a sweep has no use for
    from loopwright.sweeps.plan import Confirm, Plan, Point

log = logging.getLogger("loopwright")


@dataclass(frozen=True)
class SweepDirectory:
    """A sweep on disk, whoever works on it."""

    path: Path

    @property
    def lock(self) -> DirectoryLock:
        """Held by the one process that starts its jobs."""
        return DirectoryLock(self.path / ".lock")

    @property
    def launcher_folder(self) -> Path:
        return self.path / "launcher"

    @property
    def cancelled(self) -> Path:
        """A file that asks whoever works on the sweep to stop, and whoever waits for it not to start it again."""
        return self.path / "cancel"

    @property
    def ledger_file(self) -> Path:
        return self.path / "ledger.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.csv"

    def attempts_file(self, number: int) -> Path:
        return self.path / "points" / f"{number:04d}.jsonl"

    def log(self, number: int) -> Path:
        return self.path / "logs" / f"{number:04d}.log"

    def make(self) -> None:
        """Make the directory and its folders."""
        for folder in (self.path, self.path / "points", self.path / "logs", self.launcher_folder):
            try:
                with explained(folder, 0):
                    folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                raise RunError(f"{folder} is to be a folder, and there is a file in its way; move it away") from None

    def adopt(
        self, plan: Plan, root: Path, facts: Mapping[str, Any], confirming: Sequence[Point] = ()
    ) -> dict[int, Point]:
        """Write a plan down and give each of its points its number: the one it has here already, or the next.

        `root` is the root of the runs, `facts` how the sweep was asked for, `confirming` the points that the plan has
        grown by since its screening has ended. Points of an earlier plan stay recorded.
        """
        from loopwright.sweeps.plan import to_plain

        self.make()
        recorded = self._read() or self._afresh()
        known = {entry["key"]: int(number) for number, entry in recorded["points"].items()}
        if recorded.get("hash") not in (None, plan.hash):
            old = sum(point.key in known for point in plan.points)
            log.info(
                "the plan of %s has changed: %d of its points are known here, %d are new",
                self.path,
                old,
                len(plan.points) - old,
            )
        new = itertools.count(max(known.values(), default=0) + 1)
        numbered: dict[int, Point] = {}
        for point in (*plan.points, *confirming):
            if point.key not in known:
                known[point.key] = next(new)
            numbered[known[point.key]] = point
        points = {**recorded["points"], **{str(number): to_plain(point) for number, point in numbered.items()}}
        confirm = plan.confirm and {"top": plan.confirm.top, "seeds": plan.confirm.seeds}
        written = {
            "format_version": 1,
            "hash": plan.hash,
            "name": plan.name,
            "root": str(root.resolve()),
            "confirm": confirm,
            **facts,
            "asked": list(numbered),
            "points": points,
        }
        text = dumps(written) + "\n"
        if not self._plan.is_file() or self._plan.read_text(encoding="utf-8") != text:
            write_atomic(self._plan, text)
        return numbered

    def plan(self) -> dict[str, Any]:
        """The recorded plan as plain values. Raises RunError."""
        found = self._read()
        if found is None:
            raise RunError(f"{self.path} is no sweep: it has no plan.json")
        return found

    def points(self) -> dict[int, dict[str, Any]]:
        """The points that are asked for now, by their numbers, as plain values. Raises RunError."""
        plan = self.plan()
        return {number: plan["points"][str(number)] for number in plan["asked"]}

    def confirm(self) -> Confirm | None:
        from loopwright.sweeps.plan import Confirm

        facts = self.plan()["confirm"]
        return None if facts is None else Confirm(**facts)

    @property
    def _plan(self) -> Path:
        return self.path / "plan.json"

    def _read(self) -> dict[str, Any] | None:
        fix = "move it away and give the sweep's command again: runs that are finished are found"
        try:
            found = read_json(self._plan)
        except RunError as error:
            raise RunError(f"{error}; {fix}") from error
        if found is not None and not _is_plan(found):
            raise RunError(f"{self._plan} is damaged: it is no plan of a sweep; {fix}")
        return found

    def _afresh(self) -> dict[str, Any]:
        """The plan of a sweep that has none. What is said of points of a lost one is removed: numbers begin anew."""
        for file in (self.ledger_file, *(self.path / "points").glob("*.jsonl")):
            if file.is_file():
                file.unlink()
        return {"points": {}}


def _is_plan(found: Mapping[str, Any]) -> bool:
    """Whether a JSON object has what every reader of a plan relies on."""
    points, asked = found.get("points"), found.get("asked")
    if not (isinstance(points, dict) and isinstance(asked, list) and isinstance(found.get("root"), str)):
        return False
    kinds = {"key": str, "label": str, "stage": str, "seed": int, "overrides": list, "recipe": dict}
    return all(str(number) in points for number in asked) and all(
        number.isdecimal()
        and isinstance(point, dict)
        and all(isinstance(point.get(name), kind) for name, kind in kinds.items())
        for number, point in points.items()
    )


def sweep_directory(root: Path, plan: Plan) -> SweepDirectory:
    """Where a plan's sweep lives below the root of the runs: by its name, else by the hash of the plan."""
    return SweepDirectory(root / "sweeps" / plan.folder)
