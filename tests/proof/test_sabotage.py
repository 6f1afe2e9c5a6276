"""`verify RUN` against sabotage: whatever was done to the recorded run or to what it is made of is named with its step."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopwright import RunError, verify
from loopwright.building import learning_rate
from loopwright.config.schema import parse
from loopwright.engine.compute import computing
from loopwright.experiment import run
from loopwright.proof.recorded import recorded_run
from loopwright.record.checkpoint import content
from loopwright.record.files import sha256
from loopwright.record.index import Index
from support.cli import command, train
from support.compare import timeless
from support.sabotage import ALLOWED, MoveOneWeight, edit_row, nudge, recorded

STEPS_PER_EPOCH = 6


@pytest.mark.parametrize("step", [1, 5, 6, 17])
def test_one_weight_moved_by_one_ulp(tmp_path: Path, step: int) -> None:
    """The tensor is named where a checkpoint saw it, and the first number of the record that is another, where one is:
    later steps may round the move away, but not before the hash of the weights at the end of an epoch that it ends."""
    every_step = {"record": {"checkpoint_every": "1 steps", "keep_last": 99}}
    run_dir = recorded(tmp_path / "moved", hooks=(MoveOneWeight(step, "into.weight"),), **every_step)
    first = first_step_that_differs(recorded(tmp_path / "not moved", **every_step), run_dir)
    found = verify(run_dir, allow_import=ALLOWED)
    assert not found.identical and found.exit_code == 3
    assert found.tensors is not None
    assert (found.tensors.step, found.tensors.names) == (step, ("into.weight",))
    assert first is not None or step % STEPS_PER_EPOCH
    assert (found.divergence.step if found.divergence else None) == first
    assert found.divergence is None or found.divergence.what in ("loss", "largest", "weights", "train_loss", "val_loss")
    assert found.causes == ()
    assert "no cause is visible" in "\n".join(found.lines())


def first_step_that_differs(left: Path, right: Path) -> int | None:
    """The first step of which the tables of two runs, or the hashes of their weights, say different things."""

    def facts(run_dir: Path) -> dict[tuple[str, int], object]:
        found: dict[tuple[str, int], object] = {}
        for name in ("steps.csv", "metrics.csv"):
            with (run_dir / name).open(newline="") as file:
                found |= {(name, int(row["step"])): timeless(row) for row in csv.DictReader(file)}
        for line in (run_dir / "events.jsonl").read_text().splitlines():
            event = json.loads(line)
            if "weights_sha256" in event and "row" in event:
                found["weights", int(event["row"]["step"])] = event["weights_sha256"]
        return found

    one, other = facts(left), facts(right)
    assert one.keys() == other.keys() and any(name == "weights" for name, _ in one)
    return min((key[1] for key in one if one[key] != other[key]), default=None)


def test_one_weight_moved_is_seen_without_a_checkpoint_near(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path, hooks=(MoveOneWeight(8, "out.bias", by=0.1),))
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None and found.divergence.step == 9
    assert found.tensors is not None and found.tensors.step == 18 and "out.bias" in found.tensors.names


@pytest.mark.parametrize("step", [1, 4, 7])
def test_learning_rate_changed_from_a_step_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    def sabotaged(*arguments: Any, **options: Any) -> Callable[[Any], float]:
        rate = learning_rate(*arguments, **options)
        return lambda state: rate(state) * (2 if state.step + 1 >= step else 1)

    with monkeypatch.context() as patch:
        patch.setattr("loopwright.building.learning_rate", sabotaged)
        run_dir = recorded(tmp_path)
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.what) == (step, "lr")
    assert (found.divergence.left, found.divergence.right) == ("0.1", "0.05")


def test_another_thread_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded with two threads where the recipe says one: other bits from the first step on, and the cause is named."""
    with monkeypatch.context() as patch:
        patch.setattr("loopwright.experiment.computing", lambda device, threads, sure: computing(device, 2, sure))
        run_dir = recorded(tmp_path, "ManyAdditions")
    assert json.loads((run_dir / "environment.json").read_text())["numerics"]["threads"] == 2
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None and found.divergence.what == "loss" and found.divergence.step <= 3
    assert any(line.startswith("threads: recorded 2, now 1") for line in found.causes)


def table(path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((60, 3))
    lines = ["a,b,y", *(",".join(repr(float(v)) for v in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def test_one_data_row_changed(tmp_path: Path) -> None:
    """The step is the first whose batch has the row."""
    table(tmp_path / "data.csv")
    tree = {
        "task": {
            "name": "regression",
            "data": {"name": "csv", "path": str(tmp_path / "data.csv"), "target": "y", "standardize": False},
        },
        "train": {"epochs": 2, "batch_size": 8},
        "device": "cpu",
        "plots": "none",
        "record": {"code": False},
    }
    run_dir = Path(run(parse(tree), out=tmp_path / "runs").run or "")
    batches = recorded_run(run_dir).build_task().loader("train")
    assert batches is not None and len(batches) == 6
    x_of_step_4 = list(batches.epoch(0))[3][0][2]
    lines = (tmp_path / "data.csv").read_text().splitlines()
    (row,) = [
        number
        for number, line in enumerate(lines[1:], 1)
        if torch.equal(torch.tensor([float(v) for v in line.split(",")[:2]]), x_of_step_4)
    ]
    a, b, _ = lines[row].split(",")
    lines[row] = f"{a},{b},0.5"
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    found = verify(run_dir)
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.epoch, found.divergence.what) == (4, 1, "loss")
    assert found.causes == ("data: their content has another hash",)
    # A row that no step of the training has seen changes the data, and the validation or the test at most.
    table(tmp_path / "data.csv")
    assert verify(run_dir).identical


OWN_TASK = """
from support.tasks import Config, Plain
from loopwright import Loss


class Own(Plain):
    def losses(self, model, batch, at):
        for loss in super().losses(model, batch, at):
            yield Loss(loss.mean * {factor}, loss.count)


class OwnConfig(Config):
    task = Own
"""


def test_a_changed_source_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "own_of_verify.py"
    module.write_text(OWN_TASK.replace("{factor}", "1.0"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    arguments = ("experiment=null", "task.name=own_of_verify:OwnConfig", "train.epochs=2", "train.batch_size=4")
    ended = command("train", *arguments, "plots=none", "--out", tmp_path / "runs", "--json")
    assert ended.code == 0, ended.err

    def imported_afresh() -> None:
        sys.modules.pop("own_of_verify", None)
        importlib.invalidate_caches()

    imported_afresh()
    refused = command("verify", ended.run)
    assert refused.code == 2 and "--allow-import own_of_verify" in refused.errors[0]
    same = command("verify", ended.run, "--allow-import", "own_of_verify", "--allow-import", "support")
    assert same.code == 0 and same.out.startswith("identical, 12 steps"), same.err
    module.write_text(OWN_TASK.replace("{factor}", "(1.0 if at.step < 9 else 1.5)"))
    imported_afresh()
    changed = command("verify", ended.run, "--allow-import", "own_of_verify", "--json")
    assert changed.code == 3, changed.err
    assert "first divergence: step 9 (epoch 2): loss is " in changed.out
    assert f"  code: {module.resolve()}\n" in changed.out
    assert changed.json["divergence"]["step"] == 9 and changed.json["identical"] is False
    sys.modules.pop("own_of_verify", None)


@pytest.mark.parametrize("name", ["grad_norm", "loss", "largest", "lr"])
def test_one_number_of_steps_csv(tmp_path: Path, name: str) -> None:
    run_dir = recorded(tmp_path, record={"grad_norm": True})
    assert verify(run_dir, allow_import=ALLOWED).identical
    edit_row(run_dir / "steps.csv", 7, lambda row: row.update({name: nudge(row[name])}))
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.epoch, found.divergence.what) == (7, 2, name)
    assert found.tensors is None


@pytest.mark.parametrize("name", ["train_loss", "val_loss", "val_within", "lr"])
def test_one_number_of_metrics_csv(tmp_path: Path, name: str) -> None:
    run_dir = recorded(tmp_path)
    edit_row(run_dir / "metrics.csv", 12, lambda row: row.update({name: nudge(row[name])}))
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None
    assert (found.divergence.step, found.divergence.epoch, found.divergence.what) == (12, 2, name)


def test_a_weights_hash_and_the_test(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    result = json.loads((run_dir / "result.json").read_text())
    events = (run_dir / "events.jsonl").read_text()
    one = json.loads(next(line for line in events.splitlines() if '"weights_sha256"' in line))["weights_sha256"]
    (run_dir / "events.jsonl").write_text(events.replace(one, "0" * 64))
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None and (found.divergence.step, found.divergence.what) == (6, "weights")
    (run_dir / "events.jsonl").write_text(events)
    for change, what in (
        ({"weights_sha256": "0" * 64}, "final weights"),
        ({"test": {**result["test"], "last": {**result["test"]["last"], "loss": 0.5}}}, "test.last.loss"),
    ):
        (run_dir / "result.json").write_text(json.dumps({**result, **change}))
        found = verify(run_dir, allow_import=ALLOWED)
        assert found.divergence is not None and (found.divergence.step, found.divergence.what) == (18, what)


def test_a_missing_row_and_a_doubled_one(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    lines = (run_dir / "steps.csv").read_text().splitlines(keepends=True)
    (run_dir / "steps.csv").write_text("".join(lines[:7] + lines[8:]))
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None
    assert str(found.divergence) == (
        "step 7 (epoch 2): its row of steps.csv is missing in the one and there in the other"
    )
    (run_dir / "steps.csv").write_text("".join(lines[:7] + lines[6:]))
    with pytest.raises(RunError, match="step 6 has two rows"):
        verify(run_dir, allow_import=ALLOWED)
    (run_dir / "steps.csv").unlink()
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is not None and found.divergence.step == 1 and found.divergence.left == "missing"


def test_a_checkpoint_with_other_weights(tmp_path: Path) -> None:
    """Committed by its hash, and yet not what the training gives: the tensor is named, the tables agree."""
    run_dir = recorded(tmp_path)
    index = Index.read(run_dir / "checkpoints")
    (entry,) = index.entries
    saved = index.load(entry)
    saved["model_state_dict"]["out.weight"][0, 0] += 1
    torch.save(saved, run_dir / "checkpoints" / entry.file)
    digest = sha256(run_dir / "checkpoints" / entry.file)
    index.entries = [replace(entry, sha256=digest, content_sha256=content(saved))]
    index.write()
    found = verify(run_dir, allow_import=ALLOWED)
    assert found.divergence is None and found.exit_code == 3
    assert found.tensors is not None and (found.tensors.step, found.tensors.names) == (18, ("out.weight",))


def test_another_recorded_recipe_is_named_by_its_key(tmp_path: Path) -> None:
    """Somebody has edited config.yaml since."""
    ended = train(tmp_path)
    config = ended.run / "config.yaml"
    config.write_text(config.read_text().replace("dropout: 0.2", "dropout: 0.3"))
    found = command("verify", ended.run)
    assert found.code == 3 and "first divergence: step 1 (epoch 1): loss is " in found.out


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    ended = train(tmp_path)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.yaml").write_text((ended.run / "config.yaml").read_text())
    nothing = command("verify", bare)
    assert nothing.code == 2 and nothing.out == ""
    assert nothing.errors == [f"there is nothing to compare: {bare} has recorded no step of its own"]
    untrained = train(tmp_path, "train.epochs=0", "name=none")
    assert "there is nothing to compare" in command("verify", untrained.run).errors[0]
    assert not (untrained.run / "proof.json").exists()


def test_code_of_loopwright_itself(tmp_path: Path) -> None:
    ended = train(tmp_path)
    facts = json.loads((ended.run / "environment.json").read_text())
    facts["source_sha256"]["loopwright/engine/steps.py"] = "0" * 16
    facts["torch"] = "1.0"
    (ended.run / "environment.json").write_text(json.dumps(facts))
    found = command("verify", ended.run)
    assert found.code == 0 and "what differs around them:" in found.out
    assert "  code: loopwright/engine/steps.py\n" in found.out
    assert f"  torch: recorded 1.0, now {torch.__version__}" in found.out
