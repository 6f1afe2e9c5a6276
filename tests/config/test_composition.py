"""How a recipe comes about: experiments, groups, the user's file and directory, recorded recipes, plug-ins."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from pathlib import Path

import pytest
import yaml

from loopwright import plugins
from loopwright.config.compose import Composed, compose
from loopwright.config.registry import lookup
from loopwright.config.schema import plain
from loopwright.errors import ConfigError, UserError

PARTS = '''
from typing import Literal

from torch import nn

from loopwright.config.node import setting
from loopwright.models.base import VectorModel

class Line(VectorModel):
    """One linear layer."""

    name: str = "parts_of_mine:Line"
    bias: bool = setting(True, "whether there is a bias")

    def build(self, num_inputs, num_outputs):
        return nn.Linear(num_inputs, num_outputs, bias=self.bias)
'''


def of(*overrides: str, **more: object) -> Composed:
    return compose(overrides, **more)  # type: ignore[arg-type]


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's in the current directory, forgotten afterwards."""
    (tmp_path / "parts_of_mine.py").write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("parts_of_mine", None)
    yield "parts_of_mine"  # type: ignore[misc]
    sys.modules.pop("parts_of_mine", None)


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_experiment_names_the_run() -> None:
    found = of()
    assert found.experiment == found.recipe.name == "regression_diabetes"
    assert found.recipe.train.epochs == 60 and found.recipe.model.hidden == (32, 32)


def test_an_experiment_takes_the_place_of_the_default_one() -> None:
    found = of("experiment=gru_baseline", "train.epochs=5")
    assert (found.experiment, found.recipe.name, found.recipe.train.epochs) == ("gru_baseline", "gru_baseline", 5)
    assert (found.recipe.task.name, found.recipe.model.name, found.recipe.optim.name) == (
        "set_prediction",
        "gru",
        "adam",
    )
    assert of("experiment=gru_baseline", "name=mine").recipe.name == "mine"


@pytest.mark.parametrize("text", ["task=set_prediction", "task.name=set_prediction", "task={name: set_prediction}"])
def test_a_task_of_ones_own_drops_the_default_experiment(text: str) -> None:
    found = of(text)
    assert found.experiment is None and found.recipe.name is None
    assert (
        found.recipe.model.name == "gru" and found.recipe.train.epochs == 50
    )  # the task's model, the schema's default
    assert of(text, "experiment=gru_baseline").recipe.train.epochs == 100


def test_no_experiment_at_all() -> None:
    assert of("experiment=null", "task=regression").experiment is None
    assert of("~experiment", "task=regression").experiment is None
    with pytest.raises(ConfigError, match="`task` is missing"):
        of("experiment=null")


def test_a_part_is_chosen_by_its_group_and_its_keys_follow() -> None:
    recipe = of("experiment=gru_baseline", "model=frequency", "model.decay=0.5", "schedule=warmup_cosine").recipe
    assert recipe.model.name == "frequency" and recipe.model.decay == 0.5
    assert recipe.schedule.name == "warmup_cosine"
    assert of("task/data=wave").recipe.task.data.name == of("task.data=wave").recipe.task.data.name == "wave"


@pytest.mark.parametrize("choice", ["optim=sgd", "optim.name=sgd", "optim={name: sgd}"])
def test_naming_another_choice_starts_its_part_afresh(choice: str) -> None:
    assert of().recipe.optim.weight_decay == 0.1  # the experiment's, of adamw
    assert of(choice).recipe.optim.weight_decay == 0.0
    assert of("optim=adamw").recipe.optim.weight_decay == 0.1


@pytest.mark.parametrize("name", ["sgd", "RMSprop"])
def test_a_choice_and_its_keys_may_come_in_any_order(name: str) -> None:
    one, other = of(f"optim={name}", "optim.lr=0.5").recipe, of("optim.lr=0.5", f"optim={name}").recipe
    assert one == other and one.optim.lr == 0.5


def test_keys_without_a_name_go_to_the_default_choice() -> None:
    assert of("task=set_prediction", "model.hidden=8").recipe.model.hidden == 8
    assert of("task=set_prediction", "optim.lr=0.5").recipe.optim.name == "adamw"


def test_torchs_classes_take_their_keywords() -> None:
    recipe = of("optim=Adagrad", "optim.args.lr_decay=0.1", "schedule=StepLR", "schedule.args.step_size=3").recipe
    assert recipe.optim.args == {"lr_decay": 0.1} and recipe.schedule.args == {"step_size": 3}


def test_interpolations_of_the_users_are_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_NAME", "by_environment")
    recipe = of("seed=${train.epochs}", "name=${oc.env:MY_NAME}").recipe
    assert (recipe.seed, recipe.name) == (60, "by_environment")
    with pytest.raises(ConfigError, match="does not resolve"):
        of("seed=${nothing.here}")
    with pytest.raises(ConfigError, match="does not resolve"):
        of("train.epochs=???")


class TestFile:
    def test_lies_over_the_defaults_and_under_the_overrides(self, tmp_path: Path) -> None:
        file = written(tmp_path / "my.yaml", "train:\n  epochs: 5\n  batch_size: 16\noptim:\n  lr: 0.5\n")
        recipe = of("train.epochs=7", file=file).recipe
        assert (recipe.train.epochs, recipe.train.batch_size, recipe.optim.lr) == (7, 16, 0.5)
        assert recipe.optim.weight_decay == 0.1 and recipe.name == "regression_diabetes"

    def test_may_name_an_experiment(self, tmp_path: Path) -> None:
        file = written(tmp_path / "my.yaml", "experiment: gru_baseline\ntrain: {epochs: 3}\n")
        assert of(file=file).experiment == "gru_baseline"
        assert of(file=file).recipe.train.epochs == 3
        assert of("experiment=regression_wave", file=file).recipe.task.name == "regression"

    def test_may_name_a_group_file_as_text(self, tmp_path: Path) -> None:
        file = written(tmp_path / "my.yaml", "optim: sgd\nschedule: cosine\ntask: {data: wave}\n")
        recipe = of(file=file).recipe
        assert (recipe.optim.name, recipe.schedule.name, recipe.task.data.name) == ("sgd", "cosine", "wave")
        assert of("optim=adam", file=file).recipe.optim.name == "adam"

    def test_a_part_with_another_name_replaces_the_old_one(self, tmp_path: Path) -> None:
        file = written(
            tmp_path / "my.yaml", "optim: {name: sgd, momentum: 0.9}\ntask: {data: {name: wave, rows: 99}}\n"
        )
        recipe = of(file=file).recipe
        assert (recipe.optim.momentum, recipe.optim.weight_decay, recipe.task.data.rows) == (0.9, 0.0, 99)

    def test_an_overrides_choice_goes_over_the_files_part(self, tmp_path: Path) -> None:
        file = written(tmp_path / "my.yaml", "optim: {name: sgd, momentum: 0.9, lr: 0.5}\n")
        assert of("optim=adam", file=file).recipe.optim.lr == 1e-3  # the file's keys are sgd's
        assert of("optim=sgd", file=file).recipe.optim.momentum == 0.9
        nameless = written(tmp_path / "nameless.yaml", "optim: {lr: 0.5}\n")
        assert of("optim=adam", file=nameless).recipe.optim.lr == 0.5  # written for whatever is chosen

    def test_a_task_of_its_own_drops_the_default_experiment(self, tmp_path: Path) -> None:
        for text in ("task: set_prediction\n", "task: {name: set_prediction}\n"):
            assert of(file=written(tmp_path / "my.yaml", text)).recipe.model.name == "gru"

    def test_a_runs_config_gives_the_same_recipe(self, tmp_path: Path) -> None:
        recipe = of("experiment=gru_baseline", "optim=sgd", "optim.momentum=0.5", "stop.gate={mrr: 0.4}").recipe
        file = written(tmp_path / "config.yaml", yaml.safe_dump(plain(recipe)))
        assert of(file=file).recipe == recipe
        several = of("seeds=[1,2]").recipe
        assert of(file=written(tmp_path / "config.yaml", yaml.safe_dump(plain(several)))).recipe == several

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("- a\n- b\n", "holds a list"),
            ("train: [1, 2\n", "is not valid YAML"),
            ("train: {epochs: 1\n", "is not valid YAML"),
            ("\ttrain: 1\n", "is not valid YAML"),
            ("1: 2\n", "is not a key"),
            ("train: {epochs: 1, epochs: 2}\n", "is not valid YAML"),
        ],
    )
    def test_what_is_no_recipe_is_one_line(self, tmp_path: Path, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as caught:
            of(file=written(tmp_path / "my.yaml", text))
        (line,) = caught.value.problems
        assert said in line and "my.yaml" in line and "\n" not in line

    def test_a_missing_unreadable_or_empty_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such file"):
            of(file=tmp_path / "nothing.yaml")
        with pytest.raises(ConfigError, match="cannot be read"):
            of(file=tmp_path)
        (tmp_path / "latin.yaml").write_bytes(b"name: \xe9\n")
        with pytest.raises(ConfigError, match="cannot be read"):
            of(file=tmp_path / "latin.yaml")
        assert of(file=written(tmp_path / "empty.yaml", "")).recipe == of().recipe


class TestDirectory:
    def test_adds_choices_and_experiments(self, tmp_path: Path) -> None:
        home = tmp_path / "it's my, dir (1)"
        written(home / "optim" / "slow.yaml", "name: sgd\nlr: 0.001\n")
        written(home / "optim" / "calm.yaml", "lr: 0.0001\n")
        text = "# @package _global_\ndefaults:\n  - override /task: regression\n  - override /optim: slow\ntrain: {epochs: 4}\n"
        written(home / "experiment" / "mine.yaml", text)
        recipe = of("optim=slow", config_dir=home).recipe
        assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("sgd", 0.001, 0.0)
        assert of("optim=slow", "optim.lr=0.5", config_dir=home).recipe.optim.lr == 0.5
        calm = of("optim=calm", config_dir=home).recipe.optim
        assert (calm.name, calm.lr, calm.weight_decay) == ("adamw", 0.0001, 0.1)
        mine = of("experiment=mine", config_dir=home)
        assert (mine.recipe.name, mine.recipe.train.epochs, mine.recipe.optim.lr) == ("mine", 4, 0.001)
        with pytest.raises(ConfigError, match="did you mean 'mine'"):
            of("experiment=mien", config_dir=home)
        with pytest.raises(ConfigError, match="'slow' is not known"):
            of("optim=slow")

    def test_may_hold_an_import_path(self, tmp_path: Path, parts: str) -> None:
        written(tmp_path / "conf" / "model" / "mine.yaml", f"name: {parts}:Line\nbias: false\n")
        recipe = of("model=mine", config_dir=tmp_path / "conf").recipe
        assert recipe.model.name == f"{parts}:Line" and recipe.model.bias is False
        assert type(recipe.model).__module__ == parts

    def test_names_the_runs_of_a_task_of_ones_own(self, tmp_path: Path, parts: str) -> None:
        own = f"{parts}:MineConfig"
        text = "from loopwright.tasks.regression.task import RegressionConfig\n\nclass MineConfig(RegressionConfig):\n"
        written(tmp_path / f"{parts}.py", f"{text}    name: str = {own!r}\n")
        written(tmp_path / "task" / "mine.yaml", f"name: {own}\n")
        assert of("task=mine", config_dir=tmp_path).recipe.name == "mine"
        assert of("task=mine", "name=other", config_dir=tmp_path).recipe.name == "other"
        assert of(f"task={own}").recipe.name is None  # the class's name then, as no other was typed

    def test_declares_metrics_that_one_can_follow(self, tmp_path: Path, parts: str) -> None:
        text = "from loopwright.tasks.regression.task import RegressionConfig\n\nclass MineConfig(RegressionConfig):\n"
        text += f"    name: str = '{parts}:MineConfig'\n    def metrics(self):\n        return {{'loss': 'min', 'r2': 'up'}}\n"
        written(tmp_path / f"{parts}.py", text)
        with pytest.raises(ConfigError, match="the metric 'r2' is declared as 'up'; use 'min', 'max' or None"):
            of(f"task={parts}:MineConfig")

    def test_serves_a_recorded_recipe_too(self, tmp_path: Path) -> None:
        written(tmp_path / "optim" / "slow.yaml", "name: sgd\nlr: 0.001\n")
        recorded = plain(of("optim.betas=[0.5,0.9]").recipe)
        recipe = of("optim=slow", base=recorded, config_dir=tmp_path).recipe
        assert (recipe.optim.name, recipe.optim.lr) == ("sgd", 0.001)
        assert of("optim=sgd", base=recorded).recipe.optim.momentum == 0.0

    def test_has_to_be_there_and_to_compose(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="there is no such directory"):
            of(config_dir=tmp_path / "nothing")
        written(tmp_path / "optim" / "torn.yaml", "name: [\n")
        with pytest.raises(ConfigError, match="optim=torn does not compose"):
            of("optim=torn", config_dir=tmp_path)


class TestImports:
    def test_the_user_may_name_a_class_of_their_own(self, parts: str) -> None:
        recipe = of(f"model={parts}:Line", "model.bias=false").recipe
        assert recipe.model.bias is False
        assert of(base=plain(recipe), allow_import=[parts]).recipe == recipe

    def test_what_cannot_be_imported_is_one_line(self, parts: str) -> None:
        for path, said in (
            ("nowhere_at_all:X", "ModuleNotFoundError"),
            (f"{parts}:Missing", "AttributeError"),
            ("collections:OrderedDict", "not a configuration class"),
            (":", "cannot be imported"),
        ):
            with pytest.raises(ConfigError) as caught:
                of(f"model={path}")
            (line,) = caught.value.problems
            assert line.startswith("`model`") and said in line

    @pytest.mark.parametrize("key", ["task", "model", "optim", "schedule", "task.data"])
    def test_a_recorded_recipe_never_imports_by_itself(
        self, key: str, tmp_path: Path, parts: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The module leaves a file behind when it is imported; the record asks for it, and for the environment."""
        (tmp_path / "parts_of_mine.py").write_text("from pathlib import Path\nPath('ran').touch()\n" + PARTS)
        monkeypatch.setenv("SECRET", "of-the-user")
        recorded = plain(of().recipe)
        *parents, leaf = key.split(".")
        owner = recorded
        for parent in parents:
            owner = owner[parent]
        owner[leaf] = {"name": f"{parts}:Line"}
        recorded["name"] = "${oc.env:SECRET}"
        with pytest.raises(ConfigError) as caught:
            of("train.epochs=3", base=recorded)
        assert f"add --allow-import {parts}" in str(caught.value)
        assert not (tmp_path / "ran").exists() and parts not in sys.modules
        assert "of-the-user" not in str(caught.value)

    def test_a_recorded_recipe_reads_no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET", "of-the-user")
        recorded = plain(of().recipe) | {"name": "${oc.env:SECRET}"}
        recorded["hooks"] = {"timing_probe": {"advice": "${oc.env:SECRET} ${oc.decode:x"}}
        recipe = of("hooks.timing_probe.minutes=3", base=recorded).recipe
        assert recipe.name == "${oc.env:SECRET}"
        assert recipe.hooks.timing_probe is not None and recipe.hooks.timing_probe.advice.startswith("${oc.env")

    def test_an_allowed_module_that_fails_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [*sys.path])
        (tmp_path / "broken_part.py").write_text("1 / 0\n")
        with pytest.raises(UserError, match="--allow-import broken_part failed: ZeroDivisionError"):
            of(allow_import=["broken_part"])


class TestEntryPoints:
    @pytest.fixture
    def installed(self, parts: str, monkeypatch: pytest.MonkeyPatch) -> list[importlib.metadata.EntryPoint]:
        """What `entry_points` finds, and a registry that is read anew."""
        found: list[importlib.metadata.EntryPoint] = []
        monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == "loopwright.plugins" else [])
        monkeypatch.setattr(plugins, "_installed", plugins._Installed())
        return found

    def test_an_installed_package_adds_parts(
        self, installed: list[importlib.metadata.EntryPoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        registered = PARTS.replace("class Line", '@register("model", "installed_line")\nclass Line').replace(
            'name: str = "parts_of_mine:Line"', 'name: Literal["installed_line"] = "installed_line"'
        )
        text = "from loopwright.config.registry import register\n" + registered
        (tmp_path / "parts_of_mine.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr("loopwright.config.registry._registry", _copied())
        installed.append(importlib.metadata.EntryPoint("mine", "parts_of_mine", "loopwright.plugins"))
        recipe = of("model=installed_line", "model.bias=false").recipe
        assert type(recipe.model) is lookup("model", "installed_line")
        assert of(base=plain(recipe)).recipe == recipe  # installed packages need no --allow-import

    def test_one_that_fails_is_reported_and_left_out(
        self, installed: list[importlib.metadata.EntryPoint], caplog: pytest.LogCaptureFixture
    ) -> None:
        installed.append(importlib.metadata.EntryPoint("torn", "no_such_module_here", "loopwright.plugins"))
        with caplog.at_level(logging.WARNING, logger="loopwright"):
            assert of().recipe.task.name == "regression"
        assert "plug-in torn failed to load" in caplog.text


def _copied() -> dict[str, dict[str, object]]:
    from loopwright.config.registry import _registry

    return {group: dict(choices) for group, choices in _registry.items()}
