"""Walks through the command: a smaller graph in a second, and the shipped experiment with its margin (slow)."""

from __future__ import annotations

import csv
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright.api import compose
from loopwright.building import build
from loopwright.experiment import run
from loopwright.tasks.walks.task import WalksTask
from support.cli import Ended, command
from support.compare import assert_same
from support.interruptions import failed_at, interrupted_at

SHIPPED = ("experiment=walks_small", "plots=none", "record.code=false")
# Half the size: passes in its second epoch of 85 steps.
SMALLER = (
    *SHIPPED,
    "task.data.vertices=20",
    "task.data.blocks=2",
    "task.data.p_in=0.6",
    "task.data.p_out=0.25",
    "task.data.delays=[0.25,0.375]",
    "task.data.window=8",
    "task.data.walk_length=32",
    "task.data.num_walks=2000",
    "task.evaluation.walks=200",
    "optim.lr=0.003",
    "train.epochs=10",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        where = tmp_path_factory.mktemp("walks")
        patch.setenv("LOOPWRIGHT_CACHE", str(where / "cache"))
        yield where


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    done = command("train", *SMALLER, "--require-gate", "--out", folder / "runs", "--json")
    assert done.code == 0, done.err
    return done


def check_passed(path: Path) -> dict[str, Any]:
    """What the record of a run that passed its gate says."""
    result: dict[str, Any] = json.loads((path / "result.json").read_text())
    assert result["status"] == "gate_passed" and result["gate_passed"] is True
    last = result["last"]
    assert last["val_edge_compliance"] > 0.95 and last["val_rule_compliance"] > 0.80
    curves = result["curves"]
    assert set(curves) == {"train_loss", "edge_compliance", "rule_compliance"}
    assert len(curves["train_loss"]) == result["steps"]
    assert len(curves["edge_compliance"]) == len(curves["rule_compliance"]) == result["epochs"]
    per_epoch = result["steps"] // result["epochs"]
    first, final = curves["train_loss"][:per_epoch], curves["train_loss"][-per_epoch:]
    assert result["epochs"] > 1 and statistics.fmean(final) < statistics.fmean(first)
    gate = torch.load(path / "checkpoints/gate.pt", weights_only=True)
    assert gate["step"] == result["steps"] and gate["epoch"] == result["epochs"]
    assert gate["gate_passed"] is True and gate["train_losses"] == curves["train_loss"]
    for name in ("edge_compliance", "rule_compliance"):
        assert gate[f"{name}_history"] == curves[name]
    oldest = torch.load(min((path / "checkpoints").glob("epoch_*.pt")), weights_only=True)
    assert oldest["gate_passed"] is False and len(oldest["train_losses"]) == oldest["step"] < result["steps"]
    return result


def check_baselines(path: Path) -> None:
    """The record's graph leaves a walk that knows nothing far from the gate."""
    graph, beside = (json.loads((path / "task" / name).read_text()) for name in ("graph.json", "baseline.json"))
    assert graph["edge_density"] < 0.3 and not graph["skipped_jumpers"]
    assert beside["uniform_walk"]["rule_compliance"] < 0.6 and beside["uniform_walk"]["rule_checks"] > 100
    assert beside["untrained"]["edge_compliance"] < 0.95
    for side in ("p_in", "p_out"):
        assert abs(graph[side]["got"] - graph[side]["expected"]) < 2 * graph[side]["sigma"]


def test_a_smaller_graph_passes_its_gate(ended: Ended) -> None:
    result = check_passed(ended.run)
    check_baselines(ended.run)
    assert result["monitor"] == "val_rule_compliance" and result["mode"] == "max" and result["test"] is None


def test_its_files(ended: Ended) -> None:
    names = {str(path.relative_to(ended.run)) for path in ended.run.rglob("*") if path.is_file()}
    assert {
        "task/graph.json",
        "task/baseline.json",
        "model.pt",
        "checkpoints/gate.pt",
        "checkpoints/epoch_0001.pt",
    } <= names
    with (ended.run / "metrics.csv").open(newline="") as file:
        columns = [name for name in next(csv.reader(file)) if name.startswith("val_")]
    assert columns == [
        "val_edge_compliance",
        "val_rule_compliance",
        "val_rule_checks",
        "val_distinct_starts",
        "val_full_windows",
        "val_ties",
    ]
    with (ended.run / "steps.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == ended.json["steps"]
    assert "untrained" in ended.out and "a uniform walk on this graph" in ended.out


def test_it_is_evaluated_again_to_the_same_numbers(ended: Ended) -> None:
    best = {name.removeprefix("val_"): value for name, value in ended.json["best"].items() if name.startswith("val_")}
    again = command("evaluate", ended.run, "--split", "val", "--checkpoint", "gate", "--json")
    assert again.code == 0, again.err
    assert again.json["metrics"] == best
    with (ended.run / "evaluation/val_gate_examples.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 200


def test_it_is_verified_by_replay(ended: Ended) -> None:
    proved = command("verify", ended.run)
    assert proved.code == 0, proved.out + proved.err


def test_ended_anywhere_and_gone_on_with_it_is_the_same_run(ended: Ended, folder: Path) -> None:
    """Steps are of the second epoch, after one evaluation and before the one that passes the gate."""
    recipe = compose(*SMALLER, "record.checkpoint_every=50 steps")
    whole = run(recipe, out=folder / "whole")
    assert whole.weights_sha256 == ended.json["weights_sha256"]
    assert_same(whole.run, interrupted_at(partial(run, recipe, out=folder / "signals"), 85, 120).run)
    failures = [("on_validation_end", 1), ("on_step_end", 90)]
    assert_same(whole.run, failed_at(partial(run, recipe, out=folder / "failures"), *failures).run)


def test_not_passing_ends_as_gate_failed_with_finals_and_thresholds(folder: Path) -> None:
    done = command("train", *SMALLER, "train.epochs=1", "optim.lr=1e-5", "--out", folder / "runs", "--json")
    result = json.loads((done.run / "result.json").read_text())
    assert done.code == 0 and result["status"] == "gate_failed" and result["gate_passed"] is False
    assert result["thresholds"] == {"edge_compliance": 0.95, "rule_compliance": 0.8}
    assert result["final_edge_compliance"] == result["last"]["val_edge_compliance"]
    assert result["final_rule_compliance"] == result["last"]["val_rule_compliance"]


def test_best_is_by_rules_then_edges_then_the_earlier_epoch(folder: Path) -> None:
    outcome = run(compose(*SMALLER, "stop.gate=null", "train.epochs=5", "record.save=false"))
    edges, rules = outcome.curves["edge_compliance"], outcome.curves["rule_compliance"]
    keys = [(-1.0 if rule is None else rule, edge) for edge, rule in zip(edges, rules, strict=True)]
    assert (outcome.best or {})["epoch"] == keys.index(max(keys)) + 1  # type: ignore[type-var]


def test_the_shipped_graph_leaves_uniform_walks_far_from_the_gate(folder: Path) -> None:
    task = build(compose(*SHIPPED), torch.device("cpu")).task
    assert isinstance(task, WalksTask)
    facts = task.facts()
    assert facts["graph.json"]["edge_density"] < 0.3
    assert facts["baseline.json"]["uniform_walk"]["rule_compliance"] < 0.6
    data = task.data
    assert 20 <= data.vertices <= 40 and 2 <= data.blocks <= 4 and 8 <= data.window <= 16
    assert all(jumper["delay"] <= data.window / 2 for jumper in facts["graph.json"]["jumpers"])


def test_the_anchor_is_the_page(folder: Path) -> None:
    recipe = compose("experiment=walks_anchor")
    assert recipe.task.data == type(recipe.task.data)() and recipe.task.evaluation.walks == 1000
    model = recipe.model
    assert (model.d_model, model.layers, model.heads, model.positions, model.dropout) == (128, 4, 4, "learned", 0.0)
    assert model.mlp is None and not model.tied and model.max_length is None
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.weight_decay) == ("adamw", 3e-4, 0.01)
    assert (recipe.train.clip_norm, recipe.train.batch_size, recipe.train.epochs) == (1.0, 64, 50)
    assert (recipe.schedule.name, recipe.schedule.warmup, recipe.schedule.floor) == ("warmup_cosine", 0.1, 0.1)
    assert recipe.stop.gate == {"edge_compliance": 0.95, "rule_compliance": 0.80} and recipe.seed == 42
    record = recipe.record
    assert (str(record.checkpoint_every), record.keep_last, record.steps_every) == ("1 epochs", 3, 1)


@pytest.mark.parametrize("total", [1000, 421_900, 3384])
def test_its_schedule_is_the_formula_of_the_page(total: int) -> None:
    schedule = compose("experiment=walks_anchor").schedule.build(total, 100, 3e-4)
    warmup = total // 10
    cosine = torch.cos(torch.tensor(torch.pi, dtype=torch.float64) * (total - 1 - warmup) / (total - warmup))
    at = {
        0: 0.0,
        warmup - 1: (warmup - 1) / warmup,
        warmup: 1.0,
        total - 1: 0.1 + 0.45 * (1 + float(cosine)),
    }
    for step, share in at.items():
        assert schedule(step) == pytest.approx(3e-4 * share, rel=1e-9, abs=1e-18)


@pytest.mark.slow
def test_the_shipped_experiment_passes_its_gate(folder: Path) -> None:
    """Measured: 1128 steps, about 12 CPU seconds; rules 0.24, 0.64, 0.80, 0.82."""
    done = command("train", *SHIPPED, "--require-gate", "--out", folder / "shipped", "--json")
    assert done.code == 0, done.err
    result = check_passed(done.run)
    check_baselines(done.run)
    assert result["last"]["val_rule_checks"] > 1000 and result["epochs"] <= 6


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["seed=41", "seed=43", "seed=44", "task.data.seed=43", "task.data.seed=44"])
def test_it_is_no_fluke_of_its_seeds(changed: str, folder: Path) -> None:
    """Measured: passed after 2 to 6 of the 12 epochs with every one of eight neighbours."""
    outcome = run(compose(*SHIPPED, changed, "record.save=false"))
    assert outcome.status == "gate_passed" and outcome.epochs <= 8
