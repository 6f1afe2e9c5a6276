"""`run_search`: bring a study to its number of trials, and say what was found."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.trial import TrialState

from loopwright.config.schema import Recipe
from loopwright.errors import RunError, UserError
from loopwright.record.run import writable_root
from loopwright.scalars import as_plain
from loopwright.searches.directory import StudyDirectory, study_directory
from loopwright.searches.findings import Findings, report
from loopwright.searches.progress import Watcher
from loopwright.searches.proposals import PerTrial
from loopwright.searches.resolving import resolve
from loopwright.searches.storage import address, answering, begin, quiet, rest_storage
from loopwright.searches.study import Study, StudyFile
from loopwright.searches.trials import Trials
from loopwright.sweeps.drive import drive
from loopwright.sweeps.launcher import INTERRUPTED
from loopwright.sweeps.launchers.shares import wants_gpu

log = logging.getLogger("loopwright")


@dataclass(frozen=True)
class SearchOutcome:
    """A study after a call: where it is, what it has found, and the exit code of the command.

    0 it has its trials (or its grid has ended), 1 too many failed in a row, 5 too many crashed, 75 interrupted.
    """

    directory: Path
    found: optuna.Study
    findings: Findings
    counts: Mapping[str, int]
    num_failed: int
    exit_code: int


def run_search(
    file: StudyFile,
    overrides: Sequence[str] = (),
    *,
    trials: int | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    config_dir: Path | None = None,
    allow_import: Iterable[str] = (),
    watcher: Watcher | None = None,
) -> SearchOutcome:
    """Run a study's trials on the recipe's launcher until it has as many as it is to have, and report.

    `trials` and `workers` take the place of `trials` in the file and of `launcher.workers`. The same call goes on with
    the study. Raises LoopwrightError.
    """
    if trials is not None:
        file = file.model_copy(update={"trials": as_plain(trials)})
    if workers is not None:
        overrides = (*overrides, f"launcher.workers={workers}")
    with quiet():
        study, recipe = resolve(file, overrides, config_dir=config_dir, allow_import=allow_import)
        root = writable_root(out, recipe.env.runs)
        directory = study_directory(root, _name(study))
        where = address(study, directory)
        with _opened(where):
            found = begin(study, directory, PerTrial(study))
            work, interrupted = _drive(study, recipe, found, directory, watcher or Watcher())
            code = 0
            if interrupted or work.cancelled:
                code = INTERRUPTED
            elif work.given_up:
                code = 5 if work.crashed else 1
            findings = report(found, study, directory.path)
            states = counts(found)
        if code == 0 and states.get("running"):
            log.warning(
                "trials that another search still runs: %d; if there is none any more (its directory was removed), tell them in "
                "Python: outcome.found.tell(NUMBER, state=optuna.trial.TrialState.FAIL)",
                states["running"],
            )
        return SearchOutcome(directory.path, found, findings, states, work.num_failed, code)


@contextmanager
def _opened(where: str) -> Iterator[None]:
    """A block that uses a storage; then SQLite puts its write-ahead log into the file. Raises MachineError."""
    try:
        with answering(where):
            yield
    finally:
        rest_storage(where)


def _drive(
    study: Study, recipe: Recipe, found: optuna.Study, directory: StudyDirectory, watcher: Watcher
) -> tuple[Trials, bool]:
    settings = recipe.launcher
    if settings.outlives and settings.workers is None and study.batch is None:
        name = getattr(settings, "name", "")
        raise UserError(
            f"the queue of launcher={name} has room for the whole study, which would be proposed before its first result; "
            "say how many trials run at one time: --workers N, or launcher.workers in the recipe"
        )
    there = len(found.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))
    chosen = getattr(settings, "name", "")
    log.info("%d of %d trials are there, launcher=%s: %s", there, study.trials, chosen, directory.path)
    slot = directory.slot()
    try:
        work = Trials(
            study,
            found,
            directory,
            slot,
            watcher,
            retries=settings.retries,
            workers=settings.workers,
            threads=recipe.threads,
            gpu=wants_gpu(recipe.device),
        )
        launcher = settings.build(slot.folder, re.sub(r"[^\w-]", "-", _name(study), flags=re.ASCII))
        try:
            return work, drive(work, launcher)
        finally:
            launcher.close()
    finally:
        slot.release()


def _name(study: Study) -> str:
    """The study's name. Raises RunError for one that has none."""
    if study.name is None:
        raise RunError("the study has no name; give it `name`")
    return study.name


def counts(found: optuna.Study) -> dict[str, int]:
    """How many trials are in which state, by the names that people see."""
    names = {
        TrialState.COMPLETE: "completed",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    states = [trial.state for trial in found.get_trials(deepcopy=False)]
    return {name: states.count(state) for state, name in names.items() if state in states}
