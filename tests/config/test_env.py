"""`env=NAME`: a site's directories and its launcher's defaults, from a file of one's own; no part of what is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from loopwright.building import build
from loopwright.config.compose import compose
from loopwright.config.identity import recipe_id
from loopwright.config.schema import Recipe, plain
from loopwright.data import cache
from loopwright.engine.compute import resolve_device
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.record.run import Run
from loopwright.resuming import resume_run
from loopwright.sweeps.plan import Point
from support.cli import TINY, command

CSV = "x,y\n" + "".join(f"{n},{n % 7}\n" for n in range(60))
OWN_DATA = (
    "task=regression",
    "task/data=csv",
    "task.data.path=mine.csv",
    "task.data.features=[x]",
    "task.data.target=y",
)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of groups with two sites, and another as the current one; nothing set in the environment."""
    monkeypatch.delenv("LOOPWRIGHT_RUNS", raising=False)
    (tmp_path / "conf" / "env").mkdir(parents=True)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    write(
        tmp_path / "conf",
        "cluster",
        f"runs: {tmp_path / 'scratch'}\ndata: {tmp_path / 'data'}\ncache: {tmp_path / 'cache'}\n"
        "launcher: {name: inline, retries: 5}\n",
    )
    write(tmp_path / "conf", "other", f"runs: {tmp_path / 'elsewhere'}\n")
    return tmp_path / "conf"


def write(site: Path, name: str, text: str, group: str = "env") -> None:
    (site / group).mkdir(exist_ok=True)
    (site / group / f"{name}.yaml").write_text(text)


def of(site: Path | None, *overrides: str, **more: Any) -> Recipe:
    return compose(overrides, config_dir=site, **more).recipe


class TestChoosing:
    @pytest.mark.parametrize("text", ["env=cluster", "env.name=cluster", "env={name: cluster}"])
    def test_on_the_command_line(self, text: str, site: Path) -> None:
        env = of(site, text).env
        root = site.parent
        assert (env.name, env.runs, env.data) == ("cluster", str(root / "scratch"), str(root / "data"))
        assert env.cache == str(root / "cache")

    @pytest.mark.parametrize("text", ["env: cluster", "env: {name: cluster}"])
    def test_in_a_config_file(self, text: str, site: Path) -> None:
        file = site / "mine.yaml"
        file.write_text(text)
        assert of(site, file=file).env == of(site, "env=cluster").env
        assert of(site, file=file).launcher.retries == 5
        assert of(site, "env=other", file=file).env == of(site, "env=other").env
        assert of(site, "env=other", file=file).launcher.retries == 2
        assert of(site, "env.runs=/mine", file=file).env.runs == "/mine"

    def test_by_an_experiment(self, site: Path) -> None:
        text = "# @package _global_\ndefaults:\n  - override /task: regression\n  - override /env: cluster\n"
        write(site, "mine", text, "experiment")
        recipe = of(site, "experiment=mine")
        assert recipe.env.runs == str(site.parent / "scratch") and recipe.launcher.retries == 5
        assert of(site, "experiment=mine", "launcher.retries=1").launcher.retries == 1

    def test_none_is_the_packaged_one(self) -> None:
        env = of(None).env
        assert (env.name, env.runs, env.data, env.cache) == ("local", None, None, None)
        assert of(None, "env=local").env == env

    def test_without_a_name_it_is_written_out(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("env: {name: of_a_colleague, runs: /there}\n")  # as --print-config writes it
        assert of(None, file=file).env.runs == "/there"
        assert of(None, "env=local", file=file).env.runs is None
        assert of(None, "env.runs=/here", file=file).env.name == "of_a_colleague"

    @pytest.mark.parametrize("text", ["env=clutser", "env.name=clutser"])
    def test_an_unknown_one_lists_the_known_ones(self, text: str, site: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            of(site, text)
        assert str(caught.value) == "`env` is 'clutser'; use one of: cluster, local, other; did you mean 'cluster'?"
        file = site / "mine.yaml"
        file.write_text("env: {name: clutser}")
        with pytest.raises(ConfigError, match="--config-dir names the directory of your own"):
            of(None, file=file)

    def test_a_key_it_does_not_have(self, site: Path) -> None:
        write(site, "wrong", "rusn: /scratch\nlauncher: [slurm]\n")
        with pytest.raises(ConfigError) as caught:
            of(site, "env=wrong")
        assert sorted(line.split("`")[1] for line in caught.value.problems) == ["env.launcher", "env.rusn"]
        assert "did you mean `env.runs`?" in str(caught.value)

    def test_an_empty_one(self, site: Path) -> None:
        write(site, "bare", "")
        assert of(site, "env=bare").env.name == "bare"


class TestLauncher:
    @pytest.mark.parametrize(
        ("overrides", "wanted"),
        [
            ((), ("inline", 5)),
            (("launcher.retries=0",), ("inline", 0)),
            (("launcher=inline",), ("inline", 5)),
            (("launcher=local",), ("local", 2)),  # another launcher starts afresh
            (("launcher=local", "launcher.retries=1"), ("local", 1)),
        ],
    )
    def test_defaults_lie_below_what_is_said(
        self, overrides: tuple[str, ...], wanted: tuple[str, int], site: Path
    ) -> None:
        launcher = of(site, *overrides, "env=cluster").launcher
        assert (launcher.name, launcher.retries) == wanted

    def test_and_below_a_config_file(self, site: Path) -> None:
        file = site / "mine.yaml"
        file.write_text("env: cluster\nlauncher: {workers: 1}\n")
        launcher = of(site, file=file).launcher
        assert (launcher.name, launcher.workers, launcher.retries) == ("inline", 1, 5)

    @pytest.mark.parametrize("text", ["launcher: local", "launcher: {name: local}"])
    def test_and_below_an_experiment(self, text: str, site: Path) -> None:
        write(site, "mine", f"# @package _global_\ndefaults:\n  - override /task: regression\n{text}\n", "experiment")
        launcher = of(site, "experiment=mine", "env=cluster").launcher
        assert (launcher.name, launcher.retries) == ("local", 2)

    def test_a_name_alone(self, site: Path) -> None:
        write(site, "bare", "launcher: inline\n")
        assert of(site, "env=bare", "launcher.workers=1").launcher.name == "inline"


class TestDirectories:
    def test_the_runs_root_is_the_sites_unless_another_is_given(
        self, site: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = site.parent
        recipe = of(site, *TINY, "env=cluster", "train.epochs=0")
        assert Path(run(recipe).run or "").parents[1] == root / "scratch"
        assert Path(run(recipe, out=root / "given").run or "").parents[1] == root / "given"
        monkeypatch.setenv("LOOPWRIGHT_RUNS", str(root / "set"))
        assert Path(run(recipe).run or "").parents[1] == root / "set"

    def test_of_the_command(self, site: Path) -> None:
        ended = command("train", *TINY, "train.epochs=0", "env=cluster", "--config-dir", site, "--json")
        assert ended.code == 0 and ended.run.parents[1] == site.parent / "scratch"

    def test_relative_data_are_below_the_sites_unless_they_are_here(self, site: Path) -> None:
        root = site.parent
        path = of(site, *OWN_DATA, "env=cluster").task.data.path
        assert path == str(root / "data" / "mine.csv")
        assert of(site, *OWN_DATA, "env=other").task.data.path == str(root / "here" / "mine.csv")
        Path("mine.csv").write_text(CSV)
        assert of(site, *OWN_DATA, "env=cluster").task.data.path == str(root / "here" / "mine.csv")
        assert of(site, *OWN_DATA, "env=cluster", "task.data.path=/a/b.csv").task.data.path == "/a/b.csv"

    def test_its_own_directories_are_never_below_its_data(self, site: Path) -> None:
        write(site, "relative", "runs: my_runs\ndata: my_data\ncache: ~/my_cache\n")
        env, here = of(site, "env=relative").env, site.parent / "here"
        assert (env.runs, env.data) == (str(here / "my_runs"), str(here / "my_data"))
        assert env.cache == str(Path("~/my_cache").expanduser())

    def test_a_resumed_run_keeps_its_data(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = site.parent
        (root / "data").mkdir()
        (root / "data" / "mine.csv").write_text(CSV)
        recipe = of(site, *OWN_DATA, "env=cluster", "train.epochs=1", "plots=none", "record.code=false")
        first = run(recipe)
        elsewhere = root / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        (elsewhere / "mine.csv").write_text("x,y\n1,2\n")
        again = compose(base=plain(recipe)).recipe  # without the directory of groups
        assert again == recipe and again.task.data.path == str(root / "data" / "mine.csv")
        child = resume_run(Path(first.run or ""), overrides=["train.epochs=2"])
        assert child.epochs == 2 and Path(child.run or "").parents[1] == root / "scratch"

    def test_the_cache_is_the_sites_unless_another_is_set(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = site.parent
        recipe = of(site, "experiment=regex_a_plus", "env=cluster", "train.epochs=0")
        seen: list[Path] = []
        task = type(recipe.task)
        real = task.build

        def building(self: Any, *args: Any, **more: Any) -> Any:
            seen.append(cache.folder("anything"))
            return real(self, *args, **more)

        monkeypatch.setattr(task, "build", building)
        monkeypatch.delenv("LOOPWRIGHT_CACHE")
        build(recipe, resolve_device("cpu"))
        monkeypatch.setenv("LOOPWRIGHT_CACHE", str(root / "set"))
        build(recipe, resolve_device("cpu"))
        assert seen == [root / "cache" / "anything", root / "set" / "anything"]


def test_it_is_no_part_of_a_runs_identity(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipes = [of(site, *TINY, *more) for more in ((), ("env=cluster",), ("env=cluster", "launcher=local"))]
    assert len({recipe_id(recipe, "data") for recipe in recipes}) == 1
    assert len({Point(recipe).key for recipe in recipes}) == 1
    root = site.parent / "shared"
    first = run(recipes[0], out=root, resume=True)
    with caplog.at_level(logging.INFO):
        assert run(recipes[1], out=root, resume=True).run == first.run
    assert len(list((root / "self_test").iterdir())) == 1
    Run.open(Path(first.run or "")).close()  # nobody holds it


def test_a_launcher_for_one_training_is_refused(site: Path) -> None:
    ended = command("train", *TINY, "launcher=inline", "--out", site)
    assert ended.code == 2 and "-m" in ended.errors[0] and "launcher=inline" in ended.errors[0]
    assert not (site / "self_test").exists()
