"""Every sampler: it proposes values of the space, the same ones for the same seed, and lives with what trials come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from loopwright.config.registry import lookup, names
from loopwright.errors import ConfigError
from loopwright.searches.proposals import NoProposals, PerTrial, distributions, note_constraint
from loopwright.searches.samplers import SamplerSettings
from loopwright.searches.storage import quiet
from loopwright.searches.study import Study
from support.studies import LR, proposals, resolved

SAMPLERS = ["cmaes", "gp", "grid", "nsgaii", "random", "tpe"]
DROPOUT = {"type": "float", "low": 0.0, "high": 0.5}
STEPPED: dict[str, Any] = {
    "optim.lr": {"type": "float", "low": 0.1, "high": 0.9, "step": 0.1},
    "train.batch_size": {"type": "int", "low": 8, "high": 12},
}
MIXED: dict[str, Any] = {
    "optim.lr": LR,
    "train.batch_size": {"type": "int", "low": 8, "high": 64, "step": 8},
    "model.hidden": {"type": "categorical", "choices": [[4], [8], [8, 8]]},
}


def made(name: str, **keys: Any) -> Study:
    """A study with a sampler that models from the fourth trial on."""
    early = (
        {} if name in ("grid", "random") else {"population_size": 4} if name == "nsgaii" else {"n_startup_trials": 3}
    )
    if name == "cmaes":
        early["popsize"] = 4
    return resolved(
        sampler={"name": name, **early, **keys.pop("sampler", {})},
        **{"space": STEPPED if name == "grid" else MIXED, **keys},
    )


def start(study: Study, storage: optuna.storages.BaseStorage | None = None) -> optuna.Study:
    directions = [f"{direction}imize" for direction in study.directions]
    return optuna.create_study(
        study_name="s", storage=storage, directions=directions, sampler=PerTrial(study), load_if_exists=True
    )


def values(params: dict[str, Any], num: int = 1) -> list[float]:
    """A smooth objective."""
    lr, batch = math.log10(params["optim.lr"]), params["train.batch_size"]
    return [(lr + 2.0) ** 2 + 0.01 * batch, lr + batch][:num]


def run(found: optuna.Study, study: Study, trials: int, odd: Sequence[Any] = ()) -> None:
    """Ask and tell; the n-th trial of `odd` ends as it says instead: with a value, or a state."""
    for _ in range(trials):
        trial = found.ask(distributions(study.space))
        end = odd[trial.number] if trial.number < len(odd) else None
        if isinstance(end, TrialState):
            found.tell(trial, state=end)
        else:
            found.tell(trial, [end] if end is not None else values(trial.params, len(study.metrics)))


def test_the_samplers_are_those_tested() -> None:
    assert names("sampler", SamplerSettings) == SAMPLERS


@pytest.mark.parametrize("name", SAMPLERS)
def test_proposals_are_values_of_the_space(name: str) -> None:
    study = made(name)
    found = start(study)
    run(found, study, 8)
    for params in proposals(found):
        assert params.keys() == study.space.keys()
        assert all(
            distributions(study.space)[key]._contains(distributions(study.space)[key].to_internal_repr(value))
            for key, value in params.items()
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_seed_says_what_is_proposed_and_going_on_is_not_having_stopped(name: str) -> None:
    study, storage = made(name), optuna.storages.InMemoryStorage()
    whole, total = start(study), 8 if name == "gp" else 13
    run(whole, study, total)
    for trials in (4, 1, total - 5):
        run(start(study, storage), study, trials)
    assert proposals(start(study, storage)) == proposals(whole)
    other = made(name, sampler={"seed": 7})
    fresh = start(other)
    run(fresh, other, total)
    assert proposals(fresh) != proposals(whole)


@pytest.mark.parametrize("name", SAMPLERS)
def test_diverged_pruned_and_failed_trials_do_not_stop_it(name: str) -> None:
    study = made(name)
    found = start(study)
    run(found, study, 10, odd=(math.inf, TrialState.PRUNED, TrialState.FAIL, math.inf, None, None, None, math.inf))
    assert len(found.trials) == 10
    assert math.isfinite(found.best_value)


@pytest.mark.parametrize("name", ["gp", "grid", "nsgaii", "random", "tpe"])
def test_several_metrics(name: str) -> None:
    study = made(name, metric=["loss", "mae"])
    found = start(study)
    run(found, study, 7)
    trial = found.ask(distributions(study.space))
    found.tell(trial, [math.inf, math.inf])  # one that diverged
    run(found, study, 1)
    assert found.best_trials


@pytest.mark.parametrize(("name", "trials"), [("gp", 9), ("nsgaii", 60), ("tpe", 30)])
def test_samplers_that_know_gates_avoid_what_fails_them(name: str, trials: int) -> None:
    """The lowest values are at small rates, whose gate fails: a search that is not told goes there."""

    def passing(told: bool) -> int:
        study = made(name, recipe={"stop.gate.loss": 0.5}, space={"optim.lr": LR, "model.dropout": DROPOUT})
        found = start(study)
        passed = []
        for _ in range(trials):
            trial = found.ask(distributions(study.space))
            passed.append(trial.params["optim.lr"] > 1e-2)
            trial.set_user_attr("gate_passed", passed[-1])
            if told:
                note_constraint(trial, passed[-1])
            found.tell(trial, [trial.params["optim.lr"]])
        return sum(passed[4:])

    assert passing(told=True) > passing(told=False)


def test_a_grid_gives_every_combination_once_whatever_becomes_of_the_trials() -> None:
    space = {
        "optim.lr": {"type": "categorical", "choices": [0.1, 0.2, 0.3]},
        "train.batch_size": {"type": "int", "low": 8, "high": 9},
    }
    study = resolved(sampler="grid", space=space)
    found = start(study)
    found.enqueue_trial({"optim.lr": 0.2, "train.batch_size": 9})
    run(found, study, 7, odd=(None, TrialState.FAIL, math.inf, TrialState.PRUNED))
    asked = [(params["optim.lr"], params["train.batch_size"]) for params in proposals(found)]
    assert asked[0] == (0.2, 9)
    assert sorted(asked[1:]) == [(lr, size) for lr in (0.1, 0.2, 0.3) for size in (8, 9)]
    assert asked[1:] != sorted(asked[1:])  # in a seeded order


def test_attaching_to_a_trial_draws_nothing_and_stores_nothing() -> None:
    study = made("cmaes")
    found = start(study)
    run(found, study, 5)
    trial = found.ask(distributions(study.space))
    before = found._storage.get_trial(trial._trial_id)
    silent = optuna.load_study(study_name="s", storage=found._storage, sampler=NoProposals())
    optuna.Trial(silent, trial._trial_id)
    assert found._storage.get_trial(trial._trial_id) == before


def test_cmaes_takes_one_variant() -> None:
    with pytest.raises(ConfigError, match="use_separable_cma and with_margin; cmaes takes one"):
        made("cmaes", sampler={"use_separable_cma": True, "with_margin": True})


@pytest.mark.parametrize("variant", ["use_separable_cma", "with_margin", "lr_adapt"])
def test_options_that_optuna_calls_experimental_are_quiet(variant: str) -> None:
    study = made("cmaes", sampler={variant: True})
    found = start(study)
    run(found, study, 8)
    assert len(proposals(found)) == 8


def test_a_seed_is_part_of_every_sampler() -> None:
    for name in SAMPLERS:
        assert lookup("sampler", name).model_fields["seed"].default == 42


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    with quiet():
        yield
