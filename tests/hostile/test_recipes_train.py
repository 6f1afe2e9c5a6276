"""Whatever random recipe is accepted trains a step, or says in one line why it cannot; never a traceback.

`tests/config/test_config_fuzz.py` shows that any tree is accepted or refused; here the accepted ones are run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from loopwright.config.schema import parse
from loopwright.engine.outcome import EXIT_CODES, Outcome
from loopwright.errors import ConfigError, LoopwrightError
from loopwright.experiment import run
from support.fuzz import examples

small = st.integers(1, 5)
share = st.sampled_from([0, 0.1, 0.5, 0.9, 1, 0.999999])
positive = st.sampled_from([1e-30, 1e-6, 0.001, 0.1, 1, 10.0, 1e10, 1e30])
wrong = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 10**400, math.nan, math.inf, "", "x", "1", [], {}, [None], {"name": "x"}]),
)
duration = st.builds("{} {}".format, st.integers(1, 4), st.sampled_from(["steps", "epochs"]))
ratios = st.sampled_from([[0.7, 0.15, 0.15], [0.5, 0.5], [0.98, 0.01, 0.01], [0.34, 0.33, 0.33], [0.001, 0.999]])

# What a key may be drawn from; sizes are such that a training takes milliseconds.
EVERYWHERE: dict[str, st.SearchStrategy[Any]] = {
    "seed": st.integers(0, 2**63 - 1),
    "threads": st.just(1),
    "deterministic": st.booleans(),
    "optim": st.one_of(
        st.sampled_from(
            [
                "sgd",
                "adam",
                "adamw",
                "SGD",
                "Adam",
                "AdamW",
                "RMSprop",
                "Rprop",
                "Adagrad",
                "Adadelta",
                "Adamax",
                "NAdam",
                "RAdam",
                "ASGD",
                "Adafactor",
                "LBFGS",
                "SparseAdam",
                "Muon",
            ]
        ),
        st.fixed_dictionaries({"name": st.just("sgd"), "momentum": share, "nesterov": st.booleans()}),
        st.fixed_dictionaries({"name": st.sampled_from(["sgd", "adam", "adamw"]), "weight_decay": positive}),
    ),
    "optim.lr": positive,
    "schedule": st.one_of(
        st.sampled_from(["constant", "cosine", "step", "plateau", "hyperbolic", "exp_hyperbolic", "ExponentialLR"]),
        st.fixed_dictionaries(
            {"name": st.sampled_from(["warmup_cosine", "warmup_linear"]), "warmup": st.one_of(small, share)},
            optional={"floor": share, "every": st.sampled_from(["step", "epoch"])},
        ),
        st.fixed_dictionaries(
            {
                "name": st.sampled_from(["StepLR", "CosineAnnealingLR", "OneCycleLR", "ReduceLROnPlateau", "LinearLR"]),
                "args": st.sampled_from([{}, {"step_size": 1}, {"T_max": 3}, {"gamma": 0.5}, {"last_epoch": 7}]),
            }
        ),
    ),
    "train.epochs": st.integers(0, 2),
    "train.batch_size": st.integers(1, 60),
    "train.clip_norm": positive,
    "train.accumulate": small,
    "train.validate_every": duration,
    "train.overfit": st.integers(0, 40),
    "stop.monitor": st.sampled_from(["loss", "val_loss", "train_loss", "loss", "val_loss", "mae", "recall_at_20"]),
    "stop.mode": st.sampled_from(["min", "max"]),
    "stop.patience": st.integers(0, 2),
    "stop.min_delta": positive,
    "stop.min_delta_mode": st.sampled_from(["absolute", "relative"]),
    "stop.gate": st.sampled_from([{"loss": 1e9}, {"loss": 0.0}, {"mae": 1.0}, {"val_loss": 1.0}]),
    "stop.hold": small,
    "stop.budget": duration,
    "record.steps_every": st.integers(0, 3),
    "record.grad_norm": st.booleans(),
    "record.console_every": st.integers(0, 3),
    "hooks.timing_probe": st.sampled_from([None, {}, {"minutes": 0.5}]),
}
REGRESSION = {
    "task.data": st.sampled_from([{"name": "wave", "rows": 20}, {"name": "linear", "rows": 20, "features": 4}]),
    "task.data.rows": st.integers(10, 60),
    "task.data.noise": st.sampled_from([0, 0.1, 1e3, 1e30, 1e300]),
    "task.data.seed": st.integers(0, 2**70),
    "task.data.split": ratios,
    "task.data.standardize": st.booleans(),
    "task.loss": st.sampled_from(["mse", "l1", "huber", "bce_with_logits", "cross_entropy"]),
    "task.shuffle": st.booleans(),
    "model.hidden": st.lists(small, max_size=3),
    "model.activation": st.sampled_from(["gelu", "relu", "tanh", "silu"]),
    "model.dropout": share,
}
SETS = {
    "task.data.window": st.integers(7, 20),
    "task.data.shuffle": st.booleans(),
    "task.data.split": ratios,
    "task.data.synthetic.rows": st.integers(2, 60),
    "task.data.synthetic.signal": share,
    "task.data.synthetic.seed": st.integers(0, 2**70),
    "task.loss.cardinality_weight": positive,
    "model": st.one_of(
        st.fixed_dictionaries({"name": st.just("frequency")}, optional={"decay": share}),
        st.fixed_dictionaries(
            {"name": st.just("gru"), "hidden": small, "num_layers": st.integers(1, 2), "dropout": share}
        ),
    ),
}
BASES: list[tuple[dict[str, Any], dict[str, st.SearchStrategy[Any]]]] = [
    ({"task": {"name": "regression", "data": {"name": "linear", "rows": 24, "features": 3}}}, REGRESSION),
    ({"task": {"name": "set_prediction", "data": {"window": 7, "synthetic": {"rows": 40}}}}, SETS),
]


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    *parents, leaf = key.split(".")
    for parent in parents:
        held = tree.get(parent)
        tree[parent] = held if isinstance(held, dict) else {"name": held} if isinstance(held, str) else {}
        tree = tree[parent]
    held = tree.get(leaf)
    tree[leaf] = {**held, "name": value} if isinstance(held, dict) and isinstance(value, str) else value


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    base, own = BASES[draw(st.integers(0, 4)) == 4]
    tree = copy.deepcopy(base)
    put(tree, "model.hidden", [4] if own is REGRESSION else 4)
    keys = {**EVERYWHERE, **own}
    for key in sorted(draw(st.sets(st.sampled_from(sorted(keys)), max_size=6))):  # a choice before its keys
        put(tree, key, draw(wrong if draw(st.integers(0, 29)) == 0 else keys[key]))
    train = tree.setdefault("train", {})
    if isinstance(train, dict):
        train.setdefault("epochs", 1)
        train.setdefault("batch_size", 16)
    return {**tree, "device": "cpu", "plots": "none"}


def in_memory(tree: dict[str, Any]) -> dict[str, Any]:
    record = tree.get("record", {})
    return {**tree, "record": {**record, "save": False} if isinstance(record, dict) else record}


@pytest.mark.filterwarnings("default")  # a user's optimizer or schedule of torch may warn of what it was given
@examples(500)
@given(recipes())
def test_what_is_accepted_trains_a_step(tree: dict[str, Any]) -> None:
    try:
        recipe = parse(in_memory(tree))
    except ConfigError as error:
        event("refused")
        lines(error.problems)
        return
    try:
        outcome = run(recipe)
    except LoopwrightError as error:
        event(f"data or machine: {type(error).__name__}")
        if error.exit_code != 2:  # these sizes fit into any machine
            raise
        lines(str(error).splitlines())
        return
    event(f"trained: {outcome.status}")
    judge(outcome, recipe.train.epochs)


def lines(problems: Sequence[str]) -> None:
    assert problems and all(line and "\n" not in line for line in problems)


def judge(outcome: Outcome, epochs: int) -> None:
    assert "\n" not in outcome.reason and outcome.exit_code in (0, *EXIT_CODES.values())
    if outcome.status == "diverged":
        assert outcome.exit_code == 4 and " in step " in outcome.reason
    elif epochs:
        assert outcome.steps >= 1 and outcome.last is not None
        loss = outcome.last["train_loss"]
        assert loss is not None and math.isfinite(loss)
    else:
        assert outcome.steps == 0 and outcome.best is None
