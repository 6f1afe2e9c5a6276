"""What the launchers' conformance suite runs: the launchers by name, and jobs small enough to start many of."""

from __future__ import annotations

import atexit
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.engine.interrupt import Interrupt
from loopwright.sweeps.launcher import JOB_VARIABLE, Job, JobState, Launcher

TESTS = Path(__file__).resolve().parent.parent
MODULE = "support.launched"
# Where a launcher is that never comes to the point; nothing here takes more than some seconds.
_PATIENCE_SECONDS = 120.0

# What the processes that `support.launched` names as their module share where they are forked.
IMPORTS = ("torch", "loopwright.experiment")


@dataclass(frozen=True)
class Member:
    """A launcher of the suite.

    `build` makes it on a folder; what it needs to run is there within `service`, which is given a folder too. `variables`
    are set around it. A slow one starts in seconds.
    """

    build: Callable[[Path], Launcher]
    service: Callable[[Path], AbstractContextManager[object]] = lambda folder: nullcontext()
    variables: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False


def _local(folder: Path) -> Launcher:
    from loopwright.sweeps.launchers.local import LocalSettings

    return LocalSettings(workers=2).build(folder, "conformance")


def _inline(folder: Path) -> Launcher:
    from loopwright.sweeps.launchers.inline import InlineSettings

    return InlineSettings().build(folder, "conformance")


def _ray(folder: Path) -> Launcher:
    from loopwright.sweeps.launchers.ray import RaySettings

    return RaySettings(workers=2).build(folder, "conformance")


def _slurm(folder: Path) -> Launcher:
    from loopwright.sweeps.launchers.slurm import SlurmLauncher, SlurmSettings

    return SlurmLauncher(SlurmSettings(workers=2), folder, "conformance", settle_seconds=1.0)


@contextmanager
def _slurm_service(folder: Path) -> Iterator[None]:
    from support.slurm import slurm

    with slurm(folder / "s") as cluster:
        os.environ.update(cluster.env)
        yield


# A launcher joins the suite here.
MEMBERS = {
    "local": Member(_local),
    "local, fresh": Member(_local, variables={"LOOPWRIGHT_FRESH": "1"}),
    "inline": Member(_inline),
    "ray": Member(_ray, slow=True),
    "slurm": Member(_slurm, _slurm_service, slow=True),
}

# The conformance tests that a launcher is not held to, and why.
EXEMPT = {
    "inline": {
        "killed": "a job that is killed there is its driver killed",
        "stopped": "nobody can ask while one runs, and it runs when it is submitted; a signal reaches it directly",
        "orphaned": "there is no job left when the driver is gone",
    },
    "ray": {
        "orphaned": "Ray ends the tasks of a driver that died at once; they go on from their last checkpoints",
    },
    "slurm": {
        "orphaned": "its jobs outlive their driver",
    },
}


class Jobs:
    """A launcher at work in a folder, and the jobs it is given; those of `main` below unless told otherwise."""

    def __init__(self, launcher: Launcher, folder: Path) -> None:
        self.launcher, self.folder = launcher, folder
        self.states: dict[int, JobState] = {}
        self._count = 0

    def job(self, *words: object, module: str = MODULE, **facts: Any) -> Job:
        self._count += 1
        log = self.folder / "logs" / f"{self._count}.log"
        arguments = tuple(str(word) for word in words)
        if module == MODULE:
            arguments = (*arguments[:1], str(self.report_file(self._count)), *arguments[1:])
        return Job(self._count, module, arguments, log, **facts)

    def report_file(self, number: int) -> Path:
        return self.folder / f"report{number}.jsonl"

    def reports(self, job: Job) -> list[dict[str, Any]]:
        """What a job noted: a line for each process that worked on it."""
        file = self.report_file(job.number)
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def look(self) -> None:
        self.states.update(self.launcher.poll())

    def wait(self, jobs: Iterable[Job], until: Callable[[], bool] | None = None) -> list[int | None]:
        """Look until all have ended, or until what was waited for is so. Returns the codes of those that have ended."""
        jobs = list(jobs)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            self.look()
            ended = [self.states[job.number] for job in jobs if self.ended(job)]
            if len(ended) == len(jobs) if until is None else until():
                return [state.code for state in ended]
            assert time.monotonic() < deadline, f"{jobs} stand so: {self.states}"
            time.sleep(self.launcher.poll_seconds / 2)

    def run(self, *jobs: Job) -> list[int | None]:
        """Hand jobs out as there is room, and wait for all. Returns their codes."""
        waiting = list(jobs)
        while waiting:
            self.look()
            handed = waiting[: self.launcher.room()]
            del waiting[: len(handed)]
            self.launcher.submit(handed)
            time.sleep(0.0 if handed else self.launcher.poll_seconds / 2)
        return self.wait(jobs)

    def ended(self, job: Job) -> bool:
        return job.number in self.states and self.states[job.number].phase == "ended"

    def begun(self, *jobs: Job) -> Callable[[], bool]:
        return lambda: all(self.reports(job) for job in jobs)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Variables of this process, and the path on which jobs find this module."""
    before = dict(os.environ)
    path = os.pathsep.join((str(TESTS), *filter(None, [before.get("PYTHONPATH")])))
    os.environ.update(variables, PYTHONPATH=path)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def alive(pid: int) -> bool:
    """Whether a process still works: one that has ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(happened: Callable[[], object]) -> None:
    """Wait for something that a process elsewhere does."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def note(file: Path, **facts: Any) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps(facts) + "\n")


# ------------------------------------------------------------------------------------------------ in the job's process


def main(arguments: Sequence[str]) -> int:
    """A job: what it does, the file it notes things in, and more words."""
    what, file, *more = arguments
    seen = {"pid": os.getpid(), "job": os.environ.get(JOB_VARIABLE), "torch": "torch" in sys.modules, **_found()}
    note(Path(file), **seen)
    return int(_DOES[what](Path(file), *more))


def _found() -> dict[str, Any]:
    """What a job could find changed by the one before it."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGUSR1)]
    return {
        "environment": {name: word for name, word in os.environ.items() if name not in (JOB_VARIABLE, "PWD", "OLDPWD")},
        "folder": os.getcwd(),
        "path": sys.path,
        "handlers": [str(handler).split(" at ")[0] for handler in handlers],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else [],
        "session": os.getsid(0) == os.getpid(),
        "stdin": _stdin(),
    }


def _stdin() -> str:
    try:
        return os.read(0, 1).decode()
    except OSError as error:
        return str(error)


def _say(file: Path, code: str) -> int:
    print("to stdout")
    print("to stderr", file=sys.stderr)
    os.write(1, b"to descriptor 1\n")
    return int(code)


def _draw(file: Path) -> int:
    """Note what the global generators draw."""
    import numpy as np

    note(file, drawn=[random.random(), float(np.random.random())])
    return 0


def _raise(file: Path) -> int:
    raise ValueError("planted")


def _exit(file: Path, code: str) -> int:
    sys.exit(int(code) if code.isdigit() else code)


def _crowd(file: Path) -> int:
    """Note how many are at it at one time."""
    folder = file.parent / "inside"
    folder.mkdir(exist_ok=True)
    mine = folder / str(os.getpid())
    mine.touch()
    time.sleep(0.1)
    note(file, inside=len(os.listdir(folder)))
    mine.unlink()
    return 0


def _soil(file: Path) -> int:
    """Change whatever a process can change about itself."""
    import numpy as np

    os.environ.update(SOILED="1", PYTHONPATH="/nowhere")
    os.chdir("/")
    sys.path.insert(0, "/soiled")
    sys.argv.append("soiled")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    os.open(os.devnull, os.O_RDONLY)
    random.seed(1)
    np.random.seed(1)
    return 0


def _die_once(file: Path) -> int:
    """Be killed, but for the second time."""
    if len(file.read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _listen(file: Path) -> int:
    """Work until asked to save; the save is a note."""
    with Interrupt() as interrupt:
        note(file, listens=True)
        until(interrupt)
        note(file, saved=True)
    return 75


def _leave_late(file: Path) -> int:
    """Leave behind a thread, a pool of threads, a process, and a function for the end."""
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing import Pool

    atexit.register(note, file, atexit=True)
    threading.Thread(target=lambda: (time.sleep(0.2), note(file, thread=True))).start()
    pool = ThreadPoolExecutor(1)
    pool.submit(lambda: (time.sleep(0.2), note(file, pool=True)))
    with Pool(1) as processes:
        note(file, process=processes.apply(abs, (-3,)))
    return 0


def _fork(file: Path) -> int:
    """Leave a process of its own behind, which nobody waits for."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        time.sleep(30)
        os._exit(0)
    note(file, left=pid)
    return 0


_DOES: dict[str, Callable[..., int]] = {
    "say": _say,
    "draw": _draw,
    "raise": _raise,
    "exit": _exit,
    "crowd": _crowd,
    "soil": _soil,
    "die once": _die_once,
    "listen": _listen,
    "leave late": _leave_late,
    "fork": _fork,
}


# ------------------------------------------------------------------------------------------------- a driver of its own


def drive(member: str, folder: Path) -> None:
    """Start two jobs that listen, and then do nothing until killed."""
    jobs = Jobs(MEMBERS[member].build(folder / "launcher"), folder)
    jobs.launcher.submit([jobs.job("listen"), jobs.job("listen")])
    while True:
        jobs.look()
        time.sleep(jobs.launcher.poll_seconds)


if __name__ == "__main__":
    if sys.argv[1] in _DOES:
        sys.exit(main(sys.argv[1:]))
    drive(sys.argv[1], Path(sys.argv[2]))
