"""The summary: a row per configuration, means and spreads over its seeds, best first."""

from __future__ import annotations

import csv
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from loopwright.sweeps.entry import Entry
from loopwright.sweeps.summary import Spread, as_plain, shown_metrics, summarise, write_summary


def lines(*rows: dict[str, Any]) -> tuple[list[Entry], dict[int, dict[str, str]]]:
    """Entries, and the keys of their points: the same label is the same configuration."""
    given = {"seed": 0, "stage": "sweep", "status": "completed", "monitor": "val_loss", "mode": "min", "overrides": ()}
    entries = [Entry(point=number, **{**given, **row}) for number, row in enumerate(rows, 1)]
    return entries, {entry.point: {"key": f"{entry.label}-s{entry.seed}"} for entry in entries}


def test_mean_and_spread_over_the_seeds() -> None:
    best, test = [0.3, 0.5, 0.4], [0.6, 0.2, 0.7]
    rows = summarise(
        *lines(
            *(
                {
                    "label": "a",
                    "seed": n,
                    "best": b,
                    "test": {"loss": t, "mae": 1.0},
                    "epochs": n + 1,
                    "seconds": 2.0 * n,
                }
                for n, (b, t) in enumerate(zip(best, test, strict=True))
            )
        )
    )
    (row,) = rows
    assert row.measured.val == Spread(3, math.fsum(best) / 3, statistics.stdev(best))
    assert row.measured.test["loss"] == Spread(3, math.fsum(test) / 3, statistics.stdev(test))
    assert row.measured.test["mae"] == Spread(3, 1.0, 0.0)
    assert (row.measured.epochs, row.measured.seconds, row.measured.points) == (2.0, 2.0, 3)
    assert row.measured.complete and row.screened is None


@pytest.mark.parametrize(("mode", "order"), [("min", ["b", "a"]), ("max", ["a", "b"])])
def test_best_first_in_the_direction_of_the_monitor(mode: str, order: list[str]) -> None:
    rows = summarise(
        *lines(
            {"label": "a", "best": 0.9, "mode": mode},
            {"label": "b", "best": 0.1, "mode": mode},
            {"label": "waiting", "status": "waiting", "monitor": None, "mode": None},
            {"label": "diverged", "status": "diverged", "best": 0.5, "mode": mode},
        )
    )
    assert [row.label for row in rows] == [*order, "diverged", "waiting"]
    worst = math.inf if mode == "min" else -math.inf
    assert rows[2].measured.val == Spread(1, worst) and rows[3].measured.val == Spread()


def test_a_diverged_seed_is_counted_and_makes_the_mean_the_worst() -> None:
    (row,) = summarise(
        *lines(
            {"label": "a", "best": 0.1, "test": {"loss": 0.2, "mae": 0.3}},
            {"label": "a", "seed": 1, "best": 0.01, "status": "diverged", "value": math.inf, "test": None},
        )
    )
    assert row.measured.val == Spread(2, math.inf) == row.measured.test["loss"]
    assert row.measured.test["mae"] == Spread(2)  # whether less of it is better, the ledger does not know
    assert row.measured.statuses == {"completed": 1, "diverged": 1} and not row.measured.complete


def test_failed_and_unfinished_seeds_are_counted_and_leave_the_mean_alone() -> None:
    found = lines(
        {"label": "a", "best": 0.25},
        {"label": "a", "seed": 1, "status": "failed", "error": "no"},
        {"label": "a", "seed": 2, "status": "crashed"},
        {"label": "a", "seed": 3, "status": "interrupted"},
        {"label": "a", "seed": 4, "status": "waiting"},
    )
    (row,) = summarise(*found)
    assert row.measured.val == Spread(1, 0.25) and not row.measured.complete
    (cells,) = as_plain([row])
    wanted = {"points": 5, "n": 1, "val_mean": 0.25, "val_std": None, "failed": 1, "crashed": 1, "unfinished": 2}
    assert {name: cells[name] for name in wanted} == wanted


def test_a_configuration_without_a_validation_has_no_mean() -> None:
    (row,) = summarise(*lines({"label": "a", "best": None, "epochs": 0}))
    assert row.measured.val == Spread() and not row.measured.complete


def test_of_a_screening_the_confirmed_come_first_by_their_fresh_seeds() -> None:
    rows = summarise(
        *lines(
            {"label": "a", "stage": "screen", "best": 0.1, "seconds": 1.0},
            {"label": "b", "stage": "screen", "best": 0.2},
            {"label": "c", "stage": "screen", "best": 0.3, "seconds": 5.0},
            {"label": "a", "stage": "confirm", "seed": 1, "best": 0.4, "seconds": 3.0},
            {"label": "b", "stage": "confirm", "seed": 1, "best": 0.25},
        )
    )
    assert [row.label for row in rows] == ["b", "a", "c"]
    assert [row.screened and row.screened.val.mean for row in rows] == [0.2, 0.1, 0.3]
    assert [row.measured.val.mean for row in rows] == [0.25, 0.4, None]
    assert [cells["seconds"] for cells in as_plain(rows)] == [None, 3.0, 5.0]


def test_the_file_reads_back_to_the_same_bits(tmp_path: Path) -> None:
    values = [1 / 3, 0.1 + 0.2, 1e-300]
    rows = summarise(
        *lines(
            *({"label": f"x=[{n},1]", "best": v, "test": {"loss": v}, "seconds": v} for n, v in enumerate(values)),
            {"label": "other", "best": None, "status": "diverged"},
        )
    )
    write_summary(tmp_path / "summary.csv", rows)
    with (tmp_path / "summary.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["configuration"] for row in read] == [row.label for row in rows]
    assert [float(row["val_mean"]) for row in read] == [*sorted(values), math.inf]
    assert [row["test_loss_mean"] for row in read[:3]] == [repr(value) for value in sorted(values)]
    assert (read[3]["test_loss_mean"], read[3]["diverged"]) == ("", "1")


def test_a_table_shows_the_metric_that_is_watched_first() -> None:
    test = {"accuracy": 1.0, "f1": 1.0, "loss": 0.1, "recall": 1.0}
    rows = summarise(*lines({"label": "a", "best": 0.1, "test": test}))
    assert shown_metrics(rows) == ["loss", "accuracy", "f1"]
