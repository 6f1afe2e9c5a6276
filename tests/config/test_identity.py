"""A run's identity: what shapes the trajectory changes it, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from loopwright import compose
from loopwright.building import build
from loopwright.config.identity import differing_keys, recipe_id, run_id, shapes_trajectory, trajectory
from loopwright.config.keys import walk
from loopwright.config.registry import names
from loopwright.config.schema import Recipe, parse, plain

CPU = torch.device("cpu")


def identity(*overrides: str) -> str:
    return recipe_id(compose(*overrides), "data")


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "plots=none",
        "seed=7",
        "seeds=[1,2,3]",
        "record.save=false",
        "record.checkpoint_every=5 steps",
        "record.keep_last=9",
        "record.steps_every=0",
        "record.grad_norm=true",
        "record.console_every=0",
        "record.code=false",
        "record.max_gb=1",
        "hooks.timing_probe=null",
        "hooks.timing_probe.minutes=1",
        "stop.budget=20 min",
    ],
)
def test_what_does_not_shape_the_trajectory_keeps_the_identity(override: str) -> None:
    assert identity(override) == identity()


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "threads=2",
        "deterministic=false",
        "task.loss=l1",
        "task.shuffle=false",
        "task.data.seed=1",
        "task.data=wave",
        "model.dropout=0.2",
        "optim.lr=0.002",
        "optim=sgd",
        "schedule=cosine",
        "train.epochs=61",
        "train.clip_norm=1",
        "train.accumulate=2",
        "train.validate_every=2 epochs",
        "train.overfit=8",
        "stop.monitor=mae",
        "stop.mode=max",
        "stop.patience=3",
        "stop.min_delta=0.1",
        "stop.min_delta_mode=relative",
        "stop.gate={loss: 0.1}",
        "stop.hold=2",
    ],
)
def test_what_shapes_the_trajectory_changes_the_identity(override: str) -> None:
    assert identity(override) != identity()


def test_only_these_keys_are_not_of_the_trajectory() -> None:
    """A literal: a key added to the schema is of the trajectory unless it is listed here on purpose."""
    trees = [{"task": {"name": "regression", "data": {"name": data}}} for data in names("task/data")]
    trees += [{"task": {"name": name}} for name in names("task")]
    found = {key for tree in trees for key, field, _ in walk(Recipe, tree) if not shapes_trajectory(field)}
    inside = {key for key in found if key.rpartition(".")[0] in found}
    assert found - inside == {
        "name",
        "seeds",
        "record",
        "hooks",
        "plots",
        "trackers",
        "launcher",
        "env",
        "stop.budget",
        "task.data.path",
        # Of a training from Python, whose arguments are identified by their content.
        "task.model",
        "task.initial_sha256",
        "task.loss",
        "task.whole_split_gib",
    }


def test_every_way_to_write_a_recipe_has_one_identity(tmp_path: Path) -> None:
    recipe = compose()
    assert recipe_id(parse(plain(recipe)), "data") == identity()  # every default written out
    assert (
        identity("train.validate_every=1 epochs", "optim.lr=1e-3", "schedule=constant", "train.overfit=0") == identity()
    )
    assert identity("optim.lr=0.001", "threads=1") == identity("optim.eps=1e-8")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(plain(recipe)))
    assert recipe_id(compose(file=file), "data") == identity()
    assert identity("task=regression", "model={name: mlp}") == identity("task={name: regression}")


def test_the_seed_is_beside_the_identity() -> None:
    assert "seed" not in trajectory(compose("seed=7"))
    assert run_id(identity("seed=7"), 7) == f"{identity()}-s7"
    assert len(identity()) == 10 and int(identity(), 16) >= 0


def test_data_enter_by_content_and_not_by_path(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{(7 * i) % 11},{i % 3}" for i in range(40))
    one, copy, other = (tmp_path / name for name in ("one.csv", "copy.csv", "other.csv"))
    one.write_text(f"a,b,y\n{rows}\n")
    copy.write_text(f"a,b,y\n{rows}\n")
    other.write_text(f"a,b,y\n{rows}\n1,1,1\n")

    def of(path: Path) -> str:
        return build(compose("task.data=csv", f"task.data.path={path}", "task.data.target=y"), CPU).recipe_id

    assert of(one) == of(copy) != of(other)


def test_differing_keys_are_named_with_both_values() -> None:
    lines = differing_keys(plain(compose()), plain(compose("optim=sgd", "train.epochs=3")))
    assert "train.epochs: 60 -> 3" in lines and "optim.name: 'adamw' -> 'sgd'" in lines
    assert differing_keys(plain(compose()), plain(compose())) == []
