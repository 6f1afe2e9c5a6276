"""Wilcoxon's signed-rank test between the seeds of a trial and those of the best trial.

Optuna's pruner of that name pairs intermediate values by their step and takes each pair for an independent instance.
Epochs of one training are anything but independent; its seeds are, so here a seed's last value is the instance.
"""

from __future__ import annotations

import math

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from loopwright.searches.pfl import by_seed


class SeedsWilcoxonPruner(optuna.pruners.BasePruner):
    """Prunes a trial whose finished seeds are worse than the best trial's with p < `p_threshold` (one-sided).

    The rule is that of `optuna.pruners.WilcoxonPruner` (zeros split, and never where the trial's mean is the better
    one), on one value per seed. Intermediate values stand at the step seed_index * epochs_per_seed + epoch.
    """

    def __init__(self, epochs_per_seed: int, p_threshold: float = 0.1, n_startup_steps: int = 2) -> None:
        self._epochs_per_seed = epochs_per_seed
        self._p_threshold = p_threshold
        self._fewest = max(2, n_startup_steps)

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        """Whether the trial is to end here."""
        values = self._finished(trial)
        if len(values) < self._fewest or not all(map(math.isfinite, values)):
            return False
        try:
            best = self._finished(study.best_trial)
        except ValueError:  # no trial has completed
            return False
        pairs = list(zip(values, best, strict=False))
        if len(pairs) < self._fewest or not all(map(math.isfinite, best)):
            return False
        from scipy.stats import wilcoxon

        worse = 1.0 if study.direction == StudyDirection.MINIMIZE else -1.0
        differences = [worse * (own - other) for own, other in pairs]
        lead = worse * (math.fsum(values) / len(values) - math.fsum(best) / len(best))
        p_value = float(wilcoxon(differences, alternative="greater", zero_method="zsplit").pvalue)
        return p_value < self._p_threshold and lead >= 0

    def _finished(self, trial: FrozenTrial) -> list[float]:
        """The last value of every seed but the one at work."""
        curves = by_seed(trial.intermediate_values, self._epochs_per_seed)
        at_work = bool(curves) and not trial.state.is_finished() and curves[-1][0][-1] < self._epochs_per_seed
        return [losses[-1] for _, losses in (curves[:-1] if at_work else curves)]
