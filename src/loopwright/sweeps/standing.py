"""A sweep seen from another login shell: how it stands, stopping it, finding it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from loopwright.config.node import frozen
from loopwright.config.registry import imports_allowed
from loopwright.errors import LoopwrightError, RunError
from loopwright.sweeps.directory import SweepDirectory
from loopwright.sweeps.entry import Entry
from loopwright.sweeps.launcher import JobState
from loopwright.sweeps.ledger import read_ledger, view
from loopwright.sweeps.settings import LAUNCHER, LauncherSettings


def find_sweep(given: str, root: Path) -> SweepDirectory:
    """The sweep a person means: a path, or the name, hash or beginning of one below the root. Raises RunError."""
    for path in (Path(given), root / "sweeps" / given):
        with suppress(OSError):  # a name too long for a file
            if (path / "plan.json").is_file():
                return SweepDirectory(path.resolve())
    with suppress(OSError):
        known = sorted(path.name for path in (root / "sweeps").iterdir() if (path / "plan.json").is_file())
        matches = [name for name in known if given and name.startswith(given)]
        if len(matches) == 1:
            return SweepDirectory((root / "sweeps" / matches[0]).resolve())
        if known:
            raise RunError(f"{given!r} is no sweep; below {root / 'sweeps'} there are: {', '.join(known)}")
    raise RunError(
        f"{given!r} is no sweep: neither a directory with a plan.json, nor the name of one below {root}/sweeps"
    )


def launcher_settings(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> LauncherSettings | None:
    """The launcher that the sweep was last started with; None where it cannot be had here."""
    recorded = next(iter(directory.points().values()), {}).get("recipe", {}).get("launcher")
    with imports_allowed(allow_import), suppress(ValidationError, TypeError):
        settings: LauncherSettings = TypeAdapter(LAUNCHER).validate_python(frozen(recorded))
        return settings
    return None


def standing(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> tuple[list[Entry], bool]:
    """How each point stands, and whether a process drives the sweep. Raises RunError where there is no plan."""
    driven = directory.lock.is_held()
    if driven:
        states: Mapping[int, JobState] = {
            entry.point: JobState("queued" if entry.status == "queued" else "running", where=entry.where)
            for entry in read_ledger(directory)
            if entry.status in ("queued", "running")
        }
    else:
        states = _queued(directory, allow_import)
    return view(directory, states), driven


def is_at_work(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> bool:
    """Whether any run of a sweep is in a queue, or is trained."""
    return any(entry.status in ("queued", "running") for entry in standing(directory, allow_import)[0])


def goes_on(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> bool:
    """Whether a sweep that nobody drives has something under way in a queue, or a screening that is to be confirmed."""
    settings = launcher_settings(directory, allow_import)
    if settings is None or not settings.outlives or directory.cancelled.exists():
        return False
    entries, _ = standing(directory, allow_import)
    screened = all(entry.has_outcome and entry.stage == "screen" for entry in entries)
    return screened or any(entry.status in ("queued", "running") for entry in entries)


def _queued(directory: SweepDirectory, allow_import: Iterable[str]) -> Mapping[int, JobState]:
    """What a queue that outlives its driver says of the sweep's jobs; nothing where it cannot be asked from here."""
    settings = launcher_settings(directory, allow_import)
    if settings is None or not settings.outlives:
        return {}
    with suppress(LoopwrightError):
        launcher = settings.build(directory.launcher_folder, directory.path.name)
        try:
            return {number: state for number, state in launcher.poll().items() if state.phase != "ended"}
        finally:
            launcher.close()
    return {}


def cancel(directory: SweepDirectory, allow_import: Iterable[str] = ()) -> str:
    """Ask whoever works on a sweep to stop, its runs after a checkpoint; returns a line that says what was done."""
    directory.plan()
    if directory.lock.is_held():
        directory.cancelled.touch()
        return "asked the process that drives it to stop; its runs save a checkpoint and end"
    settings = launcher_settings(directory, allow_import)
    if settings is None or not settings.outlives:
        return "nobody works on it, there is nothing to stop"
    with directory.lock:
        launcher = settings.build(directory.launcher_folder, directory.path.name)
        try:
            alive = [number for number, state in launcher.poll().items() if state.phase != "ended"]
            launcher.stop(alive)
            if alive:
                directory.cancelled.touch()  # until the sweep's command is given again
        finally:
            launcher.close()
    if not alive:
        return "none of its runs is in the queue, there is nothing to stop"
    return f"withdrew {len(alive)} runs from the queue; those that had begun save a checkpoint and end"
