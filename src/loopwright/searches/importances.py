"""How much each searched key matters: fANOVA (Hutter and others, 2014), as Optuna computes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import FanovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from loopwright.streams import Streams

FEWEST = 6  # completed trials; of fewer a forest says nothing
MOST = 256  # the forest's cost grows with their square: 256 take 2 s, 1000 take 25


def importances(
    trials: Sequence[FrozenTrial], space: Mapping[str, BaseDistribution], seed: int, metric: int = 0
) -> dict[str, float] | None:
    """Shares of the variance of a metric, by key, the largest first; together 1, or 0 where nothing varies.

    `trials` have a finite value of the metric each. Of more than 256 as many are drawn, by `seed`. None with fewer than 6.
    """
    if len(trials) < FEWEST:
        return None
    if len(trials) > MOST:
        drawn = Streams(seed).numpy("importances").choice(len(trials), MOST, replace=False)
        trials = [trials[index] for index in sorted(drawn.tolist())]
    values = [trial.values[metric] for trial in trials]
    if min(values) == max(values):
        return dict.fromkeys(space, 0.0)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.add_trials(
        create_trial(params={key: trial.params[key] for key in space}, distributions=dict(space), value=value)
        for trial, value in zip(trials, values, strict=True)
    )
    evaluator = FanovaImportanceEvaluator(seed=Streams(seed).seed("importances") % 2**32)
    found = {
        key: float(share) for key, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }
    shares = {key: share if math.isfinite(share) else 0.0 for key, share in found.items()}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
