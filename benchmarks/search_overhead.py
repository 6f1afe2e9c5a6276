"""What a search costs beside its objective: 200 trials of 50 ms through `loopwright search`, against Optuna's own loop.

The objective is only a value; its 50 ms are added to what either side has used, so that they bring no noise. Everything
else a trial goes through is real: it is asked for, started on the inline launcher, composed, noted in its attempts file,
told. CPU time counts; wall time, with the waits for the disk, is reported. Both sides take turns.
`python -m benchmarks.search_overhead` prints the lines alone.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from benchmarks.measure import Result
from loopwright.engine.outcome import Outcome
from loopwright.searches import objective, run
from loopwright.searches.study import StudyFile, parse_study

TRIALS, SECONDS = 200, 0.05
BOUND = 1.25
SPACE = {
    "optim.lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "optim.weight_decay": {"type": "float", "low": 1e-6, "high": 1e-1, "log": True},
}
_STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "journal": lambda folder: JournalStorage(JournalFileBackend(str(folder / "journal.log"))),
    "sqlite": lambda folder: RDBStorage(f"sqlite:///{folder / 'study.db'}"),
}


def benchmark(quick: bool) -> Iterator[Result]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for kind in _STORAGES:
        yield from _compared(kind, trials=20 if quick else TRIALS, pairs=1 if quick else 5)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of CPU time and of wall time."""

    cpu: float
    wall: float

    @classmethod
    def now(cls) -> Cost:
        return cls(time.process_time(), time.perf_counter())

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.cpu - other.cpu, self.wall - other.wall)


def _compared(kind: str, trials: int, pairs: int) -> Iterator[Result]:
    _ours(kind, 3), _theirs(kind, 3)  # imports
    found = [(*_ours(kind, trials), _theirs(kind, trials)) for _ in range(pairs)]
    objective_seconds = trials * SECONDS
    ratios = [(loop.cpu + objective_seconds) / (theirs.cpu + objective_seconds) for loop, _, theirs in found]
    detail = {
        "ours_cpu_ms_per_trial": round(1e3 * statistics.median(loop.cpu for loop, _, _ in found) / trials, 1),
        "optunas_cpu_ms_per_trial": round(1e3 * statistics.median(theirs.cpu for _, _, theirs in found) / trials, 1),
        "findings_at_the_end_cpu_seconds": round(statistics.median(report.cpu for _, report, _ in found), 2),
    }
    claim = f"{trials} trials of 50 ms, storage {kind}, against Optuna's own loop"
    yield Result(claim, statistics.median(ratios), "x Optuna's loop", BOUND, ratios, detail)
    walls = [(loop.wall + objective_seconds) / (theirs.wall + objective_seconds) for loop, _, theirs in found]
    yield Result(f"{claim}: wall time", statistics.median(walls), "x Optuna's loop", None, walls)


def _value(lr: float, weight_decay: float) -> float:
    return (lr - 1e-2) ** 2 + weight_decay


def _ours(kind: str, trials: int) -> tuple[Cost, Cost]:
    """What a search costs, reading its file and starting included, and what its findings at the end cost."""
    tree = {
        "name": "overhead",
        "trials": trials,
        "storage": kind,
        "sampler": {"name": "tpe", "multivariate": False, "constant_liar": False},
        "recipe": {"experiment": "self_test", "launcher": "inline", "record.save": False},
        "space": SPACE,
    }
    reporting = Cost(0.0, 0.0)
    train, report = objective.run, run.report

    def waited(recipe: Any, **how: Any) -> Outcome:
        value = _value(recipe.optim.lr, recipe.optim.weight_decay)
        row: dict[str, float | None] = {"epoch": 1, "step": 1, "val_loss": value}
        return Outcome("completed", "", "val_loss", "min", best=row, last=row, value=value, epochs=1, steps=1)

    def timed(*given: Any) -> Any:
        nonlocal reporting
        started = Cost.now()
        found = report(*given)
        reporting = Cost.now() - started
        return found

    objective.run, run.report = waited, timed  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory() as root:
            started = Cost.now()
            outcome = run.run_search(parse_study(tree, StudyFile), out=root)
            cost = Cost.now() - started - reporting
            assert outcome.exit_code == 0 and len(outcome.found.get_trials()) == trials
        return cost, reporting
    finally:
        objective.run, run.report = train, report


def _theirs(kind: str, trials: int) -> Cost:
    """What `study.optimize` costs, creating the study included."""

    def asked(trial: optuna.Trial) -> float:
        return _value(
            trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True),
            trial.suggest_float("optim.weight_decay", 1e-6, 1e-1, log=True),
        )

    with tempfile.TemporaryDirectory() as root:
        started = Cost.now()
        storage = _STORAGES[kind](Path(root))
        study = optuna.create_study(storage=storage, sampler=optuna.samplers.TPESampler(seed=42))
        study.optimize(asked, n_trials=trials)
        return Cost.now() - started


def main() -> int:
    torch.set_num_threads(1)
    for result in benchmark(quick=False):
        print(f"{result.verdict:8} {result.claim}: {result.value:.3g} {result.values} {result.detail}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
