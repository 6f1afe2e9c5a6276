"""What a run recorded of the arguments of `fit`, and in what two such records differ. Needs no torch."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loopwright.content.tree import differences
from loopwright.record.read import read_json

FILE = "arguments.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_WORDS = {"train": "the training data", "val": "the validation data", "test": "the test data"}


def read_arguments(run: Path) -> dict[str, Any] | None:
    """What a run recorded of the arguments of `fit`; None where it did not."""
    return read_json(run / "task" / FILE)


def differing_arguments(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each argument that differs in two records: "the loss: `weight` was [1.0, 50.0], is now None"."""
    code = recorded.get("python") == now.get("python")
    a, b = recorded.get("arguments") or {}, now.get("arguments") or {}
    lines = []
    for name in dict.fromkeys((*a, *b)):
        found = differences(a.get(name), b.get(name), code=code)
        if found:
            lines.append(f"{_argument(name)}: {', '.join(found)}")
    return lines


_METRICS = {"metrics": "the metric", "train_metrics": "the training metric"}


def _argument(name: str) -> str:
    kind, _, metric = name.partition(".")
    return f"{_METRICS[kind]} `{metric}`" if kind in _METRICS else _WORDS.get(kind, f"the {kind}")


def place_of(name: str) -> str:
    """A place within an argument, for people: "the loss: `weight`"."""
    argument, _, place = name.partition(".")
    if argument in _METRICS:
        metric, _, place = place.partition(".")
        return f"{_METRICS[argument]} `{metric}`" + (f": `{place}`" if place else "")
    return _argument(argument) + (f": `{place}`" if place else "")
