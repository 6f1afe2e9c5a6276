"""Sweep files and named sweeps: what their keys mean, what is refused, and what the command line replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopwright.config.groups import Groups
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.sweeps.expand import expand
from loopwright.sweeps.plan import Confirm, Plan, Point

SHARED = "recipe: {experiment: self_test, train.epochs: 2}\n"
NAMED = ["compare_baselines", "compare_latents", "compare_vq_vs_none"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.yaml"


def of(path: Path, text: str, *overrides: str, shared: str = SHARED, **more: Any) -> Plan:
    path.write_text(shared + text, encoding="utf-8")
    return expand(path, overrides, **more)


def problems(file: Path, text: str, *overrides: str, shared: str = SHARED) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        of(file, text, *overrides, shared=shared)
    return list(caught.value.problems)


def told(plan: Plan) -> list[tuple[str, int]]:
    return [(point.label, point.seed) for point in plan.points]


def only(plan: Plan) -> Point:
    (point,) = plan.points
    return point


class TestKeys:
    def test_the_files_name_is_the_sweeps(self, file: Path) -> None:
        assert of(file, "").name == "mine" and of(file, "name: other").folder == "other"
        assert only(of(file, "")).recipe.name == "self_test"

    def test_the_recipe_may_be_dotted_or_nested(self, file: Path) -> None:
        dotted = "recipe: {task: autoencoder, task/latent: vq, task.latent.codes: 16, optim: sgd, optim.lr: 0.5}\n"
        nested = "recipe: {task: {name: autoencoder, latent: {name: vq, codes: 16}}, optim: {lr: 0.5, name: sgd}}\n"
        recipes = [only(of(file, "", shared=shared)).recipe for shared in (dotted, nested)]
        assert recipes[0] == recipes[1]
        assert (recipes[0].task.latent.codes, recipes[0].optim.name, recipes[0].optim.lr) == (16, "sgd", 0.5)

    def test_it_lies_over_a_config_file_and_under_the_command_line(self, file: Path, tmp_path: Path) -> None:
        below = tmp_path / "below.yaml"
        below.write_text("train: {epochs: 9, batch_size: 9}\noptim: {lr: 9.0}\n")
        recipe = only(of(file, "", "optim.lr=1", file=below)).recipe
        assert (recipe.train.epochs, recipe.train.batch_size, recipe.optim.lr) == (2, 9, 1.0)

    def test_axes_as_lists_texts_and_single_values(self, file: Path) -> None:
        text = "axes:\n  optim.lr: 1e-3,3e-4\n  model.hidden: [[8], [8, 8]]\n  train.batch_size: 32\n  seed: range(2)\n"
        plan = of(file, text)
        assert told(plan)[:3] == [
            ("optim.lr=0.001 model.hidden=[8] train.batch_size=32", 0),
            ("optim.lr=0.001 model.hidden=[8] train.batch_size=32", 1),
            ("optim.lr=0.001 model.hidden=[8,8] train.batch_size=32", 0),
        ]
        assert len(plan.points) == 8

    def test_values_of_every_kind_are_typed_so_that_they_read_back(self, file: Path) -> None:
        plan = of(file, "axes: {optim: [{name: sgd, momentum: 0.5}, adam], stop.gate: [null, {loss: 0.1}]}")
        assert [point.overrides for point in plan.points] == [
            ("optim={name:sgd,momentum:0.5}", "stop.gate=null"),
            ("optim={name:sgd,momentum:0.5}", "stop.gate={loss:0.1}"),
            ("optim=adam", "stop.gate=null"),
            ("optim=adam", "stop.gate={loss:0.1}"),
        ]
        gates = [point.recipe.stop.gate for point in plan.points]
        assert gates == [None, {"loss": 0.1}] * 2 and plan.points[0].recipe.optim.momentum == 0.5

    def test_variants_are_lists_texts_or_mappings(self, file: Path) -> None:
        text = """
overrides:
  - []
  - [optim=sgd, optim.lr=0.1]
  - optim=adam "train.validate_every=2 epochs"
  - {optim: {name: sgd, momentum: 0.5}}
"""
        plan = of(file, text)
        assert [label for label, _ in told(plan)] == [
            "(the recipe)",
            "optim=sgd optim.lr=0.1",
            "optim=adam train.validate_every=2 epochs",
            "optim.name=sgd optim.momentum=0.5",
        ]
        assert str(plan.points[2].recipe.train.validate_every) == "2 epochs"

    def test_points_have_names(self, file: Path) -> None:
        text = "points: {slow: {optim.lr: 1e-4}, fast: [optim.lr=0.1]}\naxes: {optim: [adam, sgd]}\nseeds: [3]"
        plan = of(file, text)
        assert told(plan) == [
            ("slow optim=adam", 3),
            ("fast optim=adam", 3),
            ("slow optim=sgd", 3),
            ("fast optim=sgd", 3),
        ]
        assert plan.points[1].overrides == ("optim=adam", "optim.lr=0.1")

    def test_a_variant_may_have_seeds_where_the_sweep_has_none(self, file: Path) -> None:
        assert told(of(file, "points: {a: {seed: 1}, b: {seeds: [2, 3]}}")) == [("a", 1), ("b", 2), ("b", 3)]
        (line,) = problems(file, "points: {a: {seed: 1}}\nseeds: [2]")
        assert line == "`points.a`: `seed=1`, and the sweep has seeds of its own; leave one of them out"

    def test_seeds(self, file: Path) -> None:
        assert [seed for _, seed in told(of(file, "seeds: range(2,5)"))] == [2, 3, 4]
        assert [seed for _, seed in told(of(file, "seeds: 7,1"))] == [7, 1]
        assert [seed for _, seed in told(of(file, "seeds: [5, 6]", "seed=1"))] == [1]
        assert [seed for _, seed in told(of(file, "seeds: [5, 6]", "seeds=range(2)"))] == [0, 1]

    def test_stages(self, file: Path) -> None:
        text = "screen: 2\nconfirm: {top: 1, seeds: 4}\naxes: {optim.lr: [1, 2]}"
        plan = of(file, text)
        assert plan.confirm == Confirm(1, 4) and [point.stage for point in plan.points] == ["screen"] * 4
        assert [point.seed for point in plan.points] == [42, 43, 42, 43]
        plan = of(file, text, screen=1, confirm=Confirm(2, 2))
        assert plan.confirm == Confirm(2, 2) and len(plan.points) == 2


class TestExclude:
    TEXT = "axes: {optim: [adam, sgd], optim.lr: [0.1, 0.2, 0.3]}\nseeds: [1, 2]\n"

    def test_what_matches_all_keys_of_an_entry_is_left_out(self, file: Path) -> None:
        plan = of(file, self.TEXT + "exclude: [{optim: sgd, optim.lr: [0.1, 0.2]}, {optim/name: adam, seed: 2}]")
        assert told(plan) == [
            *((f"optim=adam optim.lr={lr}", 1) for lr in (0.1, 0.2, 0.3)),
            ("optim=sgd optim.lr=0.3", 1),
            ("optim=sgd optim.lr=0.3", 2),
        ]

    def test_variants_count_and_lists_are_values_too(self, file: Path) -> None:
        text = "axes: {model.hidden: [[8], [16]]}\npoints: {a: {optim: sgd}, b: {optim.lr: 1}}\n"
        plan = of(file, text + "exclude: [{model.hidden: [8], optim: sgd}]")
        assert [label for label, _ in told(plan)] == [
            "b model.hidden=[8]",
            "a model.hidden=[16]",
            "b model.hidden=[16]",
        ]

    def test_an_impossible_combination_is_never_composed(self, file: Path) -> None:
        shared = "recipe: {task: autoencoder}\n"
        axes = "axes: {task/decoder: [mlp, diffusion], task/loop: [ae, diffusion]}\n"
        assert "a decoder that denoises" in problems(file, axes, shared=shared)[0]
        plan = of(file, axes + "exclude: [{task.decoder: diffusion, task.loop: ae}]", shared=shared)
        assert len(plan.points) == 3

    def test_an_entry_that_matches_nothing_is_named(self, file: Path) -> None:
        lines = problems(file, self.TEXT + "exclude: [{optim: sgd, optim.lr: 9}, {optin: adam}, {seed: 3}]")
        assert lines == [
            "`exclude.1` speaks of 'optin', which is no axis of the sweep and in no variant; did you mean 'optim'?",
            "`exclude.0` (optim: sgd, optim.lr: 9) matches no combination; correct it, or leave it out",
            "`exclude.2` (seed: 3) matches no combination; correct it, or leave it out",
        ]

    def test_it_may_match_what_the_command_line_has_taken_away(self, file: Path) -> None:
        text = self.TEXT + "exclude: [{optim: sgd, optim.lr: 0.1}, {seed: 2}]"
        assert len(of(file, text, "optim=adam").points) == 3
        assert len(of(file, text, "optim=sgd", "seed=1,2").points) == 2
        assert "no point is left" in problems(file, text, "optim=sgd", "optim.lr=0.1")[0]

    def test_truth_is_no_number(self, file: Path) -> None:
        text = "axes: {record.grad_norm: [true], train.epochs: [1, 2]}\n"
        assert "matches no combination" in problems(file, text + "exclude: [{record.grad_norm: 1}]")[0]
        assert len(of(file, text + "exclude: [{record.grad_norm: true, train.epochs: 1.0}]").points) == 1


class TestCommandLine:
    TEXT = "axes: {optim: [adam, sgd], optim.lr: [0.1, 0.2]}\n"

    def test_replaces_an_axis_where_it_stands(self, file: Path) -> None:
        plan = of(file, self.TEXT, "optim=adamw,sgd", "train.epochs=1,3")
        assert told(plan)[1][0] == "optim=adamw optim.lr=0.1 train.epochs=3" and len(plan.points) == 8

    def test_replaces_an_axis_by_one_value(self, file: Path) -> None:
        plan = of(file, self.TEXT, "optim.lr=0.7")
        assert [label for label, _ in told(plan)] == ["optim=adam", "optim=sgd"]
        assert {point.recipe.optim.lr for point in plan.points} == {0.7}

    def test_replaces_what_variants_say(self, file: Path) -> None:
        text = "points: {short: {train.epochs: 1, optim.lr: 0.1}, long: {train.epochs: 9}}"
        plan = of(file, text, "train.epochs=3")
        assert [(point.overrides, point.recipe.train.epochs) for point in plan.points] == [
            (("optim.lr=0.1",), 3),
            ((), 3),
        ]

    def test_lies_over_the_recipe(self, file: Path) -> None:
        assert only(of(file, "", "train.epochs=7", "~optim.lr")).recipe.train.epochs == 7


class TestProblems:
    def test_all_of_a_file_at_once(self, file: Path) -> None:
        text = "axis: {}\naxes: {model: null}\nscreen: 0\nseeds: 3\noverrides: [1]\nexclude: {}\nname: 5\n"
        lines = problems(file, text)
        assert sorted(line.split("`")[1] for line in lines) == [
            "axes",
            "axis",
            "exclude",
            "name",
            "overrides.0",
            "screen",
            "seeds",
        ]

    def test_of_the_sweep_and_of_its_points_at_once(self, file: Path) -> None:
        text = "axes: {optim.lr: [-1, 1], env: [a]}\nexclude: [{optim: sgd}]\nseeds: [-3]\n"
        assert [line.split("`")[1] for line in problems(file, text, "this")] == [
            "axes",
            "seeds",
            "this",
            "exclude.0",
            "optim.lr",
        ]

    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("axis: {}", "`axis` is {}: there is no such key; did you mean `axes`?"),
            ("recipee: {}", "there is no such key; did you mean `recipe`?"),
            ("axes: {optim.lr: []}", "give 'optim.lr' a list of values, or a text such as '1e-3,3e-4' or 'range(5)'"),
            ("axes: {optim: {name: sgd}}", "give 'optim' a list of values"),
            ("axes: {optim.lr: 'range(3,1)'}", "`axes`: optim.lr: `optim.lr=range(3,1)` is a sweep without a value"),
            ("axes: {optim.lr: [1], optim/lr: [2]}", "`axes` has optim.lr and optim/lr, which are the same key"),
            ("recipe: {optim: {lr: 1}, optim.lr: 2}", "`recipe` has optim.lr twice; leave one of them out"),
            ("axes: {launcher.workers: [1, 2]}", "`launcher.workers` cannot differ between the points of a sweep"),
            ("points: {a: {name: b}}", "`points.a`: `name` cannot differ between the points of a sweep"),
            ("overrides: [['optim.lr=1,2']]", "`overrides.0`: `optim.lr=1,2` has several values; put it under `axes`"),
            ("overrides: [[nothing]]", "`overrides.0`: `nothing` is not an override"),
            ('overrides: ["model=\'gru"]', "does not split into overrides: no closing quotation"),
            ("overrides: [5]", "give a list of overrides such as [model=gru, optim.lr=0.01]"),
            ("exclude: [{}]", "`exclude.0` names no key"),
            ("name: a/b", "`name` is 'a/b'; a sweep's name is one folder"),
            ("name: .b", "`name` is '.b'; a sweep's name is one folder"),
            ("seeds: []", "`seeds`: the list is empty; give a seed"),
            ("seeds: [1, -1]", "`seeds`: -1 is no seed; seeds are whole numbers from 0 on"),
            ("seeds: [x]", "`seeds`: 'x' is no seed"),
            ("seeds: 3", "`seeds` is 3; give a list of seeds, or a text such as 'range(5)'"),
            ("seeds: 'a,b'", "`seeds`: 'a' is no seed"),
            ("seeds: [1]\naxes: {seed: [1, 2]}", "`seeds` and `axes.seed` both give seeds"),
            ("screen: 1", "`screen` and `confirm` belong together"),
            ("screen: 0\nconfirm: {top: 1, seeds: 1}", "`screen` is 0"),
            ("screen: 1\nconfirm: {top: 1}", "`confirm.seeds` is missing"),
            ("screen: 1\nconfirm: {top: 1, seeds: 1, sedes: 2}", "did you mean `confirm.seeds`?"),
            ("[", "mine.yaml is not valid YAML"),
        ],
    )
    def test_one_line_each(self, text: str, wanted: str, file: Path) -> None:
        (line,) = problems(file, text, shared="" if text == "[" or text.startswith("recipe:") else SHARED)
        assert wanted in line

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"the sweep.s file .*: there is no such file"):
            expand(tmp_path / "none.yaml")
        with pytest.raises(ConfigError, match="there is no such file"):
            expand("folder/none")


class TestNamed:
    def test_they_are_these(self) -> None:
        assert Groups.below(None).names("sweep") == NAMED

    @pytest.mark.parametrize("name", NAMED)
    def test_says_in_its_first_line_what_it_compares(self, name: str) -> None:
        text = Groups.below(None).path("sweep", name).read_text()
        assert text.startswith("# ") and expand(name).name == name
        assert {point.seed for point in expand(name).points} == {0, 1, 2}

    def test_what_they_compare(self) -> None:
        assert [point.recipe.task.latent.name for point in expand("compare_vq_vs_none", ["seed=0"]).points] == [
            "none",
            "vq",
        ]
        assert len(expand("compare_latents").points) == 9
        models = [point.recipe.model.name for point in expand("compare_baselines", ["seed=0"]).points]
        assert models == ["frequency", "gru", "spiking_mlp", "spiking_transformer"]
        assert {point.recipe.train.epochs for point in expand("compare_vq_vs_none", ["train.epochs=50"]).points} == {50}

    @pytest.mark.parametrize("name", NAMED)
    def test_every_configuration_trains(self, name: str) -> None:
        for point in expand(name, ["seed=0", "record.save=false", "stop.budget=2 steps"]).points:
            outcome = run(point.recipe)
            assert outcome.steps == 2 and outcome.value is not None

    def test_a_misspelt_one_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            expand("compare_latent")
        assert str(caught.value) == (
            f"there is no sweep 'compare_latent'; give a YAML file, or one of: {', '.join(NAMED)}; did you mean "
            "'compare_latents'?"
        )

    def test_of_ones_own(self, tmp_path: Path) -> None:
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep" / "rates.yaml").write_text(SHARED + "axes: {optim.lr: [0.1, 0.2]}\n")
        plan = expand("rates", config_dir=tmp_path)
        assert plan.name == "rates" and len(plan.points) == 2
        (tmp_path / "sweep" / "rates.yaml").write_text(SHARED + "axes: {optim.lr: [0.1]}\n")
        assert len(expand("rates", config_dir=tmp_path).points) == 1
        with pytest.raises(ConfigError, match="compare_vq_vs_none, rates"):
            expand("none", config_dir=tmp_path)
