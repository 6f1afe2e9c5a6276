"""`Recorded`: a run as its record tells it, ready to be trained again somewhere else."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loopwright.config.compose import compose
from loopwright.config.durations import Duration
from loopwright.config.schema import Recipe, plain
from loopwright.content.arguments import Arguments
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.hooks import Hook
from loopwright.engine.task import Task
from loopwright.errors import LockError, RunError
from loopwright.experiment import run
from loopwright.hooks.settings import HookSettings
from loopwright.record.compare import last_step
from loopwright.record.index import Index
from loopwright.record.lock import DirectoryLock
from loopwright.record.read import read_config, read_json, read_result, read_sessions
from loopwright.record.run import Run
from loopwright.report.settings import NoPlots
from loopwright.resuming import begin_from
from loopwright.streams import Streams, isolated

log = logging.getLogger("loopwright")

Given = Callable[[Path], tuple[Recipe, Task, Arguments | None]]
# These end where something outside the recipe said so: their record is verified as far as it goes.
_CUT_SHORT = (None, "interrupted", "failed", "pruned")
# Keys that a replay sets itself.
OWN_KEYS = ("stop.budget", "device")


@dataclass(frozen=True)
class Recorded:
    """A recorded run: its recipe as a replay wants it (no figures, no checkpoints on the way), and how far it goes.

    `task` stands in for the recipe's own (a module given to `fit`), and `arguments` are what it is made of. `begins` is the
    step of its parent's checkpoint for a child, else 0. `partial`: it was cut short at step `last_step`, and its tables may
    end before that.
    """

    path: Path
    recipe: Recipe
    task: Task | None
    index: Index
    partial: bool
    last_step: int
    begins: int
    parent: Path | None
    arguments: Arguments | None = None
    notes: tuple[str, ...] = field(default=())

    def create(self, root: Path, recipe: Recipe | None = None) -> Path:
        """A run directory below `root` that is to become this run once more. Raises RunError."""
        identity = str((read_json(self.path / "environment.json") or {}).get("run_id"))
        identity = identity if re.fullmatch(r"[0-9a-f]{10}-s\d+", identity) else "replay"
        fresh = Run.create(root, self.path.resolve().parent.name or "run", identity, plain(recipe or self.recipe), ())
        try:
            if self.parent is not None:
                self._begin(fresh.path)
        finally:
            fresh.close()
        return fresh.path

    def train(self, path: Path, recipe: Recipe, task: Task | None, hooks: Iterable[Hook]) -> None:
        """Train in a directory that `create` has made. Raises KeyboardInterrupt where a signal came."""
        parent = None if self.parent is None else str(self.parent)
        outcome = run(recipe, path=path, task=task or self.task, arguments=self.arguments, hooks=hooks, parent=parent)
        if outcome.status == "interrupted":
            raise KeyboardInterrupt

    def build_task(self) -> Task:
        """The task that the engine would train."""
        if self.task is not None:
            return self.task
        recipe, device = self.recipe, resolve_device(self.recipe.device)
        with isolated(), computing(device, recipe.threads, recipe.deterministic):
            streams = Streams(recipe.seed)
            built: Task = recipe.task.build(
                recipe.model, batch_size=recipe.train.batch_size, streams=streams, device=device
            )
            return built

    @property
    def best_is_known(self) -> bool:
        """Whether the best weights from before a child began are still there, which its test may have used."""
        if self.parent is None:
            return True
        source = _source(self.path, self.parent, self.begins)
        index = Index.read(source / "checkpoints")
        index.rewind(next(entry for entry in index.entries if entry.step == self.begins))
        return index.tagged("best") is not None

    def _begin(self, fresh: Path) -> None:
        assert self.parent is not None
        source = _source(self.path, self.parent, self.begins)
        index = Index.read(source / "checkpoints")
        begin_from(fresh, source, index, next(entry for entry in index.entries if entry.step == self.begins))


def recorded_run(
    path: Path, *, given: Given | None = None, allow_import: Iterable[str] = (), config_dir: Path | None = None
) -> Recorded:
    """Read a run's record. `given` makes recipe and task of a run that came from `loopwright.fit`. Raises RunError."""
    config = read_config(path)
    if DirectoryLock(path / ".lock").is_held():
        raise LockError(f"{path} is being worked on; verify it when it has ended")
    named = config.get("task")
    task: Task | None = None
    arguments: Arguments | None = None
    if isinstance(named, dict) and named.get("name") == "python":
        if given is None:
            raise RunError(
                f"{path} came from loopwright.fit and needs its module, loss and data: call "
                "loopwright.verify(run, model=..., loss=..., train=..., val=...) from Python"
            )
        recipe, task, arguments = given(path)
    else:
        recipe = compose(base=config, allow_import=allow_import, config_dir=config_dir).recipe
    environment, result = read_json(path / "environment.json") or {}, read_result(path) or {}
    index = Index.read(path / "checkpoints") if (path / "checkpoints").is_dir() else Index(path / "checkpoints")
    status = result.get("status")
    partial = status in _CUT_SHORT
    end = max([last_step(path), *(entry.step for entry in index.entries)])
    notes = []
    if partial:
        notes.append(f"the run is {status or 'unfinished'}: it is verified up to step {end}, the last one it recorded")
    parent = environment.get("parent")
    begins = 0
    if parent is not None:
        parent = str(parent)
        begins = _began_at(path)
        _source(path, Path(parent), begins)
        notes.append(f"it is a child: verified from step {begins} on; the steps before are those of {parent}")
    if end <= begins:
        raise RunError(f"there is nothing to compare: {path} has recorded no step of its own")
    return Recorded(
        path=path,
        recipe=_for_replay(recipe, environment, result, end if partial else None),
        task=task,
        index=index,
        partial=partial,
        last_step=end,
        begins=begins,
        parent=None if parent is None else Path(parent),
        arguments=arguments,
        notes=tuple(notes),
    )


def _for_replay(recipe: Recipe, environment: dict[str, Any], result: dict[str, Any], end: int | None) -> Recipe:
    """The recipe with what a replay does not need left out, ending where the record does. The trajectory stays."""
    budget = recipe.stop.budget
    if end is not None:
        budget = Duration.parse(f"{end} steps")
    elif budget is not None and budget.unit == "seconds":  # time ended it, or did not; steps say where
        budget = None if result["status"] == "diverged" else Duration.parse(f"{result['steps']} steps")
    device, trained_on = recipe.device, str(environment.get("device"))
    if device == "auto" and re.fullmatch(r"cpu|cuda(:\d+)?", trained_on):
        device = trained_on
    record = {"save": True, "checkpoint_every": Duration.parse("8760 h"), "keep_last": 1, "code": False, "max_gb": None}
    return recipe.model_copy(
        update={
            "stop": recipe.stop.model_copy(update={"budget": budget}),
            "record": recipe.record.model_copy(update={**record, "console_every": 0}),
            "device": device,
            "hooks": HookSettings(),
            "trackers": (),
            "plots": NoPlots(),
        }
    )


def _began_at(path: Path) -> int:
    """The step that a child's first process went on from."""
    for session in read_sessions(path):
        if isinstance(session.get("step_from"), int):
            return int(session["step_from"])
    raise RunError(f"{path} is a child run, and its sessions.jsonl does not say from which step; it cannot be replayed")


def _source(path: Path, parent: Path, step: int) -> Path:
    """Where the checkpoint is that a child began from: with its parent, or its own copy. Raises RunError."""
    for place in (parent, path):
        if (place / "checkpoints").is_dir() and any(
            entry.step == step for entry in Index.read(place / "checkpoints").entries
        ):
            return place
    raise RunError(
        f"{path} is a child of {parent} and began from its checkpoint of step {step}, which is no longer there; it "
        "cannot be replayed without it"
    )
