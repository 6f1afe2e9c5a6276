"""The packaged group files: each is a registered choice, each choice has one, and each experiment trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from loopwright import compose
from loopwright.config.compose import CHOICES, PACKAGED
from loopwright.config.registry import names
from loopwright.experiment import run
from loopwright.tasks.autoencoder.write import write_events

EXPERIMENTS = sorted(path.stem for path in (PACKAGED / "experiment").glob("*.yaml"))
FILES = sorted(path for path in PACKAGED.rglob("*.yaml") if path.parent.name not in ("conf", "experiment", "sweep"))


def group_of(path: Path) -> str:
    return path.parent.relative_to(PACKAGED).as_posix()


def test_every_group_file_is_a_choice_and_every_choice_has_a_file() -> None:
    for group in CHOICES:
        files = {path.stem for path in FILES if group_of(path) == group}
        # A training from Python has parts that no file can name.
        assert files == set(names(group)) - ({"python"} if group == "task" else set()), group
    assert {group_of(path) for path in FILES} == {*CHOICES, "env"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{group_of(path)}/{path.stem}")
def test_a_group_file_holds_its_name_and_nothing_else(path: Path) -> None:
    """Defaults are in the schema, once; and a choice by name need not be composed by Hydra."""
    assert yaml.safe_load(path.read_text()) == {"name": path.stem}


def test_the_experiments_are_these() -> None:
    assert EXPERIMENTS == [
        "autoencoder_digits",
        "autoencoder_events",
        "frequency_baseline",
        "gru_baseline",
        "regex_a_plus",
        "regex_a_star_b_star",
        "regex_ab_star_c",
        "regression_diabetes",
        "regression_wave",
        "self_test",
        "spiking_mlp_baseline",
        "spiking_transformer_baseline",
        "walks_anchor",
        "walks_small",
    ]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_composes_and_runs_two_steps(name: str, tmp_path: Path) -> None:
    more: tuple[str, ...] = ()
    if name == "walks_anchor":
        more = ("task.data.num_walks=400", "task.evaluation.walks=3")
    if name == "autoencoder_events":
        write_events(tmp_path / "events.h5", 400, 0)
        more = (f"task.data.path={tmp_path / 'events.h5'}",)
    outcome = run(compose(f"experiment={name}", "record.save=false", "stop.budget=2 steps", *more))
    assert outcome.status in ("budget_reached", "completed", "gate_failed") and outcome.steps == 2
    assert outcome.last is not None and outcome.last["train_loss"] is not None
    assert outcome.value is not None
    assert (PACKAGED / "experiment" / f"{name}.yaml").read_text().splitlines()[1].startswith("# ")  # says what it is
