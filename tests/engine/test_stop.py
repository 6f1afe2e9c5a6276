"""Stop rules are functions of the history and nothing else; so are the best row and the budget of steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from loopwright import clock
from loopwright.config.durations import Duration
from loopwright.engine.history import History, Ranking, Row
from loopwright.engine.hooks import Hook, Info
from loopwright.engine.stop import Gate, Patience, Pruned, Stop, first_stop
from loopwright.experiment import run
from loopwright.record.index import Index
from support.tasks import recipe

NAN = math.nan
Mode = Literal["min", "max"]


def history(values: list[float | None], monitor: str = "val_loss") -> History:
    """Rows with these values of the monitor; a None is a row without an evaluation."""
    rows: list[Row] = [
        {"epoch": number, "step": 10 * number, "train_loss": 1.0, monitor: value, "val_other": value}
        for number, value in enumerate(values, start=1)
    ]
    return History(rows)


def stops_after(rule: Patience | Gate, values: list[float | None], monitor: str = "val_loss") -> int | None:
    """After how many rows the rule first stops."""
    for number in range(len(values) + 1):
        if rule(history(values[:number], monitor)) is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("patience", "values", "expected"),
    [
        (0, [1, 2, 3, 4, 5], None),
        (1, [1, 2], 2),
        (2, [1, 2, 3, 0], 3),
        (2, [3, 2, 1, 0], None),
        (2, [1, 1, 1], 3),  # equal is no improvement
        (2, [1, None, 2, None, None, 2], 6),  # counts evaluations, not rows
        (2, [1, None, None, None], None),
        (2, [NAN, NAN], 2),
        (2, [NAN, 1, NAN, NAN], 4),
        (2, [NAN, 1, NAN, 0.5, NAN, NAN], 6),
        (3, [3, 4, 2, 4, 4, 4], 6),  # the count starts again at an improvement
        (2, [0, 0, 0], 3),
    ],
)
def test_patience_counts_evaluations_without_improvement(
    patience: int, values: list[float | None], expected: int | None
) -> None:
    assert stops_after(Patience("val_loss", "min", patience), values) == expected
    mirrored = [None if value is None else -value for value in values]
    assert stops_after(Patience("val_loss", "max", patience), mirrored) == expected


@pytest.mark.parametrize(
    ("mode", "relative", "improved", "not_improved"),
    [
        ("min", False, [10.0, 8.9], [10.0, 9.0]),
        ("max", False, [10.0, 11.1], [10.0, 11.0]),
        ("min", True, [4.0, 1.9], [4.0, 2.0]),
        ("max", True, [4.0, 6.1], [4.0, 6.0]),
        ("min", True, [-4.0, -6.1], [-4.0, -6.0]),  # the share is of the best value's size
        ("max", True, [-4.0, -1.9], [-4.0, -2.0]),
    ],
)
def test_min_delta(mode: Mode, relative: bool, improved: list[float | None], not_improved: list[float | None]) -> None:
    rule = Patience("val_loss", mode, 1, 0.5 if relative else 1.0, relative)
    assert stops_after(rule, improved) is None
    assert stops_after(rule, not_improved) == 2


def test_small_steps_that_never_reach_min_delta_stop_in_the_end() -> None:
    assert stops_after(Patience("val_loss", "min", 3, 1.0), [10.0, 9.5, 9.2, 9.0, 8.0]) == 4
    # The bar stays at the last counted improvement, so slow progress adds up.
    assert stops_after(Patience("val_loss", "min", 3, 1.0), [10.0, 9.5, 8.9, 8.5, 7.8]) is None


def test_the_reason_names_metric_best_and_count() -> None:
    stop = Patience("val_loss", "min", 2)(history([1, 0.5, 2, 3]))
    assert stop == Stop("early_stopped", "val_loss has not improved on 0.5 for 2 evaluations")


@pytest.mark.parametrize(
    ("hold", "values", "expected"),
    [
        (1, [0.5, 0.49], 2),
        (1, [0.5, 0.5], None),  # strict
        (1, [None, None], None),
        (1, [NAN], None),
        (2, [0.1, 0.9, 0.1, 0.1], 4),
        (2, [0.1, None, 0.1], 3),  # a row without an evaluation says nothing
        (2, [0.1, None, 0.9, 0.1], None),
        (2, [0.1], None),
        (3, [0.1, 0.1, NAN, 0.1, 0.1, 0.1], 6),
    ],
)
def test_gate(hold: int, values: list[float | None], expected: int | None) -> None:
    assert stops_after(Gate({"val_loss": 0.5}, {"val_loss": "min"}, hold), values) == expected
    mirrored = [None if value is None else -value for value in values]
    assert stops_after(Gate({"val_loss": -0.5}, {"val_loss": "max"}, hold), mirrored) == expected


def test_every_metric_of_a_gate_must_pass_and_one_without_a_value_does_not() -> None:
    gate = Gate({"val_a": 0.5, "val_b": 2.0}, {"val_a": "max", "val_b": "min"})
    assert gate.describe() == "val_a > 0.5, val_b < 2"

    def passes(a: float | None, b: float | None) -> bool:
        return gate(History([{"epoch": 1, "val_loss": 1.0, "val_a": a, "val_b": b}])) is not None

    assert passes(0.6, 1.9)
    assert not passes(0.6, 2.0) and not passes(0.5, 1.9) and not passes(0.6, None) and not passes(None, None)
    assert gate(History([{"epoch": 1, "val_loss": 1.0, "val_a": 0.6}])) is None


def test_a_metric_that_could_not_be_checked_interrupts_the_hold() -> None:
    gate = Gate({"val_a": 0.5}, {"val_a": "max"}, hold=2)
    rows: list[Row] = [{"epoch": n, "val_loss": 1.0, "val_a": a} for n, a in enumerate([0.6, None, 0.6], start=1)]
    assert gate(History(rows)) is None
    assert gate(History([*rows, {"epoch": 4, "val_loss": 1.0, "val_a": 0.7}])) is not None


def test_the_first_rule_that_stops_is_the_answer() -> None:
    gate, patience = Gate({"val_loss": 3.0}, {"val_loss": "min"}), Patience("val_loss", "min", 1)
    both = history([1, 2])
    assert first_stop((gate, patience), both) == gate(both)
    assert first_stop((patience, gate), both) == patience(both)
    assert first_stop((Patience("val_loss", "min", 0), patience), both) == patience(both)
    assert first_stop((Pruned(lambda rows: True),), history([])) is None
    assert first_stop((Pruned(lambda rows: len(rows) > 1),), history([1])) is None
    assert first_stop((Pruned(lambda rows: len(rows) > 1),), both) == Stop("pruned", "pruned by the search")


@pytest.mark.parametrize(
    ("mode", "values", "best"),
    [
        ("min", [], None),
        ("min", [None, None], None),
        ("min", [NAN], None),
        ("min", [3, 1, 2], 1),
        ("min", [1, 1, 1], 0),  # ties keep the earlier
        ("max", [0, 0, 0], 0),  # zero everywhere: the first epoch is the best
        ("min", [0, 0, 0], 0),
        ("max", [NAN, 0, None, 2, NAN, 2], 3),
        ("min", [NAN, 5, 6], 1),
        ("max", [-3, -1, -2], 1),
    ],
)
def test_best_is_strict(mode: Mode, values: list[float | None], best: int | None) -> None:
    assert history(values).best_index(Ranking("val_loss", mode)) == best


@pytest.mark.parametrize(
    ("edges", "best"),
    [
        ([0.1, 0.5, 0.9, 0.4], 1),  # the third row's monitor is lower, whatever its edges
        ([0.5, 0.5, 0.9, 0.5], 0),  # equal in both: the earlier
        ([0.1, None, 0.9, 0.4], 3),
        ([None, None, None, None], 0),
        ([NAN, 0.2, 0.9, 0.2], 1),
    ],
)
def test_equal_values_are_decided_by_the_next_metric(edges: list[float | None], best: int) -> None:
    rules = [0.8, 0.8, 0.7, 0.8]
    held = History([{"val_rule": rule, "val_edge": edge} for rule, edge in zip(rules, edges, strict=True)])
    ranking = Ranking("val_rule", "max", (("val_edge", "max"),))
    assert held.best_index(ranking) == best and held.best(ranking) is held.rows[best]


def test_a_history_comes_back_from_its_state_dict() -> None:
    rows: list[Row] = [
        {"epoch": 1, "step": 7, "lr": 0.1, "val_loss": None, "epoch_seconds": 1.5, "samples_per_second": 3.0},
        {"epoch": 2, "step": 14, "lr": 0.1 + 2**-56, "val_loss": NAN, "epoch_seconds": 2.5, "samples_per_second": 3.0},
        {
            "epoch": 3,
            "step": 2**40 + 1,
            "lr": -0.0,
            "val_loss": math.inf,
            "epoch_seconds": 0.5,
            "samples_per_second": 3.0,
        },
    ]
    saved = History(rows).state_dict()
    back = History.from_state_dict(saved)
    assert repr(back.rows) == repr(rows)  # the text tells None from nan, -0.0 from 0.0, 7 from 7.0
    assert back.elapsed_seconds == 4.5
    assert saved["values"].dtype == torch.float64 and saved["columns"] == ["epoch", "step", "lr", "val_loss"]
    assert saved["time_columns"] == ["epoch_seconds", "samples_per_second"]
    assert History.from_state_dict(History().state_dict()).rows == []


@pytest.mark.parametrize(
    ("text", "amount", "unit", "shown"),
    [
        ("10 epochs", 10, "epochs", "10 epochs"),
        ("1 epoch", 1, "epochs", "1 epochs"),
        ("500steps", 500, "steps", "500 steps"),
        (" 20 min ", 1200, "seconds", "20 min"),
        ("0.5 h", 1800, "seconds", "0.5 h"),
        ("30 s", 30, "seconds", "30 s"),
        ("2 Hours", 7200, "seconds", "2 Hours"),
    ],
)
def test_durations(text: str, amount: float, unit: str, shown: str) -> None:
    parsed = Duration.parse(text)
    assert (parsed.amount, parsed.unit, str(parsed)) == (amount, unit, shown)
    assert Duration.parse(str(parsed)).amount == amount


@pytest.mark.parametrize(
    "text", ["", "10", "epochs", "0 steps", "-1 steps", "1.5 epochs", "0 s", "3 weeks", "1 2 s", "1e3 steps", "nan s"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write '10 epochs', '500 steps'"):
        Duration.parse(text)


IN_MEMORY: dict[str, Any] = {"record": {"save": False}}


@pytest.mark.parametrize(("budget", "steps", "epochs"), [("8 steps", 8, 1), ("2 epochs", 12, 2), ("12 steps", 12, 2)])
def test_a_budget_of_steps_or_epochs(budget: str, steps: int, epochs: int) -> None:
    outcome = run(recipe(stop={"budget": budget}, **IN_MEMORY))
    assert (outcome.status, outcome.steps, outcome.epochs) == ("budget_reached", steps, epochs)
    assert outcome.reason == f"stop.budget of {budget} is spent"
    assert outcome.last is not None and outcome.last["step"] == steps and outcome.last["val_loss"] is not None
    assert outcome.test is not None


def test_a_budget_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Hook):
        now = 1000.0

        def on_step_end(self, info: Info) -> None:
            self.now += 7.0

    slow = Slow()
    monkeypatch.setattr(clock, "monotonic", lambda: slow.now)
    outcome = run(recipe(stop={"budget": "1 min"}, **IN_MEMORY), hooks=[slow])
    assert (outcome.status, outcome.steps) == ("budget_reached", 9)  # 63 s: the first step boundary past a minute
    assert outcome.seconds == 63.0
    slow.now = 0.0
    assert run(recipe(stop={"budget": "1 h"}, **IN_MEMORY), hooks=[slow]).status == "completed"


def test_the_stopping_epoch_is_recorded_and_checkpointed(tmp_path: Path) -> None:
    outcome = run(recipe(stop={"patience": 1, "min_delta": 1e9}, train={"epochs": 9}), out=tmp_path)
    assert (outcome.status, outcome.epochs, outcome.steps) == ("early_stopped", 2, 12)
    path = Path(outcome.run or "")
    index = Index.read(path / "checkpoints")
    assert index.last is not None and (index.last.step, index.last.epoch) == (12, 2)
    assert len(index.load(index.last)["history"]["values"]) == 2
    assert [row.split(",")[0] for row in (path / "metrics.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    assert len((path / "steps.csv").read_text().splitlines()) == 13
    events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    assert [event["epoch"] for event in events if event["event"] == "on_epoch_end"] == [1, 2]


@pytest.mark.parametrize("schedule", ["2 epochs", "4 steps"])
def test_a_gate_holds_over_evaluations_not_rows(schedule: str) -> None:
    outcome = run(
        recipe(stop={"gate": {"loss": 1e9}, "hold": 2}, train={"validate_every": schedule, "epochs": 6}, **IN_MEMORY)
    )
    assert (outcome.status, outcome.steps) == ("gate_passed", {"2 epochs": 24, "4 steps": 8}[schedule])
