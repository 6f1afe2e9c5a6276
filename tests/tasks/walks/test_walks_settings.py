"""The settings: what cannot be is refused before anything is drawn, in one line each."""

from __future__ import annotations

import pytest

from loopwright.api import compose
from loopwright.config.registry import lookup
from loopwright.errors import ConfigError
from loopwright.models.base import TokenModel
from loopwright.tasks.walks.settings import WalksData


def test_it_is_registered_with_the_defaults_of_the_original_size() -> None:
    config = lookup("task", "walks")()
    assert config.models is TokenModel and config.default_model == "transformer"
    assert (config.monitor, config.ties) == ("rule_compliance", ("edge_compliance",))
    assert config.model_dump() == {
        "name": "walks",
        "data": {
            "vertices": 500,
            "blocks": 4,
            "p_in": 0.25,
            "p_out": 0.03,
            "jumpers_per_block": 2,
            "delays": (0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0),
            "window": 64,
            "walk_length": 256,
            "num_walks": 200_000,
            "seed": 42,
        },
        "evaluation": {"walks": 1000},
    }
    assert config.metrics() == {
        "edge_compliance": "max",
        "rule_compliance": "max",
        "rule_checks": None,
        "distinct_starts": None,
        "full_windows": None,
        "ties": None,
    }
    assert (WalksData().num_train, WalksData().num_held_out) == (180_000, 20_000)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ("task.data.vertices=30",),
            "vertices is 30, which 4 blocks do not divide; use a multiple of blocks (28)",
        ),
        (("task.data.vertices=2",), "vertices is 2, which 4 blocks do not divide; use a multiple of blocks (4)"),
        (
            ("task.data.walk_length=127",),
            "walk_length is 127, less than two windows of 64; use at least 128, or a shorter window",
        ),
        (
            ("task.data.walk_length=128", "task.data.delays=[0.5,2.02]"),
            "delays holds 2.02, which is 129 steps with window=64, more than walk_length=128; "
            "use a smaller share or longer walks",
        ),
        (
            ("task.data.delays=[0.5,0.001]",),
            "delays holds 0.001, which is no step with window=64; use a larger share",
        ),
        (
            ("task.data.vertices=8", "task.data.jumpers_per_block=3"),
            "jumpers_per_block is 3, a block has 2 vertices; use fewer",
        ),
        (
            ("task.data.num_walks=9999",),
            "evaluation.walks is 1000, but of data.num_walks=9999 only 1000 are held out",
        ),
    ],
)
def test_what_does_not_fit_together_is_one_line(overrides: tuple[str, ...], line: str) -> None:
    if "9999" in overrides[0]:  # nine tenths rounded down leave 1000 of 9999, but not of 9990
        compose("task=walks", *overrides)
        overrides, line = ("task.data.num_walks=9990",), line.replace("9999", "9990").replace("only 1000", "only 999")
    with pytest.raises(ConfigError) as refused:
        compose("task=walks", *overrides)
    (problem,) = refused.value.problems
    assert line in problem and problem.startswith("`task")


def test_delays_that_no_jumper_takes_are_not_held_against_the_recipe() -> None:
    """Four jumpers take the first four shares; the last would not fit into the walks."""
    data = compose(
        "task=walks", "task.data.jumpers_per_block=1", "task.data.walk_length=128", "task.data.delays=[0.5,1,1,1,9]"
    ).task.data
    assert data.jumper_delays() == [32, 64, 64, 64]


@pytest.mark.parametrize(
    "key", ["vertices=1", "blocks=1", "p_in=0", "p_out=1.5", "num_walks=9", "delays=[]", "window=0"]
)
def test_values_out_of_range_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"task.data.{key.split('=')[0]}"):
        compose("task=walks", f"task.data.{key}")


def test_what_cannot_be_null_is_not_said_to_be() -> None:
    with pytest.raises(ConfigError) as refused:
        compose("task=walks", "task.data.delays=[]")
    assert list(refused.value.problems) == ["`task.data.delays` is []; it should not be empty"]


def test_a_model_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="the task 'walks' takes one of: transformer"):
        compose("task=walks", "model=mlp")
