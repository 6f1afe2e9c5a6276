"""What pruning saves a search and what it costs it: epochs trained and best value of studies of `regression_wave`.

Studies of 30 trials of up to 50 epochs, each with a seed of its own; every pruner gets the same seeds, so that the first
trials of its studies are those of the studies without pruning. Epochs are counted, not timed: the numbers do not depend
on the load of the machine. `python -m benchmarks.pruning [STUDIES]` prints the table alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import torch
from scipy.stats import bootstrap

from benchmarks.measure import Result
from loopwright.config.compose import compose
from loopwright.engine.history import History
from loopwright.engine.stop import Pruned
from loopwright.experiment import run
from loopwright.searches.pruners import Extent, HyperbandSettings, MedianSettings, NoPruner, PFLSettings, PrunerSettings
from loopwright.streams import Streams

TRIALS, EPOCHS = 30, 50
RECIPE = (
    "experiment=regression_wave",
    "task.data.rows=2000",
    "train.batch_size=128",
    f"train.epochs={EPOCHS}",
    "record.save=false",
    "plots=none",
)
PRUNERS: Mapping[str, PrunerSettings] = {
    "none": NoPruner(),
    "median": MedianSettings(n_startup_trials=5, n_warmup_steps=10),
    "hyperband": HyperbandSettings(min_resource=5),
    "pfl": PFLSettings(top_k=5, n_startup_trials=5, n_warmup_epochs=10),
}
_HIDDEN = ("[16,16]", "[32,32,32]", "[64,64,64,64]")


@dataclass(frozen=True)
class Study:
    """What one study used and found."""

    epochs: int
    best: float
    pruned: int


def search(pruner: PrunerSettings, seed: int) -> Study:
    """One study: TPE with this seed, every training with it too."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    built = pruner.build(Extent(EPOCHS)) or optuna.pruners.NopPruner()
    # Hyperband deals trials to its brackets by the study's name.
    study = optuna.create_study(
        study_name=f"pruning-{seed}", sampler=optuna.samplers.TPESampler(seed=seed), pruner=built
    )
    used = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal used
        overrides = (
            f"optim.lr={trial.suggest_float('optim.lr', 1e-4, 1e-1, log=True)!r}",
            f"optim.weight_decay={trial.suggest_float('optim.weight_decay', 1e-6, 1e-1, log=True)!r}",
            f"model.hidden={trial.suggest_categorical('model.hidden', _HIDDEN)}",
            f"seed={seed}",
        )

        def judge(history: History) -> bool:
            row = history.rows[-1]
            trial.report(row["val_loss"], int(row["epoch"]))  # type: ignore[arg-type]
            return trial.should_prune()

        outcome = run(compose([*RECIPE, *overrides]).recipe, stops=[Pruned(judge)])
        used += outcome.epochs
        if outcome.status == "pruned":
            raise optuna.TrialPruned
        assert outcome.value is not None
        return outcome.value

    study.optimize(objective, n_trials=TRIALS)
    states = [trial.state for trial in study.trials]
    return Study(used, study.best_value, states.count(optuna.trial.TrialState.PRUNED))


def benchmark(quick: bool) -> Iterator[Result]:
    yield from results(compare(2 if quick else 10))


def compare(num_studies: int) -> dict[str, list[Study]]:
    """The studies of every pruner, seeds 0 to `num_studies` - 1."""
    return {name: [search(pruner, seed) for seed in range(num_studies)] for name, pruner in PRUNERS.items()}


def results(found: Mapping[str, list[Study]]) -> Iterator[Result]:
    """Share of the epochs, and ratio of the best values, both against the studies of the same seeds without pruning.

    A ratio is the mean over the studies, of best values the geometric one, with a 95 % BCa bootstrap interval.
    """
    plain = found["none"]
    for name, studies in found.items():
        epochs = [study.epochs for study in studies]
        best = [study.best for study in studies]
        facts = {
            "epochs": _said(np.array(epochs, dtype=float)),
            "best_value": _said(np.array(best)),
            "pruned_trials": float(np.mean([study.pruned for study in studies])),
        }
        if name == "none":
            yield Result("epochs of a study without pruning", float(np.mean(epochs)), "epochs", None, [*epochs], facts)
            continue
        share = np.array([study.epochs / other.epochs for study, other in zip(studies, plain, strict=True)])
        logs = np.log([study.best / other.best for study, other in zip(studies, plain, strict=True)])
        low, high = _interval(logs)
        bound = 0.85 if name == "pfl" else None
        yield Result(f"{name}: share of the epochs", float(share.mean()), "x no pruning", bound, share.tolist(), facts)
        # A loss is claimed only where the whole interval lies above 1: within noise the best value is the same.
        detail = {"interval": f"{np.exp(low):.3f} to {np.exp(high):.3f}", "lower_end_may_be": 1}
        yield Result(
            f"{name}: best value against no pruning (lower end of the interval)",
            float(np.exp(low)),
            "x no pruning",
            1.0 if name == "pfl" else None,
            np.exp(logs).tolist(),
            detail | {"geometric_mean": round(float(np.exp(logs.mean())), 3)},
        )


def _interval(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """A 95 % BCa bootstrap interval of the mean; the value itself where all are alike."""
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap((values,), np.mean, rng=Streams(0).numpy("bootstrap")).confidence_interval
    return float(found.low), float(found.high)


def _said(values: np.ndarray[Any, Any]) -> str:
    low, high = _interval(values)
    return f"{values.mean():.4g} ({low:.4g} to {high:.4g})"


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    found = compare(int(arguments[0]) if arguments else 10)
    for name, studies in found.items():
        epochs, best = (np.array([getattr(study, key) for study in studies], dtype=float) for key in ("epochs", "best"))
        pruned = np.mean([study.pruned for study in studies])
        print(f"| {name} | {_said(epochs)} | {_said(best)} | {pruned:.1f} of {TRIALS} |")
    for result in results(found):
        print(f"{result.verdict:8} {result.claim}: {result.value:.3g} {result.unit} {result.detail}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
