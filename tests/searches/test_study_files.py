"""What a study file may say: every problem at once, each with the key, the value and the fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loopwright.errors import ConfigError
from loopwright.searches.resolving import Recipes, resolve
from loopwright.searches.study import Study, parse_study, read_study
from support.studies import LR, RECIPE, SPACE, resolved, study_file, tree


def problems(**keys: Any) -> list[str]:
    """What is wrong with a study."""
    with pytest.raises(ConfigError) as caught:
        resolve(study_file(**keys))
    return list(caught.value.problems)


def test_every_problem_is_said_at_once() -> None:
    said = problems(
        trials=0,
        sampler={"name": "tpee"},
        pruner={"name": "median", "n_startup": 3},
        batchs=4,
        space={"optim.lr": {"type": "float", "low": 1.0, "high": 0.1}},
    )
    assert "`trials` is 0; it should be greater than or equal to 1" in said
    assert any(line.startswith("`sampler`: 'tpee' is not known") and "did you mean 'tpe'" in line for line in said)
    assert any(line.startswith("`pruner.n_startup` is 3: there is no such key") for line in said)
    assert any(line.startswith("`batchs` is 4: there is no such key; did you mean `batch`") for line in said)
    assert "`space.optim.lr`: `low` 1 is above `high` 0.1" in said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"type": "float", "low": 0.1}, "give `low` and `high`"),
        ({"type": "int", "low": 1, "high": 2.5}, "`low`, `high` and `step` of an int are whole numbers"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "`log` needs a `low` above 0; it is 0"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "`log` and `step` exclude each other"),
        ({"type": "float", "low": 0.1, "high": 1.0, "step": 1e-300}, "`step` 1e-300 divides the range into more than"),
        ({"type": "int", "low": 1, "high": 10**30}, "`low` and `high` of an int are below 9223372036854775808"),
        ({"type": "float", "low": 0.1, "high": 1.0, "stepp": 1}, "did you mean `space.optim.lr.step`?"),
        ({"type": "categorical", "choices": []}, "give `choices`, a list of values"),
        ({"type": "categorical", "choices": [[1, 2], [1, 2]]}, "a choice is in it twice"),
        ({"type": "categorical", "choices": [{"a": 1}]}, "a choice is a number, text, true, false, null or a list"),
        ({"type": "categorical", "choices": [1, 2], "low": 1}, "a categorical key has `choices` and no `low`"),
        ({"type": "int", "choices": [1, 2]}, "`choices` belong to type: categorical, not int"),
    ],
)
def test_an_entry_of_the_space_makes_sense(entry: dict[str, Any], said: str) -> None:
    assert any(said in line and "space.optim.lr" in line for line in problems(space={"optim.lr": entry}))


def test_a_key_is_searched_or_set_but_not_both() -> None:
    assert problems(recipe={"optim.lr": 0.1}) == [
        "`recipe` sets 'optim.lr' to 0.1, and `space` searches 'optim.lr'; leave one of them out"
    ]
    with pytest.raises(ConfigError, match=r"`optim.lr=0.1` sets what `space` searches"):
        resolve(study_file(), ["optim.lr=0.1"])


def test_a_key_is_searched_once() -> None:
    choices = {"type": "categorical", "choices": ["mse", "l1"]}
    for keys in (("task/loss", "task.loss"), ("optim", "optim.name")):
        assert problems(space=dict.fromkeys(keys, choices)) == [
            "`space`: a key is in it twice (a/b, a.b and a.b.name are one)"
        ]


def test_what_is_wrong_whatever_is_searched_is_said_without_it() -> None:
    assert problems(recipe={"train.batch_sizes": 3}) == [
        "`train.batch_sizes` is 3: there is no such key; did you mean `train.batch_size`?"
    ]
    assert problems(recipe={"train.epochs": 0}) == ["`train.epochs` is 0; a trial that trains no epoch has no value"]
    assert problems(space={"train.epochs": {"type": "int", "low": 0, "high": 3}}) == [
        "`train.epochs` is 0; a trial that trains no epoch has no value"
    ]
    assert problems(direction="mxa") == [
        "`direction` is 'mxa'; it should be 'min' or 'max' or a list, for example [mxa]"
    ]
    for storage in ("", "sqllite", "journal:///somewhere"):
        assert problems(storage=storage) == [
            f"`storage` is {storage!r}; use journal, sqlite, or a URL like postgresql://user@host/database"
        ]


@pytest.mark.parametrize("key", ["seed", "seeds", "experiment", "record.keep_last", "launcher", "name"])
def test_what_is_no_hyperparameter_is_not_searched(key: str) -> None:
    assert any(f"`space` searches {key!r}" in line for line in problems(space={key: {**LR, "low": 1, "high": 3}}))


def test_a_key_that_changes_nothing_is_refused() -> None:
    space = {**SPACE, "stop.min_delta": {"type": "float", "low": 0.1, "high": 0.1}}
    assert resolved(space=space).space.keys() == space.keys()  # one value is no search, and no mistake
    budget = {"stop.budget": {"type": "categorical", "choices": ["1 epochs", "2 epochs"]}}
    assert problems(space=budget) == [
        "`space` searches 'stop.budget', which does not change the training here; leave it out"
    ]


def test_both_ends_of_each_entry_are_tried_before_anything_starts() -> None:
    said = problems(
        space={"optim.lr": {"type": "float", "low": 0.1, "high": 1.0}, "model.dropout": {**LR, "high": 1.5}}
    )
    assert said == ["`model.dropout` is 1.5; it should be less than 1"]
    said = problems(space={"model.activation": {"type": "categorical", "choices": ["gelu", "gelo"]}})
    assert len(said) == 1 and "'gelo'" in said[0]
    assert problems(space={"optim.lrr": LR}) == [
        "`optim.lrr` is 0.0001: there is no such key; did you mean `optim.lr`?",
    ]


def test_metrics_are_those_of_the_task() -> None:
    assert any(
        line.startswith("`metric` is 'los'; the task measures: val_loss") and "did you mean 'val_loss'" in line
        for line in problems(metric="los")
    )
    assert any(
        "give one for each of the 2 metrics" in line for line in problems(metric=["loss", "mae"], direction=["min"])
    )
    assert problems(metric=["loss", "val_loss"], sampler="nsgaii") == [
        "`metric` is ['loss', 'val_loss']; a metric is in it twice"
    ]
    several = resolved(metric=["loss", "r2"], sampler="nsgaii")
    assert (several.metrics, several.directions) == (("val_loss", "val_r2"), ("min", "max"))
    one = resolved(direction="max")
    assert (one.metrics, one.directions) == (("val_loss",), ("max",))


def test_several_metrics_do_not_prune() -> None:
    said = problems(metric=["loss", "mae"], pruner="median", sampler="nsgaii")
    assert said == [
        "`pruner` is 'median'; with several metrics no trial can be said to be behind, so use none, or search for one metric"
    ]
    assert any(
        "`sampler` is 'cmaes', which takes one metric" in line
        for line in problems(metric=["loss", "mae"], sampler="cmaes")
    )


def test_a_grid_needs_steps() -> None:
    said = problems(sampler="grid")
    assert "`sampler` is 'grid' and `space.optim.lr` is continuous; give it a `step`, or make it categorical" in said
    huge = {"type": "int", "low": 1, "high": 2000}
    assert any(
        "4,000,000 combinations" in line for line in problems(sampler="grid", space={"model.width": huge, "x.y": huge})
    )


def test_cmaes_needs_a_number() -> None:
    space = {"model.activation": SPACE["model.activation"]}
    assert any("int and float keys only" in line for line in problems(sampler="cmaes", space=space))


def test_a_storage_is_a_file_or_a_url() -> None:
    assert any(line.startswith("`storage` is 'sqlit'; use journal, sqlite") for line in problems(storage="sqlit"))


def test_a_file_names_its_study_and_reads_numbers_as_recipes_do(tmp_path: Path) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(
        "recipe: {experiment: self_test, model: {hidden: [4]}}\nspace:\n  optim.lr: {type: float, low: 1e-4, high: 1}\n"
    )
    file = read_study(path)
    assert file.name == "rates"
    assert file.recipe == {"experiment": "self_test", "model.hidden": (4,)}
    assert file.space["optim.lr"].bounds == (1e-4, 1)
    with pytest.raises(ConfigError, match="there is no such file"):
        read_study(tmp_path / "rate.yaml")


def test_a_study_reads_back_from_json() -> None:
    study = resolved(pruner={"name": "median", "n_warmup_steps": 3}, recipe={"seeds": [1, 2], "stop.gate.loss": 0.5})
    again = parse_study(json.loads(json.dumps(study.model_dump(mode="json"))), Study)
    assert again == study
    assert (again.seeds, again.gated, again.epochs_per_seed) == ((1, 2), True, 2)


def test_a_trial_is_composed_like_any_recipe() -> None:
    study = resolved(
        space={
            "model.hidden": {"type": "categorical", "choices": [[4], [8, 8]]},
            "optim": {"type": "categorical", "choices": ["adam", "sgd"]},
        }
    )
    recipe, overrides = Recipes.of(study).trial({"model.hidden": "[8,8]", "optim": "sgd"})
    assert recipe.model.hidden == (8, 8)
    assert recipe.optim.name == "sgd"
    assert recipe.plots.name == "none"
    assert overrides[-2:] == ("model.hidden=[8,8]", "optim=sgd")
    assert len(overrides) == len(RECIPE) + 1


def test_the_command_line_lies_over_the_recipe() -> None:
    study = resolve(study_file(), ["train.epochs=7", "task.data.rows=50"])[0]
    recipe, overrides = Recipes.of(study).trial({"optim.lr": 1e-3, "model.dropout": 0.0, "model.activation": "relu"})
    assert (recipe.train.epochs, recipe.task.data.rows) == (7, 50)
    assert "train.epochs=2" not in overrides
    assert study.epochs_per_seed == 7


def test_what_is_no_mapping_is_no_study() -> None:
    with pytest.raises(ConfigError, match="`space` is missing"):
        parse_study({}, Study)
    assert tree()["name"] == "tiny"
