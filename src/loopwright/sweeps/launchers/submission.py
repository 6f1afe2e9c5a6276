"""A submission: the folder of one array of jobs in a cluster's queue.

It is written before the cluster is asked, so that a launcher that was killed in between finds its jobs again, and it is
where each task notes its exit code: no accounting data base is needed, and no daemon has to remember.

slurm-0001/
    jobs.json    what the array is called in the queue, and the number of each of its jobs, by index
    commands     a line per index: the words of its process, quoted for a shell
    task.sh      what the cluster runs for each index
    id           what the cluster calls the array
    logs/3       a link to the log of the job
    exit/3       the exit code of the task, once it has ended and does not come back
    stopped/3    asked to end: it does not come back
    ended        a line for each index whose end has been reported
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from loopwright import beside
from loopwright.record.files import dumps, explained, write_atomic
from loopwright.record.read import read_json
from loopwright.sweeps.launcher import Job


@dataclass
class Submission:
    """One array on disk. `alive` are the indices whose end has not been reported."""

    path: Path
    name: str
    numbers: tuple[int, ...]
    id: str = ""
    alive: set[int] = field(default_factory=set)

    @classmethod
    def create(cls, folder: Path, kind: str, name: str, jobs: Sequence[Job]) -> Submission:
        """A new one in `folder`. Its script is still to be written, with `write`."""
        folder.mkdir(parents=True, exist_ok=True)
        used = [int(path.name.rpartition("-")[2]) for path in _folders(folder, kind)]
        path = folder / f"{kind}-{max(used, default=0) + 1:04d}"
        for below in ("", "logs", "exit", "stopped"):
            (path / below).mkdir()
        for index, job in enumerate(jobs):
            job.log.parent.mkdir(parents=True, exist_ok=True)
            (path / "logs" / str(index)).symlink_to(job.log.absolute())
        word = re.sub(r"[^A-Za-z0-9_-]+", "-", name)  # names stand in lists with commas
        return cls(path.absolute(), f"{word}-{secrets.token_hex(4)}", tuple(job.number for job in jobs))

    def write(self, jobs: Sequence[Job], script: Callable[[Submission], str]) -> None:
        """Write what the tasks need. From now on the submission is found again."""
        commands = [_line(beside.module(job.module, *job.arguments)) for job in jobs]
        (self.path / "commands").write_text("\n".join(commands) + "\n", encoding="utf-8")
        (self.path / "task.sh").write_text(script(self), encoding="utf-8")
        (self.path / "task.sh").chmod(0o755)
        self.alive = set(range(len(jobs)))
        write_atomic(self.path / "jobs.json", dumps({"name": self.name, "numbers": list(self.numbers)}) + "\n")

    @classmethod
    def open_ones(cls, folder: Path, kind: str) -> list[Submission]:
        """Those in `folder` that have jobs whose end nobody has reported yet, oldest first."""
        found = []
        for path in _folders(folder, kind):
            facts = read_json(path / "jobs.json")
            if facts is None:
                continue  # its launcher was killed before it asked the cluster
            reported = {int(line) for line in _text(path / "ended").splitlines() if line.isdigit()}
            alive = set(range(len(facts["numbers"]))) - reported
            if alive:
                name, numbers = facts["name"], tuple(facts["numbers"])
                found.append(cls(path.absolute(), name, numbers, _text(path / "id").strip(), alive))
        return found

    def handed_in(self, identifier: str) -> None:
        """Note what the cluster calls it."""
        self.id = identifier
        write_atomic(self.path / "id", f"{identifier}\n")

    def codes(self, indices: Collection[int]) -> dict[int, int]:
        """The exit codes that these have noted so far, by index; -N where signal N ended the process."""
        if not indices:
            return {}
        found = {}
        os.listdir(
            self.path / "exit"
        )  # makes a client of a network file system look again for files it believes missing
        for index in indices:
            with suppress(ValueError):
                code = int(_text(self.path / "exit" / str(index)))
                found[index] = 128 - code if code > 128 else code
        return found

    def stop(self, indices: Iterable[int]) -> None:
        """Note that these are to end and not to come back."""
        for index in indices:
            (self.path / "stopped" / str(index)).touch()

    def stopped(self, index: int) -> bool:
        return (self.path / "stopped" / str(index)).exists()

    def report(self, index: int) -> None:
        """Note that the end of a task has been reported: nobody is told of it again."""
        self.alive.discard(index)
        file = self.path / "ended"
        with explained(file, 8), file.open("a", encoding="utf-8") as stream:
            stream.write(f"{index}\n")

    def forget(self) -> None:
        """Remove it: the cluster never took it."""
        self.alive.clear()
        shutil.rmtree(self.path, ignore_errors=True)


def _folders(folder: Path, kind: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{kind}-*") if path.name.rpartition("-")[2].isdigit())


def _line(words: Sequence[str]) -> str:
    """Words quoted for a shell, on one line: within quotes, a line break is written as $'\\n'."""
    return shlex.join(words).replace("\n", "'$'\\n''")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
