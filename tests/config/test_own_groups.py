"""The group files of a user's directory: listed once, composed once, and noticed when they change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loopwright.config.compose import Composer, compose
from loopwright.config.groups import Groups
from loopwright.config.overrides import parse_override
from loopwright.errors import ConfigError

EXPERIMENT = "# @package _global_\ndefaults:\n  - override /task: regression\ntrain:\n  epochs: {}\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(EXPERIMENT.format(3))
    return tmp_path


def epochs(own: Path) -> int:
    return compose(["experiment=mine"], config_dir=own).recipe.train.epochs


def test_a_changed_file_is_read_again(own: Path) -> None:
    assert epochs(own) == epochs(own) == 3
    (own / "experiment" / "mine.yaml").write_text(EXPERIMENT.format(40))
    assert epochs(own) == 40


def test_a_relative_directory_is_the_one_here(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, number in (("a", 1), ("b", 2)):
        (tmp_path / name / "conf" / "experiment").mkdir(parents=True)
        (tmp_path / name / "conf" / "experiment" / "mine.yaml").write_text(EXPERIMENT.format(number))
        os.utime(tmp_path / name / "conf" / "experiment" / "mine.yaml", (1, 1))
    found = []
    for name in ("a", "b"):
        monkeypatch.chdir(tmp_path / name)
        found.append(epochs(Path("conf")))
    assert found == [1, 2]


def test_names_and_files(own: Path) -> None:
    groups = Groups.below(own)
    assert "mine" in groups.names("experiment") and "self_test" in groups.names("experiment")
    assert groups.is_own("experiment", "mine") and not groups.is_own("experiment", "self_test")
    assert groups.path("experiment", "mine") == own / "experiment" / "mine.yaml"
    assert groups.path("experiment", "self_test").is_file()


def test_what_is_composed_is_ones_own_to_change(own: Path) -> None:
    groups = Groups.below(own)
    groups.values("experiment", "mine")["train"]["epochs"] = 99
    assert groups.values("experiment", "mine")["train"]["epochs"] == 3


def test_a_link_to_nothing_matters_only_where_it_is_chosen(own: Path) -> None:
    (own / "experiment" / "gone.yaml").symlink_to(own / "nowhere.yaml")
    assert epochs(own) == 3
    with pytest.raises(ConfigError, match="experiment=gone does not compose"):
        compose(["experiment=gone"], config_dir=own)


def test_a_composer_reads_its_file_once(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("experiment: self_test\noptim: sgd\ntrain: {epochs: 3}\n")
    composer = Composer(file=file, below={"plots": {"name": "none"}, "train": {"epochs": 9}})
    file.unlink()
    for name in ("sgd", "adam", "sgd"):
        recipe, experiment = composer.recipe([parse_override(f"optim={name}")])
        assert (recipe.optim.name, recipe.train.epochs, recipe.plots.name) == (name, 3, "none")
        assert experiment == "self_test"
