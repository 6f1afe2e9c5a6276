"""`verify A B`: the first divergence of two runs, from their records alone and, with `--rerun`, down to the tensor."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopwright import RunError, verify
from loopwright.experiment import run
from loopwright.proof.verdict import Verdict
from support.cli import command, train
from support.interruptions import Signal
from support.sabotage import ALLOWED, MoveOneWeight, recorded
from support.tasks import recipe


def pair(left: Path, right: Path, *, rerun: bool = False) -> Verdict:
    return verify(left, right, rerun=rerun, allow_import=ALLOWED)


def test_two_runs_of_one_recipe(tmp_path: Path) -> None:
    a, b = train(tmp_path / "a").run, train(tmp_path / "b").run
    ended = command("verify", a, b, "--json")
    assert ended.code == 0 and ended.out.startswith("identical, 10 steps (and 2 rows of metrics, 2 times the weights)")
    assert ended.json["kind"] == "compare" and ended.json["causes"] == []
    assert not (a / "proof.json").exists() and not (b / "proof.json").exists()


@pytest.mark.parametrize(
    ("other", "what", "cause"),
    [
        ({"seed": 4}, "loss", "recipe: seed: 3 -> 4"),
        ({"optim": {"name": "adam", "lr": 0.06}}, "lr", "recipe: optim.lr: 0.05 -> 0.06"),
        ({"train": {"batch_size": 5}}, "loss", "recipe: train.batch_size: 4 -> 5"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, other: dict[str, object], what: str, cause: str) -> None:
    a, b = recorded(tmp_path / "a"), recorded(tmp_path / "b", **other)
    found = pair(a, b)
    assert found.exit_code == 3 and found.divergence is not None
    assert (found.divergence.step, found.divergence.what) == (1, what)
    assert cause in found.causes
    assert f" in {a.name} and " in "\n".join(found.lines())


def test_keys_that_do_not_shape_the_trajectory_are_no_cause(tmp_path: Path) -> None:
    """Steps and norms that one of them was not asked to record are not compared."""
    a = recorded(tmp_path / "a", name="one")
    b = recorded(
        tmp_path / "b", name="two", record={"grad_norm": True, "steps_every": 4, "checkpoint_every": "1 steps"}
    )
    found = pair(a, b)
    assert found.identical and found.causes == () and (found.num_steps, found.num_rows) == (4, 3)
    none = recorded(tmp_path / "c", record={"steps_every": 0})
    assert (pair(a, none).num_steps, pair(a, none).num_rows) == (0, 3)


def test_one_that_went_further(tmp_path: Path) -> None:
    a, b = recorded(tmp_path / "a"), recorded(tmp_path / "b", train={"epochs": 4})
    found = pair(a, b)
    assert found.num_steps == 18 and found.divergence is not None
    assert (found.divergence.step, found.divergence.what) == (18, "the test")
    assert "recipe: train.epochs: 3 -> 4" in found.causes
    cut = Path(run(recipe(), out=tmp_path / "c", hooks=[Signal(8)]).run or "")
    found = pair(cut, a)
    assert found.num_steps == 8 and found.divergence is not None
    assert found.divergence.between("A", "B") == (
        "step 9 (epoch 2): its row of steps.csv is missing in A and there in B"
    )


def test_records_that_say_nothing(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a", train={"epochs": 0})
    b = recorded(tmp_path / "b", train={"epochs": 0})
    with pytest.raises(RunError, match="nothing to compare"):
        pair(a, b)
    with pytest.raises(RunError, match="are one run"):
        pair(a, a / "checkpoints" / "..")


@pytest.mark.parametrize(
    ("other", "where", "names"),
    [
        ({"seed": 4}, "the weights before the first step", ("into.weight",)),
        ({"train": {"batch_size": 5}}, "the batch of step 1", ("item 0", "item 1")),
        ({"optim": {"name": "adam", "lr": 0.06}}, "the weights after step 1", ("into.weight", "out.weight")),
        ({"train": {"clip_norm": 0.1}}, "the gradient of step 1", ("into.weight", "out.weight")),
    ],
)
def test_rerun_names_the_first_tensor(
    tmp_path: Path, other: dict[str, object], where: str, names: tuple[str, ...]
) -> None:
    a, b = recorded(tmp_path / "a"), recorded(tmp_path / "b", **other)
    found = pair(a, b, rerun=True)
    assert found.kind == "rerun" and found.exit_code == 3
    assert found.tensors is not None and found.tensors.where == where
    assert set(names) <= set(found.tensors.names)
    assert found.notes == ()


def test_rerun_of_other_data_finds_the_batch(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a", "Plain")
    b = recorded(tmp_path / "b", "OneTargetMoved")
    found = pair(a, b, rerun=True)
    assert found.tensors is not None and found.divergence is not None
    assert found.tensors.names == ("item 1",) and found.tensors.step == found.divergence.step
    assert found.tensors.where == f"the batch of step {found.tensors.step}"


@pytest.mark.parametrize("task", ["Noisy", "Gan"])
def test_rerun_of_what_no_recipe_can_repeat(tmp_path: Path, task: str) -> None:
    """The sabotage is in neither recipe: both replays agree, and the run that does not repeat its record is named."""
    tensor = {"Noisy": "into.weight", "Gan": "critic.0.weight"}[task]
    a = recorded(tmp_path / "a", task, train={"clip_norm": 1.0})
    b = recorded(tmp_path / "b", task, hooks=(MoveOneWeight(7, tensor, by=0.1),), train={"clip_norm": 1.0})
    found = pair(a, b, rerun=True)
    assert found.divergence is not None and found.divergence.step == 8 and found.tensors is None
    assert found.causes == () and "agree up to step" in found.notes[-1]
    assert found.notes[0].startswith(f"{b.name} does not repeat its own record: step 8 ")


def test_rerun_from_the_command(tmp_path: Path) -> None:
    a, b = train(tmp_path / "a").run, train(tmp_path / "b", "train.accumulate=2").run
    ended = command("verify", a, b, "--rerun", "--json")
    assert ended.code == 3, ended.err
    assert ended.json["kind"] == "rerun" and ended.json["tensors"]["step"] == 1
    assert "first tensors: the batch of step 1: " in ended.out
    assert "  recipe: train.accumulate: 1 -> 2\n" in ended.out
