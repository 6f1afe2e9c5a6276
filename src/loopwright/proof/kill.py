"""Killing: the recipe in processes of its own, SIGKILLed at random instants and resumed, then held against the record."""

from __future__ import annotations

import json
import logging
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from loopwright import beside, clock
from loopwright.config.durations import Duration
from loopwright.errors import RunError
from loopwright.proof.recorded import Recorded
from loopwright.proof.replay import held_against, verdict
from loopwright.proof.verdict import Verdict, something
from loopwright.record.index import NAME
from loopwright.record.read import read_json, read_result, read_sessions

log = logging.getLogger("loopwright")

_POLL_SECONDS = 0.001
# A save that is waited for so as to be killed in it comes within this time, or the kill falls where it falls.
_SAVE_SECONDS = 5.0
# So many checkpoints a run writes when it is to be killed: each restart repeats a fraction of it.
_CHECKPOINTS = 40
_TOO_SHORT = 8


@dataclass
class _Killed:
    """A run directory that is being trained and killed."""

    path: Path
    kills: int = 0
    in_saves: int = 0


@dataclass
class _Pace:
    """How long a process is left alone: instants fall evenly over the steps, whatever a step takes here.

    Saving often makes a short run slower than its record says, so what the processes reach is measured.
    """

    steps: int
    seconds: float
    reached: int = 0
    alive: float = 0.0
    factor: float = 1.0

    def limit(self, done_steps: int, kills_left: int) -> float:
        """Twice the mean time until the next kill, for a run that has come so far."""
        per_step = self.alive / self.reached if self.reached else self.seconds / self.steps
        return 2 * self.factor * per_step * max(self.steps - done_steps, 1) / (kills_left + 1)

    def lived(self, seconds: float, steps: int) -> None:
        self.alive, self.reached = self.alive + seconds, self.reached + max(steps, 0)


def kill_and_resume(
    recorded: Recorded, kills: int, root: Path, allow_import: Iterable[str] = (), config_dir: Path | None = None
) -> Verdict:
    """Train the run once more in processes that are killed `kills` times in all, and compare. Raises RunError.

    Instants are drawn (by the run's seed) from when a process has begun its session, over the time that the recorded run
    took; every third one waits for a checkpoint to be begun, and falls in that. A process that ends before its instant is
    no kill: the finished run is compared, and a new one is started and given less time.
    """
    began = clock.monotonic()
    steps = recorded.last_step - recorded.begins
    every = Duration.parse(f"{max(1, steps // _CHECKPOINTS)} steps")
    recipe = recorded.recipe
    recipe = recipe.model_copy(update={"record": recipe.record.model_copy(update={"checkpoint_every": every})})
    command = _command(allow_import, config_dir)
    instants = random.Random(f"kill {recipe.seed} {kills}")
    pace = _Pace(steps, _recorded_seconds(recorded.path))
    done, in_saves, fruitless = 0, 0, 0
    while True:
        attempt = _Killed(recorded.create(root, recipe))
        failure = None
        while done + attempt.kills < kills:
            left = kills - done - attempt.kills
            instant = instants.uniform(0.0, pace.limit(_newest_step(attempt.path) - recorded.begins, left))
            ended = _kill_once(attempt, command, instant, pace, aim=left % 3 == 1)
            if ended is not None:
                failure = _failure(ended, attempt)
                break
            saving = ", inside a save" if _in_a_save(attempt.path) else ""
            newest = _newest_step(attempt.path)
            log.info(
                "kill %d of %d%s; the newest checkpoint is that of step %d", kills - left + 1, kills, saving, newest
            )
        else:
            failure = _failure(_finish(attempt, command), attempt)
        done, in_saves = done + attempt.kills, in_saves + attempt.in_saves
        fruitless = 0 if attempt.kills else fruitless + 1
        if failure is not None and done == 0:
            raise RunError(f"{recorded.path} cannot be trained again: {failure}")
        if failure is None:
            compared = held_against(recorded, attempt.path)
            something(compared, 0, recorded.path)
            found = verdict(recorded, attempt.path, compared, None, 0, 0.0)
        else:
            found = Verdict("kill", str(recorded.path), last_step=recorded.last_step, failure=failure)
        if not found.identical or done >= kills:
            seconds = clock.monotonic() - began
            return replace(found, kind="kill", kills=done, kills_in_saves=in_saves, seconds=seconds)
        if fruitless == _TOO_SHORT:
            raise RunError(f"{recorded.path} is over too soon to be killed {kills} times; verify a longer run")
        if not attempt.kills:
            pace.factor *= 0.6


def _command(allow_import: Iterable[str], config_dir: Path | None) -> list[str]:
    """`resume`, which takes the recipe from the scratch run's own record: nothing in it is imported or resolved."""
    words = beside.module("loopwright", "resume")
    for module in allow_import:
        words += ["--allow-import", module]
    return words if config_dir is None else [*words, "--config-dir", str(config_dir)]


def _start(attempt: _Killed, command: list[str]) -> subprocess.Popen[str]:
    # A process that writes to a file never waits for somebody to read it.
    with (attempt.path.parent / f"{attempt.path.name}.log").open("w") as output:
        return subprocess.Popen(
            [*command, str(attempt.path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            text=True,
            env=beside.environment(),
        )


def _kill_once(attempt: _Killed, command: list[str], seconds: float, pace: _Pace, *, aim: bool) -> int | None:
    """Start a process and kill it; its exit code where it had ended by itself."""
    sessions, newest = len(read_sessions(attempt.path)), _newest_step(attempt.path)
    process = _start(attempt, command)
    try:
        while process.poll() is None and len(read_sessions(attempt.path)) == sessions:
            time.sleep(_POLL_SECONDS)
        born = clock.monotonic()
        _wait(process, born + seconds)
        if aim:
            _wait_for_save(process, attempt.path)
    finally:
        if process.poll() is None:
            process.kill()
        code = process.wait()
    pace.lived(clock.monotonic() - born, _newest_step(attempt.path) - newest)
    if code != -signal.SIGKILL:
        return code
    if (attempt.path / "result.json").exists():
        return 0  # it was done; a kill on the way out proves nothing
    attempt.kills += 1
    attempt.in_saves += _in_a_save(attempt.path)
    return None


def _finish(attempt: _Killed, command: list[str]) -> int:
    process = _start(attempt, command)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[str], until: float) -> None:
    while process.poll() is None and clock.monotonic() < until:
        time.sleep(min(_POLL_SECONDS, max(until - clock.monotonic(), 0.0)))


def _wait_for_save(process: subprocess.Popen[str], path: Path) -> None:
    """Until a checkpoint file has appeared that was not there, and its save is under way: the process stands still then.

    It is stopped to look, so that the save cannot be over before the kill comes, and goes on where it was over already.
    """
    folder, until = path / "checkpoints", clock.monotonic() + _SAVE_SECONDS
    before = set(os.listdir(folder)) if folder.is_dir() else set()
    while process.poll() is None and clock.monotonic() < until:
        names = set(os.listdir(folder)) if folder.is_dir() else set()
        if any(NAME.fullmatch(name) for name in names - before):
            process.send_signal(signal.SIGSTOP)
            if hasattr(os, "waitid"):
                os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if process.poll() is not None or _in_a_save(path):
                return
            before = names
            process.send_signal(signal.SIGCONT)
        time.sleep(_POLL_SECONDS / 5)


def _in_a_save(path: Path) -> bool:
    """Whether a process died between the first byte of a checkpoint and its commit, or in the commit itself."""
    folder = path / "checkpoints"
    names = set(os.listdir(folder)) if folder.is_dir() else set()
    try:
        committed = {entry["file"] for entry in json.loads((folder / "index.json").read_text())["files"]}
    except FileNotFoundError:
        committed = set()
    files = {name for name in names if NAME.fullmatch(name)}
    return files != committed or any(name.endswith(".tmp") for name in names)


def _newest_step(path: Path) -> int:
    """The step of the newest committed checkpoint, 0 where there is none yet."""
    index = read_json(path / "checkpoints" / "index.json") or {"files": []}
    return max((int(entry["step"]) for entry in index["files"]), default=0)


def _failure(code: int, attempt: _Killed) -> str | None:
    """What a process said that did not end as trainings end (0, or 4 where it diverged)."""
    if code in (0, 4):
        return None
    lines = (attempt.path.parent / f"{attempt.path.name}.log").read_text().splitlines() or ["nothing"]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1])
    return f"after {attempt.kills} kills, resume exits with {code} and says: {said.removeprefix('error: ')}"


def _recorded_seconds(path: Path) -> float:
    """How long the recorded run took, as far as its record says."""
    seconds = float((read_result(path) or {}).get("elapsed_seconds", 0))
    return seconds if 0 < seconds < math.inf else 1.0
