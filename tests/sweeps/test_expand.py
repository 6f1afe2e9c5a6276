"""From what a person asks to the points of a sweep: combinations, seeds, exclusions, and every problem at once."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loopwright.config.compose import compose
from loopwright.errors import ConfigError
from loopwright.sweeps.expand import expand
from loopwright.sweeps.plan import Confirm, Plan
from support.fuzz import examples

BASE = "experiment=self_test"


def labels(plan: Plan) -> list[str]:
    """The label of each configuration, in order."""
    return list(dict.fromkeys(point.label for point in plan.points))


def seeds(plan: Plan) -> list[int]:
    return [point.seed for point in plan.points]


def problems(*overrides: str, source: Path | None = None, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        expand(source, (BASE, *overrides), **more)
    return list(caught.value.problems)


def sweep_file(folder: Path, **keys: Any) -> Path:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False), encoding="utf-8")
    return path


class TestCommandLine:
    def test_comma_lists_ranges_and_choices_are_axes_the_last_one_fastest(self) -> None:
        plan = expand(None, [BASE, "optim=adam,sgd", "optim.lr=choice(1e-3,0.1,0.2)", "train.epochs=range(1,3)"])
        assert labels(plan) == [
            f"optim={optim} optim.lr={lr} train.epochs={epochs}"
            for optim in ("adam", "sgd")
            for lr in (0.001, 0.1, 0.2)
            for epochs in (1, 2)
        ]
        last = plan.points[-1].recipe
        assert (last.optim.name, last.optim.lr, last.train.epochs) == ("sgd", 0.2, 2)
        assert plan.name == "" and plan.folder == plan.hash and plan.confirm is None

    def test_seeds_are_the_fastest_wherever_they_stand(self) -> None:
        plan = expand(None, ["seed=range(3)", BASE, "optim.lr=0.1,0.2"])
        assert labels(plan) == ["optim.lr=0.1", "optim.lr=0.2"] and seeds(plan) == [0, 1, 2] * 2
        assert all(point.recipe.seeds is None for point in plan.points)

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("seed=7", [7]),
            ("seed=7,5", [7, 5]),
            ("seeds=[7,5]", [7, 5]),
            ("seeds=7,5", [7, 5]),
            ("seed=7,7", [7]),
            ("seed=null,1", None),
        ],
    )
    def test_ways_to_give_seeds(self, text: str, wanted: list[int] | None) -> None:
        if wanted is None:
            assert problems(text) == ["`seed`: None is no seed; seeds are whole numbers from 0 on"]
        else:
            assert seeds(expand(None, [BASE, text])) == wanted

    def test_without_seeds_each_recipe_has_its_own(self, tmp_path: Path) -> None:
        assert seeds(expand(None, [BASE])) == [42]
        file = tmp_path / "recipe.yaml"
        file.write_text("seeds: [3, 4]\n")
        assert seeds(expand(None, [BASE, "optim.lr=0.1,0.2"], file=file)) == [3, 4, 3, 4]
        assert seeds(expand(None, [BASE, "seed=9"], file=file)) == [9]

    def test_a_seed_that_other_keys_refer_to(self) -> None:
        plan = expand(None, [BASE, "train.epochs=${seed}", "seed=3,4"])
        assert [point.recipe.train.epochs for point in plan.points] == [3, 4]

    def test_the_same_training_comes_once(self) -> None:
        assert labels(expand(None, [BASE, "optim.lr=0.1,1e-1,0.2"])) == ["optim.lr=0.1", "optim.lr=0.2"]
        assert labels(expand(None, [BASE, "model=mlp,mlp", "seed=1,1"])) == ["model=mlp"]

    def test_a_key_given_again_replaces_what_it_was(self) -> None:
        assert labels(expand(None, [BASE, "optim.lr=1,2", "optim.lr=3,4"])) == ["optim.lr=3", "optim.lr=4"]
        assert labels(expand(None, [BASE, "optim.lr=1,2", "optim.lr=3"])) == ["(the recipe)"]
        assert labels(expand(None, [BASE, "optim.lr=3", "optim.lr=1,2"])) == ["optim.lr=1", "optim.lr=2"]
        assert labels(expand(None, [BASE, "optim.name=sgd,adam", "optim=adamw"])) == ["(the recipe)"]

    def test_text_with_commas_stays_text_in_quotes(self) -> None:
        plan = expand(None, [BASE, "name='a,b'", "stop.budget=1 min"])
        assert plan.points[0].recipe.name == "a,b" and len(plan.points) == 1

    def test_experiments_of_different_tasks(self) -> None:
        plan = expand(None, ["experiment=self_test,frequency_baseline", "train.epochs=1"])
        assert [point.recipe.name for point in plan.points] == ["self_test", "frequency_baseline"]


class TestFigures:
    def test_a_sweep_draws_none(self) -> None:
        assert expand(None, [BASE]).points[0].recipe.plots.name == "none"

    @pytest.mark.parametrize("text", ["plots=minimal", "plots.name=minimal"])
    def test_unless_somebody_asks(self, text: str, tmp_path: Path) -> None:
        assert expand(None, [BASE, text]).points[0].recipe.plots.name == "minimal"
        file = tmp_path / "recipe.yaml"
        file.write_text("plots: minimal\n")
        assert expand(None, [BASE], file=file).points[0].recipe.plots.name == "minimal"

    def test_one_family_alone(self) -> None:
        plots = expand(None, [BASE, "plots.families.losses=true"]).points[0].recipe.plots
        assert plots.at_end() == ("losses",)

    def test_they_are_no_part_of_what_is_trained(self) -> None:
        assert expand(None, [BASE, "plots=full"]).hash == expand(None, [BASE]).hash


class TestStages:
    def test_a_screening_takes_the_first_seeds_of_a_list(self) -> None:
        plan = expand(None, [BASE, "optim.lr=0.1,0.2", "seed=5,6,7"], screen=2, confirm=Confirm(1, 3))
        assert seeds(plan) == [5, 6, 5, 6] and {point.stage for point in plan.points} == {"screen"}
        assert plan.confirm == Confirm(top=1, seeds=3)

    @pytest.mark.parametrize(("overrides", "wanted"), [((), [42, 43]), (("seed=7",), [7, 8])])
    def test_or_counts_up_from_the_seed(self, overrides: tuple[str, ...], wanted: list[int]) -> None:
        assert seeds(expand(None, [BASE, *overrides], screen=2, confirm=Confirm(1, 1))) == wanted

    def test_too_few_seeds(self) -> None:
        (line,) = problems("optim.lr=1,2", "seed=1,2", screen=3, confirm=Confirm(1, 1))
        assert line == "`screen` is 3 and there are 2 seeds; give more seeds, or a smaller number"

    def test_one_stage_alone(self) -> None:
        assert "`screen` and `confirm` belong together" in problems(screen=1)[0]
        assert "`screen` and `confirm` belong together" in problems(confirm=Confirm(1, 1))[0]

    def test_they_are_part_of_the_plans_hash(self) -> None:
        screened = [expand(None, [BASE], screen=1, confirm=Confirm(top, 3)).hash for top in (1, 1, 2)]
        assert screened[0] == screened[1] != screened[2] != expand(None, [BASE]).hash


class TestProblems:
    def test_all_of_them_at_once_each_line_once(self) -> None:
        some = "(4 of 12 configurations; the first is train.epochs=-1 model.hiden=1)"
        more = some.replace("-1 ", "-2 ")
        assert sorted(problems("train.epochs=-1,-2,3", "model.hiden=1,2,3,4", "train.batch_size=0")) == [
            "`model.hiden`: there is no such key; did you mean `model.hidden`?",
            "`train.batch_size` is 0; it should be greater than or equal to 1",
            f"`train.epochs` is -1; it should be greater than or equal to 0 {some}",
            f"`train.epochs` is -2; it should be greater than or equal to 0 {more}",
        ]

    def test_a_key_that_nobody_has_is_one_problem(self) -> None:
        hint = "there is no such key; did you mean `model.hidden`?"
        assert problems("model.hiden=1,2", "optim.lr=1,2") == [f"`model.hiden`: {hint}"]
        assert problems("model.hiden=1", "optim.lr=1,2") == [f"`model.hiden` is 1: {hint}"]

    def test_of_one_configuration(self) -> None:
        assert problems("optim.lr=0.1,-1") == ["`optim.lr` is -1; it should be greater than 0 (with optim.lr=-1)"]

    def test_overrides_that_are_none(self) -> None:
        wrong = ["this", "optim.lr=interval(0,1)", "seed=range(3,1)", "optim.lr=1,choice(2,3)"]
        lines = problems(*wrong, "optim.lr=-1")
        assert [line.split("`")[1] for line in lines[:4]] == wrong
        assert lines[4].startswith("`optim.lr` is -1")

    @pytest.mark.parametrize("key", ["launcher", "launcher.workers", "env", "env.runs", "name"])
    def test_what_the_points_share(self, key: str) -> None:
        (line,) = problems(f"{key}=1,2")
        assert line.startswith(f"`{key}` cannot differ between the points of a sweep")

    @pytest.mark.parametrize("axis", ["stop.budget=1 min,2 min", "record.grad_norm=true,false", "plots=full,none"])
    def test_what_shapes_no_training(self, axis: str) -> None:
        (line,) = problems(axis)
        key = axis.split("=")[0]
        assert "are one and the same training" in line and f"`{key}" in line

    def test_seed_and_seeds(self) -> None:
        assert problems("seed=1", "seeds=[2]") == ["`seed` and `seeds` both give seeds; leave one of them out"]

    @pytest.mark.parametrize("text", ["seed=-1", "seed=a,b", "seed=1.5", "seed=true", "seeds=[]", "seed=1e30"])
    def test_what_is_no_seed(self, text: str) -> None:
        (line,) = problems(text)
        assert line.startswith(f"`{text.split('=')[0]}`: ") and "seed" in line

    def test_more_points_than_anybody_means(self) -> None:
        assert problems("optim.lr=range(1,1001)", "seed=range(1001)") == [
            "the sweep has 1,001,000 points; 100,000 are the most, so take fewer values"
        ]

    def test_a_config_directory_that_is_not_there(self, tmp_path: Path) -> None:
        assert "there is no such directory" in problems(config_dir=tmp_path / "none")[0]


def test_points_of_one_plan_share_their_launcher(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    folder.mkdir()
    for name, launcher in (("one", "inline"), ("two", "local")):
        text = f"# @package _global_\ndefaults:\n  - override /task: regression\n  - override /launcher: {launcher}\n"
        (folder / f"{name}.yaml").write_text(text)
    with pytest.raises(ConfigError, match="the points differ in `launcher`, of which a sweep has one"):
        expand(None, ["experiment=one,two"], config_dir=tmp_path)
    plan = expand(None, ["experiment=one,two", "launcher=inline", "launcher.workers=1"], config_dir=tmp_path)
    assert plan.launcher.workers == 1


AXES: dict[str, list[Any]] = {
    "optim.lr": [0.001, 0.01, 0.1, 1.0],
    "model.hidden": [[8], [8, 8], [16]],
    "optim": ["adam", "adamw", {"name": "sgd", "momentum": 0.5}],
    "train/epochs": [1, 2, 3],
    "model.dropout": [0.0, 0.5],
    "schedule": ["constant", "cosine"],
}


@st.composite
def axes(draw: st.DrawFn) -> dict[str, list[Any]]:
    keys = draw(st.lists(st.sampled_from(sorted(AXES)), unique=True, max_size=3))
    return {key: draw(st.lists(st.sampled_from(AXES[key]), min_size=1, unique_by=repr)) for key in keys}


@st.composite
def sweeps(draw: st.DrawFn) -> dict[str, Any]:
    """A sweep file with an entry of `exclude` that matches, and the number of its points."""
    found = draw(axes())
    numbers = draw(st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True))
    combinations = [dict(zip(found, values, strict=True)) for values in itertools.product(*found.values())]
    out = draw(st.sampled_from(combinations)) if found and draw(st.booleans()) else {}
    out = {key: value for key, value in out.items() if not isinstance(value, dict)}
    kept = [each for each in combinations if not (out and out.items() <= each.items())]
    return {
        "file": {
            "recipe": {"experiment": "self_test"},
            "axes": found,
            "seeds": numbers,
            "exclude": [out] if out else [],
        },
        "count": len(kept) * len(numbers),
    }


@examples(30)
@given(drawn=sweeps(), data=st.data())
def test_properties(drawn: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, file = tmp_path_factory.mktemp("sweep"), drawn["file"]
    path = sweep_file(folder, **file)
    if not drawn["count"]:
        with pytest.raises(ConfigError, match="no point is left"):
            expand(path)
        return
    plan = expand(path)
    # The product, less what is excluded; and the same again.
    assert len(plan.points) == drawn["count"] and expand(path) == plan
    # What sets a point apart, laid on what they share, is its recipe.
    for point in data.draw(st.lists(st.sampled_from(plan.points), max_size=3)):
        again = compose([BASE, "plots=none", *point.overrides, f"seed={point.seed}"]).recipe
        assert again == point.recipe
    # Neither the order of axes, values nor seeds is part of what is trained.
    order = data.draw(st.permutations(sorted(file["axes"])))
    shuffled = {key: data.draw(st.permutations(file["axes"][key])) for key in order}
    other = expand(sweep_file(folder, **{**file, "axes": shuffled, "seeds": file["seeds"][::-1]}))
    assert other.hash == plan.hash and {each.key for each in other.points} == {each.key for each in plan.points}
