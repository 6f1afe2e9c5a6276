"""Pruners by name: what they are told, what they refuse, and Wilcoxon's test over whole seeds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from pydantic import TypeAdapter, ValidationError

from loopwright.config.problems import lines
from loopwright.config.registry import names
from loopwright.errors import ConfigError
from loopwright.searches.pfl import PFLPruner
from loopwright.searches.pruners import PRUNER, Extent, PrunerSettings, WilcoxonSettings
from loopwright.searches.wilcoxon import SeedsWilcoxonPruner

EPOCHS, SEEDS = 3, 6


def settings(tree: Any) -> PrunerSettings:
    found: PrunerSettings = TypeAdapter(PRUNER).validate_python(tree)
    return found


def kept(pruner: Any) -> dict[str, Any]:
    return {name.strip("_"): value for name, value in vars(pruner).items()}


def test_every_pruner_is_built_by_its_name() -> None:
    assert names("pruner", PrunerSettings) == ["hyperband", "median", "none", "pfl", "wilcoxon"]
    extent = Extent(20, 10)
    built = {name: settings(name).build(extent) for name in names("pruner", PrunerSettings)}
    assert built.pop("none") is None
    assert {name: type(pruner) for name, pruner in built.items()} == {
        "hyperband": optuna.pruners.HyperbandPruner,
        "median": optuna.pruners.MedianPruner,
        "pfl": PFLPruner,
        "wilcoxon": SeedsWilcoxonPruner,
    }
    assert settings({}) == settings("none")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (
            {"name": "median", "n_startup_trials": 7, "n_warmup_steps": 3, "interval_steps": 2, "n_min_trials": 4},
            {"n_startup_trials": 7, "n_warmup_steps": 3, "interval_steps": 2, "n_min_trials": 4},
        ),
        (
            {"name": "hyperband", "min_resource": 2, "reduction_factor": 4, "bootstrap_count": 1},
            {"min_resource": 2, "max_resource": 200, "reduction_factor": 4, "bootstrap_count": 1},
        ),
        ({"name": "hyperband", "max_resource": 50}, {"max_resource": 50}),
        (
            {"name": "pfl", "top_k": 3, "n_startup_trials": 4, "n_warmup_epochs": 5},
            {"top_k": 3, "n_startup_trials": 4, "n_warmup_epochs": 5, "epochs_per_seed": 20},
        ),
        (
            {"name": "wilcoxon", "p_threshold": 0.2, "n_startup_steps": 5},
            {"p_threshold": 0.2, "fewest": 5, "epochs_per_seed": 20},
        ),
    ],
)
def test_what_they_are_told_reaches_them(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert wanted.items() <= kept(settings(given).build(Extent(20, 10))).items()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"name": "medain"}, "'medain' is not known; use one of: hyperband, median, none, pfl, wilcoxon; did you mean"),
        ({"name": "pfl", "top": 3}, "Extra inputs"),
        ({"name": "pfl", "top_k": 0}, "greater than or equal to 1"),
        ({"name": "pfl", "n_warmup_epochs": 0}, "greater than or equal to 1"),
        ({"name": "wilcoxon", "p_threshold": 1.5}, "less than 1"),
        ({"name": "hyperband", "reduction_factor": 1}, "greater than or equal to 2"),
        ({"name": "median", "n_startup_trials": "ten"}, "valid integer"),
    ],
)
def test_arguments_are_checked(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(given)


@pytest.mark.parametrize(
    ("given", "extent", "said"),
    [
        ("pfl", Extent(20, 1, "max"), "`pruner` is pfl and the metric is maximised"),
        ({"name": "hyperband", "min_resource": 30}, Extent(20), "`pruner.min_resource` is 30; a trial has 20 epochs"),
        ("wilcoxon", Extent(20, 4), "not sure before seed 4; the recipe has 4: give `seeds` at least 5"),
        ({"name": "wilcoxon", "n_startup_steps": 6}, Extent(20, 6), "not sure before seed 6; the recipe has 6"),
    ],
)
def test_a_study_that_does_not_suit_is_refused(given: Any, extent: Extent, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings(given).build(extent)


def steps(seeds: Sequence[float], own: float = 0.0, current: Sequence[float] = ()) -> dict[int, float]:
    """Intermediate values of seeds that ended at these values, and of one that is at work."""
    values = {index * EPOCHS + epoch: own + 9.0 - epoch for index in range(len(seeds)) for epoch in (1, 2)}
    values |= {(index + 1) * EPOCHS: value for index, value in enumerate(seeds)}
    return values | {len(seeds) * EPOCHS + epoch: value for epoch, value in enumerate(current, 1)}


def study_with(best: Sequence[float], direction: str = "minimize") -> optuna.Study:
    study = optuna.create_study(direction=direction)
    study.add_trial(optuna.trial.create_trial(value=sum(best) / len(best), intermediate_values=steps(best)))
    return study


def judged(study: optuna.Study, values: dict[int, float], **given: Any) -> bool:
    running = optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, intermediate_values=values)
    return SeedsWilcoxonPruner(EPOCHS, **given).prune(study, running)


BEST = [0.3, 0.5, 0.2, 0.4, 0.6, 0.1]


def worse(count: int, by: float = 0.1) -> list[float]:
    return [value + by * (index + 1) for index, value in enumerate(BEST[:count])]


def test_wilcoxon_is_sure_after_as_many_seeds_as_the_error_says() -> None:
    study = study_with(BEST)
    found = [judged(study, steps(worse(count))) for count in range(SEEDS + 1)]
    assert found.index(True) == WilcoxonSettings().fewest_seeds == 4
    assert found == [False] * 4 + [True] * 3
    for p_threshold in (0.3, 0.06, 0.04):
        first = next(count for count in range(9) if judged(study, steps(worse(count)), p_threshold=p_threshold))
        assert first == WilcoxonSettings(p_threshold=p_threshold).fewest_seeds


def test_wilcoxon_takes_the_end_of_a_seed_and_none_of_its_epochs() -> None:
    study = study_with(BEST)
    assert judged(study, steps(worse(4), own=-100.0))  # better at every epoch but the last
    assert not judged(study, steps(BEST[:4], own=100.0))  # and the other way round
    assert not judged(study, steps(worse(3), current=[1e9, 1e9]))  # the fourth is still at work
    assert judged(study, steps(worse(4), current=[0.0]))


def test_wilcoxon_goes_on_where_it_cannot_tell() -> None:
    assert not judged(optuna.create_study(), steps(worse(5)))
    assert not judged(study_with(BEST), steps([*worse(4), float("inf")]))
    assert not judged(study_with([float("inf")] * 5), steps(worse(5)))
    better = [value - 0.1 for value in BEST]
    assert not judged(study_with(BEST), steps(better))
    assert judged(study_with(BEST, "maximize"), steps(better)) and not judged(
        study_with(BEST, "maximize"), steps(worse(6))
    )
    assert not judged(study_with(BEST), steps(worse(5)), n_startup_steps=6)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("number", range(10))
def test_wilcoxon_is_optunas_rule_on_one_value_per_seed(direction: str, number: int) -> None:
    from loopwright.streams import Streams

    draw = Streams(number).numpy("wilcoxon")
    own = draw.normal(0.5, 1.0, SEEDS).round(1).tolist()
    best = draw.normal(0.0, 1.0, SEEDS).round(1).tolist()
    plain = optuna.create_study(direction=direction)
    plain.add_trial(optuna.trial.create_trial(value=sum(best) / len(best), intermediate_values=dict(enumerate(best))))
    for count in range(1, SEEDS + 1):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "WilcoxonPruner is experimental")
            theirs = optuna.pruners.WilcoxonPruner(p_threshold=0.3)
        trial = optuna.trial.create_trial(
            state=optuna.trial.TrialState.RUNNING, intermediate_values=dict(enumerate(own[:count]))
        )
        assert judged(study_with(best, direction), steps(own[:count]), p_threshold=0.3) == theirs.prune(plain, trial)


def test_problems_of_a_pruner_are_lines_about_the_study_file() -> None:
    from loopwright.searches.study import StudyFile

    tree = {"space": {"optim.lr": {"type": "float", "low": 0.1, "high": 1.0}}, "pruner": {"name": "pfl", "topk": 3}}
    with pytest.raises(ValidationError) as caught:
        StudyFile.model_validate(tree)
    assert lines(caught.value.errors(), tree, StudyFile) == [
        "`pruner.topk` is 3: there is no such key; did you mean `pruner.top_k`?"
    ]
