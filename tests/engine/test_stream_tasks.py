"""A task by name whose training data are a stream: what asks for a length beforehand copes without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loopwright import ConfigError, verify
from loopwright.experiment import run
from loopwright.rehearsal import rehearse
from loopwright.resuming import resume_run
from loopwright.searches.resolving import _most_epochs
from loopwright.sweeps.estimate import plan_lines
from loopwright.sweeps.plan import Plan, Point
from loopwright.sweeps.timing import probe
from loopwright.testing import check_task
from support.compare import assert_same
from support.interruptions import Signal
from support.streams import stream_recipe

ENDLESS = "FromEndless"


def test_a_dry_run_says_what_is_not_known() -> None:
    lines = rehearse(stream_recipe(ENDLESS))
    assert "train: an unknown number of samples, an unknown number of batches" in lines
    assert any(line.startswith("one training step: loss") for line in lines)
    with pytest.raises(ConfigError, match="depends on the total, and the training data have no length"):
        rehearse(stream_recipe(ENDLESS, schedule="cosine"))


@pytest.mark.parametrize(
    ("train", "epochs", "steps"),
    [
        ({}, 3, None),
        ({"epoch_steps": 5}, 3, 15),
        ({"max_steps": 7}, None, 7),
        ({"max_steps": 7, "epoch_steps": 5}, 2, 7),
    ],
    ids=str,
)
def test_a_run_is_timed_as_far_as_its_length_is_known(
    train: dict[str, Any], epochs: int | None, steps: int | None
) -> None:
    timing = probe(stream_recipe(ENDLESS, train=train), seconds=0.05)
    assert (timing.epochs, timing.steps) == (epochs, steps) and (timing.seconds is None) == (steps is None)
    assert timing.steps_timed > 0


def test_a_plan_of_runs_without_a_length_says_so() -> None:
    lines = plan_lines(Plan((Point(stream_recipe(ENDLESS)),)), timing=lambda point, _: probe(point.recipe, 0.05))
    assert any("a run of 3 epochs: nobody knows how many steps" in line for line in lines)
    assert (
        lines[-1]
        == "how long they take is not known, for the training data have no length; train.max_steps gives them one"
    )
    known = Plan((Point(stream_recipe(ENDLESS, train={"max_steps": 7})),))
    lines = plan_lines(known, timing=lambda point, _: probe(point.recipe, 0.05))
    assert any("a run of 7 steps: about" in line for line in lines)


def test_budgets_bound_what_is_not_known() -> None:
    timing = probe(stream_recipe(ENDLESS, stop={"budget": "9 steps"}), seconds=0.05)
    assert (timing.epochs, timing.steps) == (3, 9)
    timing = probe(stream_recipe(ENDLESS, stop={"budget": "2 epochs"}, train={"epoch_steps": 5}), seconds=0.05)
    assert (timing.epochs, timing.steps) == (2, 10)


def test_it_keeps_the_agreements_of_a_task() -> None:
    check_task(stream_recipe("FromStream"))


def test_a_child_is_warned_of_another_total(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = {"schedule": "cosine", "record": {"checkpoint_every": "3 steps"}}
    ended = run(stream_recipe(ENDLESS, train={"max_steps": 7}, **given), out=tmp_path)
    assert ended.run is not None and ended.status == "completed"
    child = resume_run(Path(ended.run), ["train.max_steps=12"], allow_import=["support"])
    assert child.steps == 12 and child.run != ended.run
    (line,) = [message for message in caplog.messages if "depends on the total" in message]
    assert line.endswith("with train.max_steps=12 its rates differ from those of the parent's 7")


def test_a_run_by_name_resumes_in_the_middle(tmp_path: Path) -> None:
    wanted = stream_recipe(ENDLESS, train={"epoch_steps": 4, "max_steps": 10}, schedule="warmup_cosine")
    whole = run(wanted, out=tmp_path / "whole")
    stopped = run(wanted, out=tmp_path / "cut", hooks=[Signal(6)])
    assert stopped.status == "interrupted"
    assert_same(whole.run, run(wanted, out=tmp_path / "cut", resume=True).run)


def test_the_most_epochs_of_a_trial() -> None:
    assert _most_epochs(stream_recipe()) == 3
    assert _most_epochs(stream_recipe(train={"max_steps": 10})) == 10
    assert _most_epochs(stream_recipe(train={"max_steps": 10, "epoch_steps": 4})) == 3


def test_a_run_that_max_steps_ended_is_verified(tmp_path: Path) -> None:
    wanted = stream_recipe(ENDLESS, train={"epoch_steps": 4, "max_steps": 10})
    ended = run(wanted, out=tmp_path)
    assert ended.run is not None
    assert verify(ended.run, allow_import=["support"]).identical
