"""Every combination of encoder, decoder, latent space and loop: it trains, holds no hidden state, and resumes exactly."""

from __future__ import annotations

import math
import pickle
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from loopwright import verify
from loopwright.building import Built, build
from loopwright.engine.compute import computing
from loopwright.engine.evaluate import evaluate
from loopwright.engine.period import StepInfo
from loopwright.engine.state import snapshot
from loopwright.engine.steps import steps
from loopwright.engine.weights import content_hash
from loopwright.experiment import run
from loopwright.streams import isolated
from support.compare import assert_same
from support.interruptions import interrupted_at
from support.tokens import events_recipe

CPU = torch.device("cpu")
LOOPS = ("ae", "gan", "diffusion")
Parts = dict[str, Any]


def parts(encoder: str, decoder: str, latent: str, loop: str) -> Parts:
    loops = {"name": loop, "timesteps": 20, "sampling_steps": 3} if loop == "diffusion" else {"name": loop}
    codes = {"name": latent, "codes": 8} if latent == "vq" else {"name": latent}
    return {"encoder": encoder, "decoder": decoder, "latent": codes, "loop": loops}


COMBINATIONS = [
    *product(("mlp", "gnn"), ("mlp", "gnn"), ("none", "linear", "vq"), LOOPS),
    *product(("gan",), ("gan",), ("none", "vq"), LOOPS),
    *product(("diffusion",), ("mlp", "gan"), ("linear",), LOOPS),
    *product(("mlp", "gan"), ("diffusion",), ("none", "vq"), ("diffusion",)),
    *product(("gnn", "diffusion"), ("diffusion",), ("linear",), ("diffusion",)),
]


def built(asked: Parts, **tree: Any) -> Built:
    return build(events_recipe(asked, train={"batch_size": 8}, **tree), CPU)


def advance(made: Built, num_steps: int) -> list[StepInfo]:
    """So many of an epoch's 6 steps."""
    loader = made.task.loader("train")
    assert loader is not None
    running = steps(made.task, made.state, loader, made.streams, lr=lambda state: 0.01, clip_norm=1.0)
    return [next(running) for _ in range(num_steps)]


def content(made: Built) -> str:
    """A hash of everything a checkpoint keeps of model and optimizers."""
    return content_hash({"model": made.state.model_state(), "optimizers": made.state.optimizer_state()})


@pytest.mark.parametrize("names", COMBINATIONS, ids="-".join)
def test_a_combination_trains_and_resumes(names: tuple[str, str, str, str]) -> None:
    with isolated(), computing(CPU, 1, True):
        made = built(parts(*names))
        before = {name: [p.detach().clone() for p in group] for name, group in made.state.groups.items()}
        task, initial = pickle.dumps(made.task), content(made)
        infos = advance(made, 2)
        saved = snapshot(made.state.state_dict())
        infos += advance(made, 2)
        assert all(math.isfinite(info.loss) for info in infos) and content(made) != initial
        for name, group in made.state.groups.items():
            moved = [not torch.equal(p, was) for p, was in zip(group, before[name], strict=True)]
            assert group and all(moved), f"{moved.count(False)} parameters of {name} were not trained"
        assert pickle.dumps(made.task) == task

        other = built(parts(*names))
        assert content(other) == initial
        other.state.load_state_dict(saved)
        advance(other, 2)
        assert content(other) == content(made)

        measured = [
            evaluate(made.task, made.state.model, "val", made.streams, step=4, epoch=1, device=CPU) for _ in "ab"
        ]
        assert measured[0] == measured[1] and measured[0] is not None
        assert measured[0].keys() == made.task.metrics.keys()
        assert all(value is not None and math.isfinite(value) for value in measured[0].values())
        assert content(other) == content(made)


# One of each loop, both kinds of diffusion, every latent space, noise in encoder and decoder.
RUNS = {
    "ae": parts("diffusion", "gnn", "linear", "ae"),
    "gan": parts("mlp", "gan", "vq", "gan"),
    "diffusion of latents": parts("mlp", "mlp", "vq", "diffusion"),
    "diffusion of tokens": parts("gnn", "diffusion", "none", "diffusion"),
}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_leaves_the_same_record(name: str, tmp_path: Path) -> None:
    """44 samples in batches of 8 are 6 steps an epoch: it ends in the midst of the first and of the second."""
    asked = events_recipe(RUNS[name], train={"batch_size": 8}, record={"checkpoint_every": "4 steps"})
    whole = run(asked, out=tmp_path / "whole")
    broken = interrupted_at(partial(run, asked, out=tmp_path / "broken"), 2, 9)
    assert whole.steps == broken.steps == 12
    assert_same(whole.run, broken.run)


def test_a_run_verifies(tmp_path: Path) -> None:
    outcome = run(events_recipe(RUNS["diffusion of latents"], train={"batch_size": 8}), out=tmp_path)
    assert outcome.run is not None
    found = verify(outcome.run, allow_import=("support",))
    assert found.identical and found.num_steps == 12 and found.num_rows == 2


def test_two_updates_a_step_refuse_a_batch_in_parts() -> None:
    asked = events_recipe(RUNS["gan"], train={"accumulate": 2}, record={"save": False})
    with pytest.raises(RuntimeError, match=r"set train\.accumulate=1"):
        run(asked)


def test_one_update_a_step_may_see_its_batch_in_parts() -> None:
    asked = events_recipe(RUNS["diffusion of tokens"], train={"accumulate": 2}, record={"save": False})
    assert run(asked).steps == 6
