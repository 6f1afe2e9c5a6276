"""Runs with a real directory: history, steps.csv, events and checkpoints are written, and their rows counted after."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import cpu_seconds
from loopwright.config.schema import Recipe, parse
from loopwright.engine.outcome import Outcome

ROWS = 10_000


def regression(
    epochs: int, *, batch_size: int = 128, activation: str = "relu", threads: int = 1, **more: Any
) -> Recipe:
    """10,000 training rows of 10 features to one target, and 1,250 to validate on; hidden 3 x 64, Adam."""
    data = {"name": "linear", "rows": 12_500, "features": 10, "split": [0.8, 0.1, 0.1]}
    return parse(
        {
            "name": "benchmark",
            "seed": 0,
            "threads": threads,
            "task": {"name": "regression", "data": data},
            "model": {"name": "mlp", "hidden": more.get("hidden", [64, 64, 64]), "activation": activation},
            "optim": {"name": "adam"},
            "train": {"epochs": epochs, "batch_size": batch_size},
            "plots": "none",
        }
    )


def set_prediction(epochs: int, *, threads: int = 1) -> Recipe:
    """10,000 training windows of 21 events, 39 parts, and 555 to validate on; GRU of 64, Adam, batch 64."""
    data = {"shuffle": True, "window": 21, "split": [0.9, 0.05, 0.05], "synthetic": {"rows": 11_133}}
    return parse(
        {
            "name": "benchmark",
            "seed": 0,
            "threads": threads,
            "task": {"name": "set_prediction", "data": data},
            "model": {"name": "gru", "hidden": 64},
            "optim": {"name": "adam"},
            "train": {"epochs": epochs, "batch_size": 64},
            "plots": "none",
        }
    )


def timed(train: Callable[[str], Outcome]) -> tuple[float, Outcome, list[dict[str, str]]]:
    """CPU seconds of a recorded training, its outcome, and the rows of metrics.csv.

    Raises AssertionError unless it was completed, steps.csv has a row per step, metrics.csv one per epoch, and the last
    step is committed.
    """
    with tempfile.TemporaryDirectory() as root:
        seconds, outcome = cpu_seconds(lambda: train(root))
        assert outcome.status == "completed", f"{outcome.status}: {outcome.reason}"
        path = Path(outcome.run or "")
        steps, rows = _rows(path / "steps.csv"), _rows(path / "metrics.csv")
        assert len(steps) == outcome.steps, f"{len(steps)} rows for {outcome.steps} steps"
        assert len(rows) == outcome.epochs, f"{len(rows)} rows for {outcome.epochs} epochs"
        assert (path / "checkpoints" / f"step_{outcome.steps:09d}.pt").is_file()
        return seconds, outcome, rows


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
