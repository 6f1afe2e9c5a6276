"""Where a task, the engine and a Run meet: from a recipe to an Outcome and its record."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from loopwright.building import Built, build, plan
from loopwright.config.identity import differing_keys
from loopwright.config.schema import Recipe, plain
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.fit import Plan, fit
from loopwright.engine.hooks import Hook
from loopwright.engine.interrupt import Interrupt
from loopwright.engine.outcome import Outcome
from loopwright.engine.recorder import MemoryRecorder
from loopwright.engine.state import load_weights
from loopwright.engine.task import Task
from loopwright.errors import ConfigError, LoopwrightError, MachineError
from loopwright.hooks.timing_probe import TimingProbe
from loopwright.record.files import write_atomic, write_json
from loopwright.record.index import Index
from loopwright.record.lock import DirectoryLock
from loopwright.record.provenance import Provenance, drift, pip_freeze
from loopwright.record.read import Found, find_runs, read_config, read_json
from loopwright.record.recorder import RunRecorder
from loopwright.record.run import Run, writable_root
from loopwright.report import background
from loopwright.results import failure, outcome_of, result
from loopwright.streams import isolated

log = logging.getLogger("loopwright")


def run(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    hooks: Iterable[Hook] = (),
    task: Task | None = None,
    path: Path | None = None,
    parent: str | None = None,
    keep_initial: bool = False,
) -> Outcome:
    """Train one recipe with one seed and record it.

    `resume` goes on with the newest run of the same identity below `out` (a finished one's outcome is returned as it
    is), or starts one; `path` goes on with that run. `task` stands in for the recipe's own (`loopwright.fit`).
    Raises LoopwrightError; a failure of the user's code is recorded as `failed` and raised again.
    """
    if not recipe.record.save:
        return _run_in_memory(recipe, hooks, task)
    device = resolve_device(recipe.device)
    origin = Provenance(code=recipe.record.code)
    root = writable_root(out)
    name = recipe.name or str(recipe.task.name).rpartition(":")[2]
    with isolated(), computing(device, recipe.threads, recipe.deterministic), Interrupt() as interrupt:
        built = build(recipe, device, task)
        wanted = plan(built)
        where, finished = _claim(built, root, name, resume, overrides, path)
        if finished is not None:
            if task is not None and finished.run is not None:
                index = Index.read(Path(finished.run) / "checkpoints")
                if index.last is not None:  # the caller's module ends with the last weights, trained now or earlier
                    load_weights(built.state.model, index.load(index.last)["model_state_dict"])
            return finished
        assert where is not None
        try:
            return _train(built, wanted, where, origin, hooks, interrupt, parent, keep_initial)
        finally:
            where.close()


def _train(
    built: Built,
    wanted: Plan,
    where: Run,
    origin: Provenance,
    hooks: Iterable[Hook],
    interrupt: Interrupt,
    parent: str | None,
    keep_initial: bool,
) -> Outcome:
    recipe, state = built.recipe, built.state
    recorder = RunRecorder(
        where.path,
        recipe.record,
        monitor=wanted.monitor,
        mode=wanted.mode,
        seed=recipe.seed,
        config=wanted.recipe or {},
        lock=where.lock,
    )
    environment = {
        "seed": recipe.seed,
        "recipe_id": built.recipe_id,
        "run_id": built.run_id,
        "parent": parent,
        "deterministic": recipe.deterministic,
        "bits_promised": recipe.deterministic,
        "device": str(built.device),
        "data_sha256": built.task.fingerprint(),
        "initial_weights_sha256": built.initial_sha256,
        **origin.environment(built.device),
    }
    built.streams.pin("start")  # the checkpoint of step 0 holds no trace of what the caller had drawn
    resumed = recorder.open(state)
    recorded = read_json(where.path / "environment.json") if resumed else None
    if recorded is None:
        write_json(where.path / "environment.json", environment)
        write_atomic(where.path / "pip_freeze.txt", pip_freeze(), durable=False)
        write_atomic(where.path / "code.diff", origin.code_diff(), durable=False)
        where.write_facts(built.task.facts())
    else:
        for line in drift(recorded, environment):
            log.warning("%s", line)
        log.info("going on from step %d (epoch %d)", state.step, state.epoch + bool(state.batch))
    where.forget_result()
    versions = {key: environment[key] for key in ("python", "torch", "loopwright")}
    where.begin_session(host=environment["host"], pid=os.getpid(), versions=versions, step_from=state.step)
    if keep_initial and not resumed:
        recorder.keep_initial(state)
    end = "failed"
    try:
        with _machine_explained(built):
            outcome = fit(
                built.task,
                state,
                wanted,
                built.streams,
                recorder=recorder,
                hooks=(*_own_hooks(recipe), *hooks),
                interrupted=interrupt,
            )
        if outcome.status != "interrupted":
            recorder.finish()
        end = outcome.status
        outcome = _with_curves(outcome, recipe)
        recorder.close()
        where.write_result(result(outcome, built))
    except BaseException as error:
        if not isinstance(error, LoopwrightError):
            where.write_result(result(failure(built, wanted, error), built))
        raise
    finally:
        recorder.close()
        where.end_session(end, state.step)
    if recipe.plots != "none" and outcome.epochs and outcome.status != "interrupted":
        background.draw_later(where.path)
    return outcome


def _run_in_memory(recipe: Recipe, hooks: Iterable[Hook], task: Task | None) -> Outcome:
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic), Interrupt() as interrupt:
        built = build(recipe, device, task)
        recorder = MemoryRecorder(recipe.record.steps_every)
        with _machine_explained(built):
            outcome = fit(
                built.task,
                built.state,
                plan(built),
                built.streams,
                recorder=recorder,
                hooks=(*_own_hooks(recipe), *hooks),
                interrupted=interrupt,
            )
        return _with_curves(outcome, recipe)


def _claim(
    built: Built, root: Path, name: str, resume: bool, overrides: Sequence[str], path: Path | None
) -> tuple[Run | None, Outcome | None]:
    """The run to work on, locked; or the outcome of one that is finished already."""
    if path is not None:
        return Run.open(path), None
    config = plain(built.recipe)
    if not resume:
        return Run.create(root, name, built.run_id, config, overrides), None
    (root / name).mkdir(parents=True, exist_ok=True)
    # Two starts at one instant: the second waits outside until the first has claimed a directory, then finds it taken.
    claim = DirectoryLock(root / name / f".lock-{built.run_id}").acquire(wait_seconds=30.0)
    try:
        same_name = find_runs(root, name)
        mine = [found for found in same_name if found.identity == built.run_id and not _is_child(found.path)]
        if mine:
            newest = mine[-1]
            ended = newest.result
            if ended is not None and ended.get("status") not in ("interrupted", "failed"):
                log.info("already finished (%s): nothing is trained again; --new starts afresh", ended.get("status"))
                return None, outcome_of(newest.path)
            return Run.open(newest.path), None
        if same_name:
            _say_what_differs(same_name[-1], config, built)
        return Run.create(root, name, built.run_id, config, overrides), None
    finally:
        claim.release()


def _is_child(path: Path) -> bool:
    """A child went another way before its recipe applied, so it is not the training that its identity names."""
    return (read_json(path / "environment.json") or {}).get("parent") is not None


def _say_what_differs(newest: Found, config: Mapping[str, Any], built: Built) -> None:
    lines = differing_keys(read_config(newest.path), config)
    recorded = read_json(newest.path / "environment.json") or {}
    if recorded.get("data_sha256", "") != built.task.fingerprint():
        lines.append("the data (their content has another hash)")
    log.warning(
        "no run of this recipe to resume, so a new one starts; the newest of the same name, %s, differs in: %s",
        newest.path.name,
        "; ".join(lines) or "nothing that is recorded",
    )


def _own_hooks(recipe: Recipe) -> list[Hook]:
    probe = recipe.hooks.timing_probe
    return [TimingProbe(minutes=probe.minutes, advice=probe.advice)] if probe is not None else []


def _with_curves(outcome: Outcome, recipe: Recipe) -> Outcome:
    """The training loss per step where every step was recorded, else per epoch."""
    return outcome if recipe.record.steps_every == 1 else replace(outcome, curves=_per_row(outcome))


def _per_row(outcome: Outcome) -> dict[str, list[float | None]]:
    return {name: values for name, values in outcome.curves.items() if name != "train_loss"}


@contextmanager
def _machine_explained(built: Built) -> Iterator[None]:
    """Say what took the room when memory runs out, and which operation has no deterministic form."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error)
        if "does not have a deterministic implementation" in text:
            operation = text.split(" does not have")[0]
            raise ConfigError(
                f"`deterministic` is true, and {operation} has no deterministic form; use another operation, or "
                "--no-deterministic (deterministic=false), which promises no bits"
            ) from error
        if (
            isinstance(error, RuntimeError)
            and not isinstance(error, torch.OutOfMemoryError)
            and "allocate memory" not in text
        ):
            raise
        size = sum(p.numel() for p in built.state.model.parameters())
        batch = built.recipe.train.batch_size
        raise MachineError(
            f"out of memory with train.batch_size={batch} and a model of {size:,} parameters on {built.device}; "
            f"try train.accumulate={2 * built.recipe.train.accumulate} (same result, smaller parts) or a smaller batch"
        ) from error
