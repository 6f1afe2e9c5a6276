"""Going on with a recorded run: to the same bits, or as a child with some keys changed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from loopwright.building import build
from loopwright.config.compose import compose
from loopwright.config.identity import trajectory
from loopwright.config.schema import Recipe, parse, plain
from loopwright.content.arguments import Arguments
from loopwright.content.comparison import read_arguments
from loopwright.engine.compute import resolve_device
from loopwright.engine.hooks import Hook
from loopwright.engine.outcome import Outcome
from loopwright.engine.task import Task
from loopwright.errors import ConfigError, RunError
from loopwright.experiment import run, take_last_weights
from loopwright.record.index import Entry, Index
from loopwright.record.read import read_config, read_result
from loopwright.record.run import Run
from loopwright.results import outcome_of
from loopwright.streams import isolated

log = logging.getLogger("loopwright")


def resume_run(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    allow_import: Iterable[str] = (),
    config_dir: Path | None = None,
    hooks: Iterable[Hook] = (),
) -> Outcome:
    """Go on with a run where it stands; a finished one's outcome is returned as it is.

    Overrides that shape the trajectory, or that send a finished run further, make a child run, which goes on from the
    newest checkpoint and has `parent` in its record. An unfinished run takes others (a data file that has moved, another
    cadence of checkpoints) in place. Raises RunError.
    """
    recorded = compose(base=read_config(path), allow_import=allow_import, config_dir=config_dir).recipe
    recipe = (
        compose(overrides, base=read_config(path), allow_import=allow_import, config_dir=config_dir).recipe
        if overrides
        else recorded
    )
    result = read_result(path)
    ended = None if result is None else result.get("status")
    unfinished = ended in (None, "interrupted", "failed")
    same_training = trajectory(recipe) == trajectory(recorded) and recipe.seed == recorded.seed
    if recipe != recorded and not (unfinished and same_training):
        return run(recipe, path=_child(path, recorded, recipe, overrides), parent=str(path.resolve()), hooks=hooks)
    if unfinished:
        return run(recipe, path=path, hooks=hooks)
    log.info("%s is finished (%s); to go on from it give overrides, for example train.epochs", path, ended)
    Run.tidy(path)
    return outcome_of(path)


def resume_fit(
    path: Path,
    recipe: Recipe,
    task: Task,
    arguments: Arguments | None,
    *,
    hooks: Iterable[Hook] = (),
    keep_initial: bool = False,
) -> Outcome:
    """Go on with a recorded run of `fit`, whatever of its arguments has changed since: what differs is said and recorded.

    A finished run goes further as a child run, where a key of its recipe that shapes the training has changed; else its
    outcome is returned. Raises RunError.
    """
    recorded = parse(read_config(path))
    if recorded.task.name != recipe.task.name:
        raise RunError(
            f"`resume` is {str(path)!r}, a run of task={recorded.task.name}; loopwright.resume goes on with it"
        )
    if arguments is None:
        raise ConfigError(f"`resume` is {str(path)!r}, and record.save=false writes no run; leave one of them out")
    result = read_result(path)
    ended = None if result is None else result.get("status")
    further: dict[str, Any] = {"task": task, "arguments": arguments, "hooks": hooks}
    if ended in (None, "interrupted", "failed"):
        return run(recipe, path=path, keep_initial=keep_initial, **further)
    if trajectory(recipe) == trajectory(recorded) and recipe.seed == recorded.seed:
        begun = read_arguments(path)
        for line in () if begun is None else arguments.differences(begun):
            log.warning("%s is finished (%s), and since then has changed: %s", path, ended, line)
        if keep_initial:
            with isolated():  # a function that builds the model may draw
                take_last_weights(task, task.build_model(), path)
        return outcome_of(path)
    built = build(recipe, resolve_device(recipe.device), task, arguments)
    child = _child(path, recorded, recipe, (), built.run_id)
    return run(recipe, path=child, parent=str(path.resolve()), **further)


def _child(path: Path, recorded: Recipe, recipe: Recipe, overrides: Sequence[str], identity: str | None = None) -> Path:
    """A new run directory that starts from the parent's newest checkpoint and its logs."""
    index = Index.read(path / "checkpoints") if (path / "checkpoints").is_dir() else None
    found = index.newest_valid() if index is not None else None
    if index is None or found is None:
        raise RunError(f"{path} has no checkpoint to go on from")
    entry, _ = found
    for key in ("max_steps", "epoch_steps", "epochs") if recipe.schedule.depends_on_total else ():
        now, before = getattr(recipe.train, key), getattr(recorded.train, key)
        if now != before:
            log.warning(
                "`schedule` is %s, which depends on the total: with train.%s=%s its rates differ from those of the parent's %s",
                recipe.schedule.name,
                key,
                "null" if now is None else now,
                "null" if before is None else before,
            )
            break
    kept = {name: value for name, value in trajectory(recipe).items() if trajectory(recorded).get(name) != value}
    log.info("a child of %s goes on from step %d with other %s", path, entry.step, ", ".join(kept) or "settings")
    identity = identity or build(recipe, resolve_device(recipe.device)).run_id
    child = Run.create(path.parent.parent, path.parent.name, identity, plain(recipe), overrides)
    try:
        begin_from(child.path, path, index, entry)
    finally:
        child.close()
    return child.path


def begin_from(child: Path, parent: Path, index: Index, entry: Entry) -> None:
    """Let a new run directory start from a checkpoint of another run: copy it, the tagged ones, and the logs."""
    folder = child / "checkpoints"
    folder.mkdir()
    index.rewind(entry)
    wanted = {entry.file, *index.tags.values()}
    for file in wanted:
        shutil.copyfile(parent / "checkpoints" / file, folder / file)
    tags = {tag: file for tag, file in index.tags.items() if tag != "gate"}
    Index(folder, [e for e in index.entries if e.file in wanted], tags, index.alone).write()
    for name in ("metrics.csv", "steps.csv", "events.jsonl", "model.pt", "loss.pt"):
        if (parent / name).is_file():
            shutil.copyfile(parent / name, child / name)
