"""Real processes that run the command, forked from one that has imported everything: a kill costs no fresh interpreter.

`Warm` starts this file as a program. It reads a JSON object a line (what to run, or whom to wait for) and answers with a
line each; every child runs `loopwright ARGUMENTS...` in a process of its own, with its own pid, signals and files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

# Where a child can be told to stand still, so that it is killed inside a save: (module, function, when in its call).
SAVES = {
    "half of a checkpoint is written": ("loopwright.record.recorder", "write_durable", "half"),
    "a checkpoint is written, the index not": ("loopwright.record.index", "write_json", "before"),
    "the index is renamed, old files are there": ("loopwright.record.index", "write_json", "after"),
    "the rows are not synced": ("loopwright.record.recorder", "sync_directory", "before"),
    "model.pt is not written": ("loopwright.record.recorder", "move_into_place", "before"),
    "the links are not made": ("loopwright.record.recorder", "move_into_place", "after"),
}
# And in the main thread: in the midst of a step, in an evaluation.
HOLDS = {
    **SAVES,
    "a step": ("loopwright.engine.steps", "_finite_value", "before"),
    "an evaluation": ("loopwright.engine.fit", "evaluate", "before"),
}


@dataclass
class Child:
    """A process that runs the command. It stays a zombie, its pid its own, until somebody waits for it."""

    pid: int
    errors: Path
    server: Warm

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit code, negative for a signal, as in subprocess."""
        return int(self.server.ask({"wait": self.pid}))

    def kill(self) -> bool:
        """SIGKILL; whether it was still alive."""
        self.send(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def err(self) -> str:
        return self.errors.read_text()

    def go_on(self) -> None:
        """Let it go on from where it stands; signals sent before have reached it by then."""
        Path(f"{self.errors}.go").touch()


class Warm:
    """The server of forks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        tests = str(Path(__file__).parent.parent)
        path = os.pathsep.join((tests, *filter(None, [os.environ.get("PYTHONPATH")])))
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        )

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.communicate()

    def ask(self, question: dict[str, Any]) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the server of forks is gone"
        return answer

    def start(self, *arguments: object, hold: str | None = None, nth: int = 1) -> Child:
        """Run `loopwright ARGUMENTS...`; `hold` names a place of HOLDS where it stands still the n-th time it comes there."""
        self.count += 1
        errors = self.folder / f"child{self.count}.err"
        question = {"run": [str(argument) for argument in arguments], "err": str(errors), "hold": hold, "nth": nth}
        return Child(int(self.ask(question)), errors, self)

    def finish(self, *arguments: object) -> Child:
        """Run a command to its end, which must be a good one."""
        child = self.start(*arguments)
        code = child.wait()
        assert code == 0, child.err()
        return child

    def standing_at(self, child: Child) -> bool:
        """Wait until a child stands where it was told to; false where it ended without coming there."""
        return self.ask({"stands": child.pid}).strip() == "true"


def _serve() -> None:
    import importlib
    import warnings

    from loopwright.cli.main import Lazy

    for module, _ in Lazy.lazy.values():
        importlib.import_module(module)
    for module in ("loopwright.api", "loopwright.rehearsal", "loopwright.resuming", "support.tasks", "torch.optim"):
        importlib.import_module(module)
    from loopwright.plugins import load_installed

    load_installed()
    warnings.simplefilter(
        "ignore", DeprecationWarning
    )  # forking beside torch's idle threads; every child starts its own
    ended: dict[int, int] = {}
    marks: dict[int, str] = {}
    for line in sys.stdin:
        question = json.loads(line)
        if "run" in question:
            pid = os.fork()
            if pid == 0:
                _child(question)
            marks[pid] = question["err"] + ".stands"
            answer: object = pid
        elif "stands" in question:
            pid = question["stands"]
            while not os.path.exists(marks[pid]) and pid not in ended:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    ended[pid] = os.waitstatus_to_exitcode(status)
                time.sleep(0.002)
            answer = json.dumps(os.path.exists(marks[pid]))
        else:
            pid = question["wait"]
            if pid not in ended:
                ended[pid] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            answer = ended[pid]
        print(answer, flush=True)


def _child(question: dict[str, Any]) -> None:
    """The rest of a forked process's life."""
    from loopwright.cli.main import main

    nothing = os.open(os.devnull, os.O_RDWR)
    err = os.open(question["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, descriptor in enumerate((nothing, nothing, err)):
        os.dup2(descriptor, number)
    if question["hold"]:
        _hold(question["hold"], question["nth"], question["err"])
    try:
        main(question["run"])
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0)
    os._exit(1)


def _hold(place: str, nth: int, mark: str) -> None:
    """Let a function stand still at its n-th call, say so by a file, and go on when there is another one."""
    import importlib

    module_name, name, when = HOLDS[place]
    module = importlib.import_module(module_name)
    original, calls = getattr(module, name), [0]
    stood: list[str] = []

    def stand_still() -> None:
        Path(f"{mark}.stands").touch()
        while not os.path.exists(f"{mark}.go"):
            time.sleep(0.002)

    def held(*arguments: Any, **options: Any) -> Any:
        # model.pt goes the same way to the disk, but is no checkpoint.
        calls[0] += when != "half" or arguments[0].name.startswith("step_")
        if calls[0] != nth or stood:
            return original(*arguments, **options)
        if when == "half":
            original(*arguments)
            os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
        elif when == "after":
            original(*arguments, **options)
        stood.append(place)
        stand_still()
        return original(*arguments, **options) if when != "after" else None

    setattr(module, name, held)


if __name__ == "__main__":
    _serve()
