"""What a pruner is shown of a study, and that it says the same after a kill."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution

from loopwright.engine.history import History
from loopwright.searches.judging import Judge
from loopwright.searches.study import Study
from support.studies import LR, resolved

HALVING = {"name": "hyperband", "min_resource": 1, "max_resource": 1, "reduction_factor": 2}


def begun(study: Study) -> optuna.Study:
    """A study in memory of which trial 0 runs, has reported 0.1 after its first epoch, and has been let go on."""
    pruner = study.pruner.build(study.extent)
    found = optuna.create_study(study_name="tiny", pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    _judge(study, found, 0.1)
    return found


def _judge(study: Study, found: optuna.Study, loss: float) -> tuple[bool, int]:
    """What is said of a new trial with this loss after its first epoch, and its id."""
    trial = found.ask({"optim.lr": FloatDistribution(0, 1)})
    return _again(study, found, trial._trial_id, loss), trial._trial_id


def _again(study: Study, found: optuna.Study, trial_id: int, loss: float) -> bool:
    history = History()
    history.append({"epoch": 1, "val_loss": loss})
    return Judge(study, found, trial_id, 0)(history)


def study_of(**keys: Any) -> Study:
    return resolved(pruner=dict(HALVING), space={"optim.lr": LR}, **keys)


@pytest.mark.parametrize(("batch", "pruned"), [(None, True), (4, False)])
def test_with_batch_those_that_run_are_not_seen(batch: int | None, pruned: bool) -> None:
    study = study_of(batch=batch)
    found = begun(study)
    assert _judge(study, found, 5.0)[0] is pruned
    found.tell(0, 0.1)
    assert _judge(study, found, 5.0)[0] is True  # the first has been told


def test_a_pruned_trial_is_pruned_again_after_a_kill() -> None:
    """Successive halving counts a rung when it judges; judged twice, the trial would stand on the rung above."""
    study = study_of()
    found = begun(study)
    pruned, trial_id = _judge(study, found, 5.0)
    assert pruned and "completed_rung_0" in found.trials[trial_id].system_attrs
    assert _again(study, found, trial_id, 5.0)
    found._storage.set_trial_intermediate_value(0, 1, 0.1)
    assert not _again(study, found, 0, 0.1)  # nor is one that went on pruned
