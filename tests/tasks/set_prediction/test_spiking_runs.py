"""Spiking models through whole runs: the columns they add, exact resume, no memory of what ran before, learning."""

import csv
from functools import partial
from pathlib import Path

import pytest
import torch

from loopwright import compose
from loopwright.errors import ConfigError
from loopwright.experiment import run
from loopwright.tasks.set_prediction.chance import chance_interval
from support.compare import assert_same
from support.interruptions import failed_at, interrupted_at, starter

COMMON = (
    "task.data.window=7",
    "task.data.shuffle=true",
    "train.batch_size=16",
    "plots=none",
    "record.code=false",
    "device=cpu",
)
TINY = {
    "spiking_mlp": (
        *COMMON,
        "experiment=spiking_mlp_baseline",
        "task.data.synthetic.rows=80",
        "model.hidden=[12,8]",
        "model.time_steps=4",
        "model.encoding=rate",
        "train.epochs=3",
    ),
    "spiking_transformer": (
        *COMMON,
        "experiment=spiking_transformer_baseline",
        "task.data.synthetic.rows=80",
        "model.d_model=16",
        "model.heads=2",
        "model.d_ffn=24",
        "train.epochs=3",
    ),
}
LAYERS = {
    "spiking_mlp": ["hidden_0", "hidden_1"],
    "spiking_transformer": [
        "embedding",
        *(
            f"{part}_{block}"
            for block in (0, 1)
            for part in ("query", "key", "value", "heads", "attention", "hidden", "feedforward")
        ),
    ],
}


@pytest.fixture(params=TINY)
def name(request):
    return request.param


def rows(path):
    with Path(path, "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_layers_firing_rate_is_a_column_and_resuming_keeps_the_bits(name, tmp_path):
    recipe = compose(*TINY[name], "record.checkpoint_every=2 steps")
    whole = run(recipe, out=tmp_path / "whole")
    table = rows(whole.run)
    columns = [f"val_firing_rate_{layer}" for layer in LAYERS[name]]
    assert [column for column in table[0] if "firing" in column] == columns
    assert len(table) == 3
    for row in table:
        assert all(0.0 < float(row[column]) < 1.0 for column in columns)
    assert whole.test is not None
    assert set(whole.test["best"]) >= {column.removeprefix("val_") for column in columns}
    start = partial(starter, run, recipe=recipe)
    torch.rand(7)  # what was drawn before is nobody's business
    signalled = interrupted_at(start(out=tmp_path / "signalled"), 1, 4, 7)
    assert_same(whole.run, signalled.run)
    assert_same(whole.run, failed_at(start(out=tmp_path / "failed"), ("on_step_end", 5), ("on_epoch_end", 1)).run)


def test_nothing_can_follow_a_firing_rate(name):
    layer = LAYERS[name][0]
    with pytest.raises(ConfigError, match=f"`stop.monitor` is 'firing_rate_{layer}', of which neither more nor less"):
        compose(*TINY[name], f"stop.monitor=firing_rate_{layer}")
    with pytest.raises(ConfigError, match=f"`stop.gate` names 'val_firing_rate_{layer}', of which neither"):
        compose(*TINY[name], f"stop.gate={{val_firing_rate_{layer}: 0.1}}")
    with pytest.raises(ConfigError, match=f"`stop.monitor` is 'firing_rate_{layer}'; the task measures: val_loss"):
        compose("task=set_prediction", "model=gru", f"stop.monitor=firing_rate_{layer}")
    assert compose(*TINY[name], "stop.monitor=mrr").mode == "max"


def test_a_model_that_measures_nothing_adds_no_column(tmp_path):
    recipe = compose(*COMMON, "experiment=gru_baseline", "task.data.synthetic.rows=80", "train.epochs=1")
    assert not any("firing" in column for column in rows(run(recipe, out=tmp_path).run)[0])


LEARNERS = {
    "spiking_mlp": ("train.epochs=12",),
    "spiking_mlp, rate": ("model.encoding=rate", "train.epochs=12"),
    "spiking_transformer": ("model.d_model=64", "model.d_ffn=128", "train.epochs=14"),
}


@pytest.mark.slow
@pytest.mark.parametrize("learner", LEARNERS)
def test_they_beat_chance_on_a_planted_signal_and_go_on_firing(learner):
    """Signal 0.8, 1400 windows: recall@20 of the test split lies above the two-sided 99 % interval of chance."""
    name = learner.split(",")[0]
    outcome = run(
        compose(
            f"experiment={name}_baseline",
            "task.data.window=7",
            "stop.patience=0",
            "plots=none",
            "device=cpu",
            "record.save=false",
            *LEARNERS[learner],
        )
    )
    assert outcome.status == "completed" and outcome.test is not None
    high = chance_interval("recall_at_20", 300)[2]
    assert outcome.test["best"]["recall_at_20"] > max(high, 0.6)
    for metric, value in outcome.test["last"].items():
        assert "firing_rate" not in metric or 0.0 < value < 1.0, metric
