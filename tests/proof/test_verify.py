"""`verify RUN`: a run replays to its own bits, whatever it went through; the proof is added and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright import Hook, RunError, resume, verify
from loopwright.errors import ConfigError, LockError
from loopwright.experiment import run
from loopwright.proof import kill
from loopwright.proof.verdict import Verdict
from loopwright.record.run import Run
from support.cli import command, train
from support.interruptions import Fail, Signal, Stopped
from support.sabotage import ALLOWED, recorded
from support.tasks import recipe

# Public: tools read it. A new key is added here and in docs/reference/run-directory.md.
PROOF = {
    "verified_at",
    "kind",
    "identical",
    "steps",
    "rows",
    "weights",
    "checkpoints",
    "first_step",
    "last_step",
    "divergence",
    "tensors",
    "causes",
    "notes",
    "kills",
    "kills_in_saves",
    "failure",
    "elapsed_seconds",
    "python",
    "torch",
    "loopwright",
    "host",
    "cpu",
}


def hashes(run_dir: Path) -> dict[str, str]:
    files = (path for path in run_dir.rglob("*") if path.is_file() and path.name != "proof.json")
    return {str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def proofs(run_dir: Path) -> list[dict[str, Any]]:
    read: list[dict[str, Any]] = json.loads((run_dir / "proof.json").read_text())["proofs"]
    return read


def again(run_dir: Path) -> Verdict:
    return verify(run_dir, allow_import=ALLOWED)


@pytest.mark.parametrize("task", ["Noisy", "Plain", "Gan", "Ema", "Parameterless"])
def test_every_kind_of_task_replays(tmp_path: Path, task: str) -> None:
    found = again(recorded(tmp_path, task, train={"clip_norm": 1.0}))
    assert found.identical and found.exit_code == 0 and found.kind == "replay"
    assert (found.num_steps, found.num_rows, found.num_weights) == (18, 3, 3) and found.num_checkpoints >= 1
    assert next(found.lines()).startswith("identical, 18 steps (and 3 rows of metrics, 3 times the weights, ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("experiment=gru_baseline", "task.data.synthetic.rows=80", "task.data.window=7", "model.hidden=4"),
        ("experiment=frequency_baseline", "task.data.synthetic.rows=80"),
        ("experiment=self_test", "schedule=plateau", "train.accumulate=3", "train.overfit=20"),
        ("experiment=regression_wave", "train.validate_every=3 steps", "record.steps_every=2"),
    ],
)
def test_shipped_experiments_replay(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    common = ("train.epochs=3", "plots=none", "record.code=false", "--out", tmp_path, "--json")
    ended = command("train", *arguments, *common)
    assert ended.code == 0, ended.err
    found = command("verify", ended.run, "--json")
    assert found.code == 0 and found.json["identical"] is True and found.json["rows"] >= 3, found.out


def test_identical_twice_and_nothing_else_is_touched(tmp_path: Path) -> None:
    run_dir = train(tmp_path, "record.checkpoint_every=3 steps").run
    before = hashes(run_dir)
    for times in (1, 2):
        found = command("verify", run_dir, "--json")
        assert found.code == 0, found.err
        assert found.out.splitlines()[0] == (
            "identical, 10 steps (and 2 rows of metrics, 2 times the weights, 3 checkpoints tensor by tensor)"
        )
        assert len(proofs(run_dir)) == times and set(proofs(run_dir)[-1]) == PROOF
        assert {k: v for k, v in found.json.items() if k in PROOF}.items() <= proofs(run_dir)[-1].items()
    assert hashes(run_dir) == before
    first, second = ({k: v for k, v in p.items() if not k.endswith(("_at", "_seconds"))} for p in proofs(run_dir))
    assert first == second and first["identical"] is True and first["torch"] == torch.__version__
    assert not [path for path in run_dir.iterdir() if path.name.startswith(".")]


def test_a_failed_proof_is_kept_as_well(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    config = (run_dir / "config.yaml").read_text()
    (run_dir / "config.yaml").write_text(config.replace("lr: 0.01", "lr: 0.02"))
    assert config != (run_dir / "config.yaml").read_text()
    assert command("verify", run_dir).code == 3
    (run_dir / "config.yaml").write_text(config)
    assert command("verify", run_dir).code == 0
    assert [proof["identical"] for proof in proofs(run_dir)] == [False, True]
    assert proofs(run_dir)[0]["divergence"]["step"] == 1


def test_a_run_that_was_interrupted_and_resumed_twice(tmp_path: Path) -> None:
    for steps in (4, 11):
        interrupted = run(recipe(), out=tmp_path, resume=True, hooks=[Signal(steps)])
    assert interrupted.status == "interrupted"
    run_dir = Path(interrupted.run or "")
    partly = again(run_dir)
    assert partly.identical and (partly.num_steps, partly.num_rows, partly.last_step) == (11, 1, 11)
    assert partly.notes == ("the run is interrupted: it is verified up to step 11, the last one it recorded",)
    finished = run(recipe(), out=tmp_path, resume=True)
    assert finished.run == interrupted.run
    whole = again(run_dir)
    assert whole.identical and (whole.num_steps, whole.num_rows) == (18, 3) and whole.notes == ()
    assert [(proof["identical"], proof["last_step"]) for proof in proofs(run_dir)] == [(True, 11), (True, 18)]


@pytest.mark.parametrize("step", [6, 7, 12])
def test_an_interruption_is_verified_to_its_step(tmp_path: Path, step: int) -> None:
    run_dir = Path(run(recipe(), out=tmp_path, hooks=[Signal(step)]).run or "")
    found = again(run_dir)
    assert found.identical and (found.num_steps, found.num_rows) == (step, step // 6)
    assert found.num_checkpoints >= 1


@pytest.mark.parametrize("event", [("on_epoch_start", 3), ("on_validation_end", 2), ("on_step_end", 9)])
def test_a_run_that_failed(tmp_path: Path, event: tuple[str, int]) -> None:
    with pytest.raises(Stopped):
        run(recipe(), out=tmp_path, hooks=[Fail(*event)])
    (run_dir,) = tmp_path.glob("*/2*")
    found = again(run_dir)
    assert found.identical and found.num_steps >= 6 and "the run is failed" in found.notes[0]


def test_a_killed_run_with_torn_lines(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    (run_dir / "result.json").unlink()
    for name, kept in (("steps.csv", 15), ("metrics.csv", 3), ("events.jsonl", 8)):
        lines = (run_dir / name).read_text().splitlines(keepends=True)
        (run_dir / name).write_text("".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])
    shutil.rmtree(run_dir / "checkpoints")
    found = again(run_dir)
    assert found.identical and (found.num_steps, found.num_rows, found.num_checkpoints) == (14, 2, 0)
    assert found.notes == ("the run is unfinished: it is verified up to step 14, the last one it recorded",)


@pytest.mark.parametrize("budget", ["7 steps", "2 epochs", "1 h"])
def test_budgets(tmp_path: Path, budget: str) -> None:
    found = again(recorded(tmp_path, stop={"budget": budget}))
    assert found.identical and found.num_steps == {"7 steps": 7, "2 epochs": 12, "1 h": 18}[budget]


class Clock(Hook):
    """Lets an hour pass after a step."""

    def __init__(self, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.monkeypatch = step, monkeypatch

    def on_step_end(self, info: Any) -> None:
        if info.step == self.step:
            self.monkeypatch.setattr("loopwright.clock.monotonic", lambda: 1e9)


@pytest.mark.parametrize("step", [6, 9])
def test_a_budget_of_time_is_replayed_by_its_steps(tmp_path: Path, step: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        run_dir = recorded(tmp_path, hooks=(Clock(step, patch),), stop={"budget": "1 h"})
    assert json.loads((run_dir / "result.json").read_text())["status"] == "budget_reached"
    found = again(run_dir)
    assert found.identical and (found.num_steps, found.last_step) == (step, step) and found.causes == ()


def test_a_diverged_run(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path, "Plain", optim={"name": "sgd", "lr": 1e12}, train={"epochs": 9})
    assert json.loads((run_dir / "result.json").read_text())["status"] == "diverged"
    found = again(run_dir)
    assert found.identical and found.num_steps >= 1


def test_patience_and_gate(tmp_path: Path) -> None:
    assert again(recorded(tmp_path / "a", optim={"name": "adam", "lr": 1e-9}, stop={"patience": 1})).identical
    assert again(recorded(tmp_path / "b", stop={"gate": {"loss": 1e9}})).num_steps == 6


@pytest.mark.parametrize(
    ("task", "lr", "best"),
    [
        (
            "Plain",
            0.01,
            5,
        ),  # steps this short lead no weight past its target: every epoch is better than the one before
        ("Plain", 100.0, 3),  # steps this long make everything worse, so the parent's last epoch stays the best
        ("Noisy", 0.05, None),  # whichever it is
    ],
)
def test_a_child_is_replayed_from_its_parents_checkpoint(
    tmp_path: Path, task: str, lr: float, best: int | None
) -> None:
    parent = recorded(tmp_path, task, optim={"name": "adam", "lr": 0.05 if best is None else 0.01})
    outcome = resume(parent, "train.epochs=5", f"optim.lr={lr}", allow_import=ALLOWED)
    child = Path(outcome.run or "")
    assert outcome.best is not None and best in (outcome.best["epoch"], None)
    found = again(child)
    assert found.identical
    assert (found.num_steps, found.num_rows, found.first_step, found.last_step) == (12, 2, 19, 30)
    assert f"those of {parent.resolve()}" in found.notes[0]
    grandchild = Path(resume(child, "train.epochs=6", "optim.lr=0.02", allow_import=ALLOWED).run or "")
    shutil.rmtree(parent)
    assert again(grandchild).num_steps == 6
    if outcome.best["epoch"] == 3:
        # The checkpoint it began from holds its best weights: it has a copy of its own, and needs its parent no longer.
        assert again(child).identical
    else:
        gone = r"a child of .* began from its checkpoint of step 18, which is no longer there"
        with pytest.raises(RunError, match=gone):
            again(child)


def test_a_run_in_use_is_not_verified(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    held = Run.open(run_dir)
    try:
        with pytest.raises(LockError, match="is being worked on"):
            again(run_dir)
    finally:
        held.close()
    assert again(run_dir).identical


def test_ctrl_c_is_no_verdict(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        verify(run_dir, allow_import=ALLOWED, hooks=[Signal(5)])
    assert not (run_dir / "proof.json").exists()


def test_what_is_trained_is_kept_where_it_is_asked_for(tmp_path: Path) -> None:
    run_dir = train(tmp_path / "runs").run
    ended = command("verify", run_dir, "--keep", tmp_path / "kept")
    assert ended.code == 0
    (kept,) = (tmp_path / "kept").glob("self_test/2*")
    assert (kept / "steps.csv").read_text() == (run_dir / "steps.csv").read_text()


def test_a_damaged_checkpoint_or_proof_is_named(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    (file,) = (run_dir / "checkpoints").glob("step_*.pt")
    file.write_bytes(file.read_bytes()[:-9])
    ended = command("verify", run_dir)
    assert ended.code == 0 and "not compared" in ended.err and "tensor by tensor" not in ended.out
    (run_dir / "proof.json").write_text('{"proofs": 3}')
    ended = command("verify", run_dir)
    assert ended.code == 2 and "proof.json is damaged" in ended.errors[0]
    (run_dir / "proof.json").unlink()
    (run_dir / "steps.csv").write_text("step,epoch,loss,lr\nx,1,0.5,0.1\n")
    ended = command("verify", run_dir)
    assert ended.code == 2 and "the tables or events of" in ended.errors[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("last", "--rerun"), "--rerun compares two runs"),
        (("last", "last", "--kill", "2"), "--kill is for one run"),
        (("last", "last", "--keep", "x"), "add --rerun"),
        (("last", "last"), "are one run"),
        (("none",), "'none' is no run"),
        (("last", "--kill", "0"), "is not in the range"),
    ],
)
def test_wrong_use(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    train(tmp_path)
    ended = command("verify", *arguments, "--out", tmp_path)
    assert ended.code == 2 and len(ended.errors) == 1 and said in ended.errors[0]


def test_wrong_use_from_python(tmp_path: Path) -> None:
    run_dir = recorded(tmp_path)
    for options, said in (
        ({"rerun": True}, "`rerun` compares two"),
        ({"other": run_dir, "kill": 1}, "`kill` is for one run"),
        ({"epochs": 3}, "got epochs without a model"),
    ):
        with pytest.raises(ConfigError, match=said):
            verify(run_dir, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("run_id", "../../elsewhere", 0),
        ("run_id", "a\0b", 0),
        ("device", {"x": 1}, 0),
        ("parent", 3, 2),
        ("parent", "/etc", 2),
        ("source_sha256", [1], 2),
        ("numerics", {"cpu": 4}, 2),
    ],
)
def test_an_environment_that_no_run_would_write(tmp_path: Path, key: str, value: Any, code: int) -> None:
    run_dir = train(tmp_path / "runs").run
    facts = json.loads((run_dir / "environment.json").read_text())
    (run_dir / "environment.json").write_text(json.dumps({**facts, key: value}))
    ended = command("verify", run_dir)
    assert ended.code == code and len(ended.errors) == (code == 2), ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_missing_environment_is_said(tmp_path: Path) -> None:
    run_dir = train(tmp_path).run
    (run_dir / "environment.json").unlink()
    ended = command("verify", run_dir)
    assert ended.code == 0 and "  environment.json is missing, so nothing is known of data" in ended.out


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("events.jsonl", '{"row": {"step": [], "epoch": 1}, "weights_sha256": "x"}'),
        ("events.jsonl", '{"row": {"step": 1e999, "epoch": 1}, "weights_sha256": "x"}'),
        ("events.jsonl", '{"row": {}, "weights_sha256": "x"}'),
        ("events.jsonl", "{"),
        ("steps.csv", "1e5,1,1,1"),
        ("steps.csv", "11,2,0.5"),
        ("steps.csv", "-4,2,0.5,0.1"),
        ("steps.csv", "\0"),
        ("steps.csv", "a" * 200_000),
        ("metrics.csv", "1,2"),
    ],
)
def test_tables_that_no_run_would_write(tmp_path: Path, name: str, line: str) -> None:
    run_dir = train(tmp_path).run
    with (run_dir / name).open("a") as file:
        file.write(line + "\n")
    ended = command("verify", run_dir)
    assert ended.code == 2 and len(ended.errors) == 1 and "the tables or events of" in ended.errors[0], ended.err


def test_processes_that_are_killed_take_no_module_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue", "random", "types", "torch", "loopwright"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name} of the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}nowhere")  # the empty part stands for the current folder
    attempt = kill._Killed(tmp_path / "none")
    assert kill._finish(attempt, kill._command((), None)) == 2  # there is no such run, and it can say so
    assert "is no run" in (tmp_path / "none.log").read_text()
