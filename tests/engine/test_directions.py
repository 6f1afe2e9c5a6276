"""A metric of which neither more nor less is better has no best, unless `stop.mode` says which way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.experiment import run
from support.tasks import recipe


@pytest.mark.parametrize("monitor", [None, "large", "val_large"])
def test_to_follow_it_without_a_mode_is_one_line(monitor: str | None) -> None:
    with pytest.raises(ConfigError) as refused:
        recipe("Counting", stop={"monitor": monitor})
    asked = "`task`: its monitor is 'large'" if monitor is None else f"`stop.monitor` is '{monitor}'"
    assert [*refused.value.problems] == [
        f"{asked}, of which neither more nor less is better; say which with `stop.mode`, or let `stop.monitor` be "
        "another; the task measures: val_loss"
    ]


@pytest.mark.parametrize(("mode", "pick"), [("min", min), ("max", max)])
def test_with_a_mode_it_is_followed(tmp_path: Path, mode: str, pick: object) -> None:
    outcome = run(recipe("Counting", stop={"monitor": "large", "mode": mode}, train={"epochs": 6}), out=tmp_path)
    values = outcome.curves["large"]
    assert (outcome.monitor, outcome.mode) == ("val_large", mode) and outcome.best is not None
    best = pick(values)  # type: ignore[operator]
    assert outcome.best["val_large"] == best and outcome.best["epoch"] == values.index(best) + 1
    assert outcome.value == values[-1]


def test_beside_another_it_has_its_column_and_no_best(tmp_path: Path) -> None:
    outcome = run(recipe("Counting", stop={"monitor": "loss"}), out=tmp_path)
    path = Path(outcome.run or "")
    assert "val_large" in (path / "metrics.csv").read_text().splitlines()[0].split(",")
    result = json.loads((path / "result.json").read_text())
    assert {*outcome.curves} == {*result["curves"]} == {"train_loss", "loss"}
    losses = outcome.curves["loss"]
    assert outcome.best is not None and outcome.best["epoch"] == losses.index(min(losses)) + 1  # type: ignore[type-var]


def test_it_is_no_gate() -> None:
    with pytest.raises(ConfigError, match=r"`stop\.gate` names 'large', of which neither more nor less is better"):
        recipe("Counting", stop={"monitor": "loss", "gate": {"large": 1.0}})
