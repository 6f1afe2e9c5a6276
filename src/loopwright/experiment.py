"""Where a task, the engine and a Run meet: from a recipe to an Outcome and its record."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from loopwright.building import Built, build, plan
from loopwright.claiming import claim
from loopwright.config.identity import differing_keys, trajectory
from loopwright.config.schema import Recipe, parse
from loopwright.content.arguments import Arguments
from loopwright.content.comparison import FILE as ARGUMENTS
from loopwright.content.comparison import read_arguments
from loopwright.engine.compute import computing, resolve_device
from loopwright.engine.fit import fit
from loopwright.engine.history import History
from loopwright.engine.hooks import Hook, every
from loopwright.engine.interrupt import Interrupt
from loopwright.engine.outcome import Outcome
from loopwright.engine.plan import Plan
from loopwright.engine.recorder import MemoryRecorder
from loopwright.engine.state import load_saved, with_weights
from loopwright.engine.stop import Gate, StopRule
from loopwright.engine.task import Split, Task
from loopwright.errors import LoopwrightError, RunError
from loopwright.hooks.capture import Capture
from loopwright.hooks.figures import LiveFigures
from loopwright.hooks.timing_probe import TimingProbe
from loopwright.hooks.trackers import finish, tracking
from loopwright.hooks.views import EpochViews, has_views, views, write_arrays
from loopwright.mistakes import mistakes_explained
from loopwright.record.checkpoint import fits
from loopwright.record.files import write_atomic, write_json
from loopwright.record.index import Index
from loopwright.record.provenance import Provenance, drift, pip_freeze
from loopwright.record.read import read_config, read_json
from loopwright.record.recorder import RunRecorder
from loopwright.record.run import Run, writable_root
from loopwright.record.source import changed_files, listed, source_hashes
from loopwright.report import background
from loopwright.results import failure, result
from loopwright.streams import isolated

log = logging.getLogger("loopwright")


def run(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    hooks: Iterable[Hook] = (),
    stops: Iterable[StopRule] = (),
    task: Task | None = None,
    path: Path | None = None,
    parent: str | None = None,
    arguments: Arguments | None = None,
    keep_initial: bool = False,
) -> Outcome:
    """Train one recipe with one seed and record it.

    `resume` goes on with the newest run of the same identity below `out` (a finished one's outcome is returned as it
    is), or starts one; `path` goes on with that run. `stops` are asked after the recipe's own stop rules. `task` stands in
    for the recipe's own, and `arguments` are what it was made of (`loopwright.fit`).
    Raises LoopwrightError; a failure of the user's code is recorded as `failed` and raised again.
    """
    if not recipe.record.save:
        return _run_in_memory(recipe, hooks, stops, task)
    device = resolve_device(recipe.device)
    origin = Provenance(code=recipe.record.code)
    root = writable_root(out, recipe.env.runs)
    name = recipe.name or str(recipe.task.name).rpartition(":")[2]
    with isolated(), computing(device, recipe.threads, recipe.deterministic), Interrupt() as interrupt:
        built = build(recipe, device, task, arguments)
        wanted = plan(built, stops)
        where, finished = claim(built, root, name, resume, overrides, path)
        if finished is not None:
            if task is not None and finished.run is not None:
                take_last_weights(task, built.state.model, Path(finished.run))
            return finished
        assert where is not None
        try:
            return _train(built, wanted, where, origin, hooks, interrupt, parent, keep_initial)
        finally:
            where.close()


def take_last_weights(task: Task, model: nn.Module, run: Path) -> None:
    """Load the last weights of a finished run: a caller's modules end with them, trained now or earlier."""
    index = Index.read(run / "checkpoints")
    if index.last is not None:
        with fits(index.folder / index.last.file):
            load_saved(model, task.loss_module, index.load(index.last))


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
        ranking=wanted.ranking,
        seed=recipe.seed,
        config=wanted.recipe or {},
        lock=where.lock,
        values=partial(_values, built.task, wanted.gate),
    )
    environment = {
        "seed": recipe.seed,
        "recipe_id": built.recipe_id,
        "run_id": built.run_id,
        "parent": parent,
        "deterministic": recipe.deterministic,
        "bits_promised": recipe.deterministic and _promised_by(parent),
        "device": str(built.device),
        "data_sha256": built.task.fingerprint(),
        "initial_weights_sha256": built.initial_sha256,
        **_identity_without_code(built),
        **origin.environment(built.device),
        "source_sha256": source_hashes(),
    }
    built.streams.pin("start")  # the checkpoint of step 0 holds no trace of what the caller had drawn
    resumed = recorder.open(state)
    recorded = read_json(where.path / "environment.json") if resumed else None
    if recorded is None:
        if (where.path / "environment.json").exists():
            log.info("no checkpoint was written before it ended: it begins again at step 0")
        write_json(where.path / "environment.json", environment)
        write_atomic(where.path / "pip_freeze.txt", pip_freeze(), durable=False)
        write_atomic(where.path / "code.diff", origin.code_diff(), durable=False)
        where.write_facts(built.task.facts())
        if built.arguments is not None:
            where.write_facts({ARGUMENTS: built.arguments.record()})
    else:
        changes = drift(recorded, environment)
        if built.arguments is not None:
            changes += _changed_arguments(where.path, recorded, built)
        elif recorded.get("data_sha256", "") != environment["data_sha256"]:
            raise RunError(
                f"the data of {where.path} have changed since it was recorded (their content has another hash); put them "
                "back, or start a new run"
            )
        elif recorded.get("run_id") != environment["run_id"]:
            raise RunError(
                f"{where.path / 'config.yaml'} is not the recipe this run began with ({environment['run_id']} instead of "
                f"{recorded.get('run_id')}): it was changed or damaged; restore it, or start a new run"
            )
        changed = changed_files(recorded.get("source_sha256", {}), environment["source_sha256"])
        if built.arguments is not None and built.arguments.code_is_known(where.path):
            changed = [file for file in changed if not Path(file).is_absolute()]  # the user's is known by its content
        if changed:
            changes.append(f"code has changed since this run began, bits are no longer promised: {listed(changed)}")
        for line in changes:
            log.warning("%s", line)
        where.note_changes(changes, state.step)
        log.info("going on from step %d (epoch %d)", state.step, state.epoch + bool(state.batch))
    where.forget_result()
    versions = {key: environment[key] for key in ("python", "torch", "loopwright")}
    where.begin_session(host=environment["host"], pid=os.getpid(), versions=versions, step_from=state.step)
    if keep_initial and not resumed:
        recorder.keep_initial(state)
    trackers = tracking(recipe.trackers, where.path)
    end = "failed"
    try:
        with _machine_explained(built):
            outcome = fit(
                built.task,
                state,
                wanted,
                built.streams,
                recorder=recorder,
                hooks=(*_own_hooks(built, where.path), *trackers, *hooks),
                interrupted=interrupt,
            )
        if outcome.status != "interrupted":
            recorder.finish()
        end = outcome.status
        outcome = _with_curves(outcome, recipe)
        if set(recipe.plots.at_end()) - {"losses"} and outcome.last and outcome.status != "interrupted":
            _write_views(built, outcome, recorder.weights("best"), where.path / "evaluation")
        recorder.close()
        where.write_result(result(outcome, built))
    except BaseException as error:
        if not isinstance(error, LoopwrightError):
            where.write_result(result(failure(built, wanted, error), built))
        raise
    finally:
        recorder.close()
        where.end_session(end, state.step)
        finish(trackers, interrupt)
    families = recipe.plots.at_end()
    if outcome.status == "interrupted":
        background.leave()
    elif families and outcome.last:
        background.draw_later(where.path, families, each_epoch=recipe.plots.every_epoch)
    return outcome


def _promised_by(parent: str | None) -> bool:
    """A child can promise its bits where its parent did; a parent that is gone has said nothing else."""
    recorded = read_json(Path(parent) / "environment.json") if parent is not None else None
    return bool((recorded or {}).get("bits_promised", True))


def _identity_without_code(built: Built) -> dict[str, str]:
    """By which a run of `fit` is found under another version of Python, whose bytecode cannot be compared."""
    if built.arguments is None:
        return {}
    return {"recipe_id_without_code": built.recipe_id_of(built.arguments.used, code=False)}


def _changed_arguments(path: Path, recorded: Mapping[str, Any], built: Built) -> list[str]:
    """In what a call of `fit` differs from the one that began a run: nothing, unless the run was named by its path."""
    assert built.arguments is not None
    begun = parse(read_config(path))
    lines = differing_keys(trajectory(begun), trajectory(built.recipe))
    if begun.seed != built.recipe.seed:
        lines.append(f"seed: {begun.seed} -> {built.recipe.seed}")
    arguments = read_arguments(path)
    if arguments is not None:
        lines += built.arguments.differences(arguments)
    elif recorded.get("data_sha256") != built.arguments.former_data():
        lines.append("the data: their content has another hash")
    return [f"{line}; bits are no longer promised" for line in lines]


def _run_in_memory(recipe: Recipe, hooks: Iterable[Hook], stops: Iterable[StopRule], task: Task | None) -> Outcome:
    device = resolve_device(recipe.device)
    with isolated(), computing(device, recipe.threads, recipe.deterministic), Interrupt() as interrupt:
        built = build(recipe, device, task)
        recorder = MemoryRecorder(recipe.record.steps_every)
        with _machine_explained(built):
            outcome = fit(
                built.task,
                built.state,
                plan(built, stops),
                built.streams,
                recorder=recorder,
                hooks=(*_own_hooks(built, None), *tracking(recipe.trackers, None), *hooks),
                interrupted=interrupt,
            )
        return _with_curves(outcome, recipe)


def _own_hooks(built: Built, run: Path | None) -> list[Hook]:
    """The observers that the recipe switches on. Captures are files, so a training without a record has none."""
    probe, capture = built.recipe.hooks.timing_probe, built.recipe.hooks.capture
    hooks: list[Hook] = [TimingProbe(minutes=probe.minutes, advice=probe.advice)] if probe is not None else []
    if capture.every and run is not None:
        shown = Capture(built.task, built.streams, run / "captures", capture.split, capture.samples)
        hooks.append(every(capture.every, shown))
    plots = built.recipe.plots
    if plots.every_epoch and run is not None:
        hooks.append(EpochViews(built.task, built.streams, run / "captures"))
    if plots.while_training() and run is not None:
        hooks.append(LiveFigures(run, plots.while_training(), each_epoch=plots.every_epoch))
    return hooks


def _write_views(built: Built, outcome: Outcome, best: Mapping[str, Any] | None, folder: Path) -> None:
    """What the best weights make of a few samples, for the figures. Never fatal: a training that is done is done."""
    model, row = built.state.model, outcome.best
    if best is None or row is None or not has_views(built.task):
        return
    split: Split = next((split for split in ("test", "val") if built.task.loader(split) is not None), "train")
    step, epoch = int(row["step"] or 0), int(row["epoch"] or 0)
    try:
        with with_weights(built.state, best):
            shown = views(built.task, model, split, built.streams, step=step, epoch=epoch)
        if shown:
            folder.mkdir(exist_ok=True)
            write_arrays(folder / f"{split}_best_views.npz", shown)
    except Exception as error:
        log.warning("what some figures show could not be measured: %s: %s", type(error).__name__, error)


def _values(task: Task, gate: Gate | None, history: History, losses: list[float | None]) -> Mapping[str, Any]:
    """What a checkpoint holds beside the state: the task's own values, and whether the gate has been passed."""
    passed = {} if gate is None else {"gate_passed": gate.passes(history)}
    return {**task.checkpoint_values(history.columns(), losses), **passed}


def _with_curves(outcome: Outcome, recipe: Recipe) -> Outcome:
    """The loss's curve has a value per step: it is left out where not every step was recorded."""
    if recipe.record.steps_every == 1:
        return outcome
    return replace(outcome, curves={name: values for name, values in outcome.curves.items() if name != "train_loss"})


@contextmanager
def _machine_explained(built: Built) -> Iterator[None]:
    """Say what took the room when memory runs out, and what torch does not do."""
    advice = f"try train.accumulate={2 * built.recipe.train.accumulate} (same result, smaller parts) or a smaller batch"
    with (
        mistakes_explained(built),
        built.memory_explained(
            "while training", f"{advice}; committed checkpoints are intact, resume goes on from them"
        ),
    ):
        yield
