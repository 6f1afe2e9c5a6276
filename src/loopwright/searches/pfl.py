"""PFL: stop a trial whose predicted final loss is worse than that of every good trial before it.

Losses of trainings that go well fall about exponentially, so the line through their logarithms says where they end. All
of it is derived from the storage: a study that goes on prunes as one that was never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from heapq import nsmallest

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from loopwright.errors import ConfigError

FEWEST = 10  # losses that a line is drawn through


def predicted_final_loss(losses: Sequence[float], target_epoch: float, epochs: Sequence[float] | None = None) -> float:
    """-log10 of the loss predicted at `target_epoch`: higher is better.

    The prediction is exp of the least-squares line through (t, ln loss_t), where t are the `epochs` of the losses
    (default 1, 2, ...). With fewer than 10 losses, or where the prediction is no positive finite number, the last loss
    takes its place; fewer than 2, or a last loss that is not finite, give -inf. A last loss of 0 or less gives inf.

    >>> round(predicted_final_loss([10 ** (-0.1 * t) for t in range(1, 11)], 50), 9)
    5.0
    """
    times = range(1, len(losses) + 1) if epochs is None else epochs
    if len(losses) < 2 or not math.isfinite(losses[-1]):
        return -math.inf
    if len(losses) >= FEWEST and all(0 < loss < math.inf for loss in losses):
        logs = [math.log(loss) for loss in losses]
        middle, level = math.fsum(times) / len(logs), math.fsum(logs) / len(logs)
        spread = math.fsum((t - middle) ** 2 for t in times)
        slope = math.fsum((t - middle) * (log - level) for t, log in zip(times, logs, strict=True)) / spread
        line = level + slope * (target_epoch - middle)
        if _positive_and_finite(line):
            return -line / math.log(10)
    return -math.log10(losses[-1]) if losses[-1] > 0 else math.inf


def _positive_and_finite(logarithm: float) -> bool:
    try:
        return 0 < math.exp(logarithm) < math.inf
    except OverflowError:
        return False


class PFLPruner(optuna.pruners.BasePruner):
    """Prunes a trial whose PFL is below the smallest of a pool: the `top_k` completed trials with the smallest losses.

    A trial's PFL is the mean over the seeds it has begun, each predicted at `epochs_per_seed`. Nothing is pruned before
    `n_startup_trials` have completed, nor in the first `n_warmup_epochs` of a seed; a loss that is not finite prunes
    always. Pruned and diverged trials are in no pool. Intermediate values stand at the step
    seed_index * epochs_per_seed + epoch, epochs counted from 1.
    """

    def __init__(
        self, epochs_per_seed: int, top_k: int = 10, n_startup_trials: int = 10, n_warmup_epochs: int = 10
    ) -> None:
        self._epochs_per_seed = epochs_per_seed
        self._top_k = top_k
        self._n_startup_trials = n_startup_trials
        self._n_warmup_epochs = n_warmup_epochs
        self._known: dict[int, float] = {}  # PFL of trials that have ended, by their id: nothing changes them any more

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end at its last reported value. Raises ConfigError for a study that maximises."""
        if study.direction != StudyDirection.MINIMIZE:
            raise ConfigError(MAXIMISED)
        values = trial.intermediate_values
        if not all(map(math.isfinite, values.values())):
            return True
        curves = by_seed(values, self._epochs_per_seed)
        if not curves:
            return False
        epochs, _ = curves[-1]
        if len(epochs) < 2 or epochs[-1] <= self._n_warmup_epochs:
            return False
        completed = [
            other
            for other in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if other.value is not None and math.isfinite(other.value) and other.intermediate_values
        ]
        if len(completed) < max(1, self._n_startup_trials):
            return False
        pool = nsmallest(self._top_k, completed, key=lambda other: (other.value, other.number))
        return self._mean(curves) < min(map(self._pfl, pool))

    def _pfl(self, trial: FrozenTrial) -> float:
        if trial._trial_id not in self._known:
            self._known[trial._trial_id] = self._mean(by_seed(trial.intermediate_values, self._epochs_per_seed))
        return self._known[trial._trial_id]

    def _mean(self, curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> float:
        found = [predicted_final_loss(losses, self._epochs_per_seed, epochs) for epochs, losses in curves]
        return sum(found) / len(found)


def by_seed(values: Mapping[int, float], epochs_per_seed: int) -> list[tuple[list[int], list[float]]]:
    """Epochs and losses of each seed, in the order they were trained, from a trial's intermediate values.

    >>> by_seed({1: 0.5, 2: 0.25, 3: 0.75}, 2)
    [([1, 2], [0.5, 0.25]), ([1], [0.75])]
    """
    curves: dict[int, tuple[list[int], list[float]]] = {}
    for step in sorted(values):
        seed, before = divmod(step - 1, epochs_per_seed)
        epochs, losses = curves.setdefault(seed, ([], []))
        epochs.append(before + 1)
        losses.append(values[step])
    return list(curves.values())


MAXIMISED = (
    "`pruner` is pfl and the metric is maximised: PFL predicts losses that fall; search for a loss (`metric: loss`), "
    "or use the pruner median, hyperband or none"
)
