"""The task as the engine sees it: items, loss, evaluation by generated walks, what it says about itself."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loopwright.building import build
from loopwright.config.schema import parse
from loopwright.engine.evaluate import evaluate
from loopwright.engine.task import At
from loopwright.experiment import run
from loopwright.models.transformer import TransformerConfig
from loopwright.streams import Streams
from loopwright.tasks.walks.corpus import corpora, items
from loopwright.tasks.walks.settings import WalksEvaluation
from loopwright.tasks.walks.task import WalksConfig, WalksTask
from support.walks import Mean, plain_compliance, tiny_data

CPU = torch.device("cpu")
TINY = TransformerConfig(d_model=8, heads=2, layers=2, dropout=0.0, positions="learned")
METRICS = ["edge_compliance", "rule_compliance", "rule_checks", "distinct_starts", "full_windows", "ties"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOPWRIGHT_CACHE", str(tmp_path / "cache"))


def make_task(model: Any = None, *, walks: int = 5, seed: int = 7, **data: Any) -> WalksTask:
    config = WalksConfig(data=tiny_data(**data), evaluation=WalksEvaluation(walks=walks))
    return config.build(model or Mean(), batch_size=16, streams=Streams(seed), device=CPU)


def at(step: int = 1) -> At:
    return At(Streams(7), step, 1, CPU)


def measured(task: WalksTask, model: nn.Module, split: Any = "val") -> dict[str, float | None]:
    found = evaluate(task, model, split, Streams(7), step=1, epoch=1, device=CPU)
    assert found is not None
    return found


class Follow(nn.Module):
    """Always the same successor of each vertex: logits (B, T, n) are a one-hot of `onward[token]`."""

    def __init__(self, onward: Any) -> None:
        super().__init__()
        self.register_buffer("onward", torch.as_tensor(onward))

    def forward(self, tokens_BT: Tensor, noise: Any = None) -> dict[str, Tensor]:
        onward = self.onward
        assert isinstance(onward, Tensor)
        return {"next": F.one_hot(onward[tokens_BT], len(onward)).float()}


def test_items_are_the_chunks_of_the_corpora_as_whole_numbers_of_two_bytes() -> None:
    task = make_task()
    walks = corpora(task.data, task.graph, task.rules)
    assert walks["train"].shape == (54, 12) and walks["val"].shape == (6, 12)
    for split, count in (("train", 108), ("val", 12)):
        loader = task.loader(split)  # type: ignore[arg-type]
        assert loader is not None and loader.num_samples == count
        assert loader.tensors[0].dtype == torch.int16
        assert (loader.tensors[0].numpy() == items(walks[split], 4)).all()  # type: ignore[index]
    assert task.loader("test") is None and task.evaluate(nn.Identity(), "test", at()) is None


def test_training_items_come_in_a_drawn_order_of_each_epoch() -> None:
    loader = make_task().loader("train")
    assert loader is not None and len(loader) == 7
    first, again, second = (torch.cat([chunk for (chunk,) in loader.epoch(epoch)]) for epoch in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert torch.equal(first.unique(dim=0), second.unique(dim=0))


def test_the_loss_is_the_cross_entropy_of_the_next_vertex_by_token() -> None:
    task = make_task()
    model = task.build_model()
    batch = next(iter(task.loader("train").epoch(0)))  # type: ignore[union-attr]
    (loss,) = task.losses(model, batch, at())
    chunk = batch[0].long()
    total = 0.0
    logits = model(chunk[:, :4])["next"].log_softmax(-1).detach()
    for row in range(len(chunk)):
        for t in range(4):
            total -= float(logits[row, t, chunk[row, t + 1]])
    assert loss.count == 16 * 4 and float(loss.mean.detach()) == pytest.approx(total / 64, rel=1e-5)
    with torch.inference_mode():
        sums = task.measure(model, batch, at())
    assert float(sums["loss"][0]) == pytest.approx(total, rel=1e-5) and sums["loss"][1] == 64
    assert sums["accuracy"] == (int((logits.argmax(-1) == chunk[:, 1:]).sum()), 64)


def test_it_is_judged_by_greedy_walks_from_held_out_starts() -> None:
    """A model that follows one out-edge of each vertex obeys all edges; one that stays where it is, none."""
    task = make_task(num_walks=600, walks=50)
    first = corpora(task.data, task.graph, task.rules)["val"][:, 0]
    starts = task.starts["val"]
    assert len(starts) == 50 and (np.bincount(starts, minlength=16) <= np.bincount(first, minlength=16)).all()
    assert (starts != first[:50]).any()
    assert (task.starts["val"] == make_task(num_walks=600, walks=50, seed=8).starts["val"]).all()

    onward = [int(np.flatnonzero(row)[0]) for row in task.graph.adjacency.toarray()]
    found = measured(task, Follow(onward))
    walks = []
    for start in starts.tolist():
        walk = [start]
        while len(walk) < 12:
            walk.append(onward[walk[-1]])
        walks.append(walk)
    edges, pairs, obeyed, checks = plain_compliance(task.graph, task.rules.jumpers, walks)
    assert list(found) == METRICS and all(isinstance(value, float) for value in found.values())
    assert edges == pairs and found["edge_compliance"] == 1.0
    assert checks > 0 and found["rule_compliance"] == obeyed / checks and found["rule_checks"] == checks
    assert found["distinct_starts"] == len(set(starts.tolist()))
    assert measured(task, Follow(range(16)))["edge_compliance"] == 0.0
    assert measured(task, Follow(onward), "train")["distinct_starts"] != 0


def test_without_a_check_there_is_no_rule_compliance() -> None:
    task = make_task()
    free = next(v for v in range(16) if v not in task.rules.vertices)
    task.starts["val"] = np.array([free] * 5)
    found = measured(task, Follow([free] * 16))
    assert (found["rule_compliance"], found["rule_checks"], found["distinct_starts"]) == (None, 0.0, 1.0)
    (line,) = task.remarks("val", found)
    assert line.startswith("val compliance, edges and rules: 0.000 and none; ")


def test_evaluating_again_gives_the_same_and_leaves_the_task_as_it_was() -> None:
    task = make_task(TINY)
    model = task.build_model()
    before = pickle.dumps(task)
    first = measured(task, model)
    assert measured(task, model) == first
    task.facts(), task.remarks("val", first), list(task.examples(model, "val", CPU))
    assert pickle.dumps(task) == before
    assert measured(pickle.loads(before), model) == first


def recipe(**tree: Any) -> Any:
    data = tiny_data().model_dump()
    return parse(
        {
            "task": {"name": "walks", "data": data, "evaluation": {"walks": 5}},
            "model": {"name": "transformer", "d_model": 8, "heads": 2, "positions": "learned"},
            "train": {"epochs": 2, "batch_size": 32, **tree.pop("train", {})},
            "record": {"save": False},
            "device": "cpu",
            **tree,
        }
    )


def test_facts_hold_the_graph_and_what_walks_reach_that_have_learnt_nothing() -> None:
    built = build(recipe(), CPU)
    task = built.task
    assert isinstance(task, WalksTask)
    facts: Mapping[str, Any] = task.facts()
    assert list(facts) == ["graph.json", "baseline.json"]
    graph = facts["graph.json"]
    assert (graph["vertices"], graph["blocks"], graph["edges"]) == (16, 2, task.graph.adjacency.nnz)
    assert graph["edge_density"] == task.graph.adjacency.nnz / (16 * 15)
    assert graph["p_in"]["asked"] == 0.9 > graph["p_in"]["expected"] and set(graph["p_in"]) == {
        "asked", "expected", "sigma", "got",
    }  # fmt: skip
    assert [set(jumper) for jumper in graph["jumpers"]] == [{"vertex", "block", "target", "delay"}] * 2
    assert graph["skipped_jumpers"] == [] and graph["tries"] == task.graph.tries
    # The untrained model is the one that the run begins with, whatever was drawn before.
    torch.rand(3)
    found = measured(task, built.state.model)
    beside = facts["baseline.json"]
    assert beside["untrained"] == {name: found[name] for name in METRICS[:3]}
    assert beside["uniform_walk"]["edge_compliance"] == 1.0
    assert 0 < beside["uniform_walk"]["rule_compliance"] < 1 and beside["uniform_walk"]["rule_checks"] > 0


def test_the_summary_puts_the_trained_beside_the_untrained_and_the_uniform_walk() -> None:
    outcome = run(recipe())
    (line,) = outcome.remarks
    best = outcome.best or {}
    assert (
        f"edges and rules: {best['val_edge_compliance']:.3f} and {best['val_rule_compliance']:.3f}; untrained " in line
    )
    assert "; a uniform walk on this graph 1.000 and " in line
    assert set(outcome.curves) == {"train_loss", "edge_compliance", "rule_compliance"}
    assert len(outcome.curves["train_loss"]) == outcome.steps == 8 and len(outcome.curves["edge_compliance"]) == 2


def test_examples_are_the_generated_walks_and_add_up_to_the_metrics() -> None:
    task = make_task(TINY, num_walks=600, walks=40)
    model = task.build_model()
    found, rows = measured(task, model), list(task.examples(model, "val", CPU))
    assert list(rows[0]) == ["index", "start", "pairs", "edges", "rule_checks", "rules_obeyed", "tokens"]
    assert [row["index"] for row in rows] == list(range(40))
    for row in rows:
        walk = [int(token) for token in row["tokens"].split()]
        assert len(walk) == 12 and walk[0] == row["start"]
        counted = plain_compliance(task.graph, task.rules.jumpers, [walk])
        assert (row["edges"], row["pairs"], row["rules_obeyed"], row["rule_checks"]) == counted
    assert sum(row["edges"] for row in rows) / (40 * 11) == found["edge_compliance"]
    assert sum(row["rule_checks"] for row in rows) == found["rule_checks"]
    assert not list(task.examples(model, "test", CPU)) and task.remarks("test", {}) == []


def test_internals_are_attention_maps_values_and_residuals_by_layer() -> None:
    task = make_task(TINY)
    model = task.build_model()
    batch = next(iter(task.loader("val").epoch(0)))  # type: ignore[union-attr]
    seen = task.internals(model, batch, at())
    assert {name: tuple(held.shape) for name, held in seen.items()} == {
        "tokens": (12, 4),
        **{f"attention.{layer}": (12, 2, 4, 4) for layer in range(2)},
        **{f"value.{layer}": (12, 2, 4, 4) for layer in range(2)},
        **{f"residual.{layer}": (12, 4, 8) for layer in range(3)},
    }
    assert torch.equal(seen["tokens"], batch[0][:, :4].long())
    assert torch.allclose(seen["attention.1"].sum(-1), torch.ones(12, 2, 4))
    other = make_task()
    assert list(other.internals(other.build_model(), batch, at())) == ["tokens", "embedding", "readout"]


def test_overfit_measures_samples_by_loss_and_accuracy() -> None:
    outcome = run(
        recipe(
            train={"epochs": 150, "overfit": 8},
            optim={"name": "adamw", "lr": 0.03},
            stop={"gate": {"edge_compliance": 0.9}},
        )
    )
    assert set(outcome.curves) == {"train_loss", "loss", "accuracy"} and outcome.gate_passed is None
    assert (outcome.best or {})["val_loss"] < 0.5 * outcome.curves["loss"][0]  # type: ignore[operator]


def test_training_seeds_share_the_walks_and_differ_in_their_order_and_weights() -> None:
    one, two = make_task(seed=1), make_task(seed=2)
    assert torch.equal(one.items["train"], two.items["train"])
    orders = [next(iter(task.loader("train").epoch(0)))[0] for task in (one, two)]  # type: ignore[union-attr]
    assert not torch.equal(*orders)
