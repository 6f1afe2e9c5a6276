"""The data files of a point: a run's identity has their content, which nobody wants to read to see how a sweep stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def stamps(recipe: Mapping[str, Any]) -> dict[str, list[int]]:
    """Size and time (ns) of each file that the task of a recipe (as plain values) names and that is there."""
    found = {}
    for path in _paths(recipe.get("task")):
        with suppress(OSError, ValueError):
            facts = os.stat(path)
            found[path] = [facts.st_size, facts.st_mtime_ns]
    return found


def changed(recipe: Mapping[str, Any], then: Any) -> bool:
    """Whether a file is another than it was. One that is gone is not: what was trained on it still holds."""
    if not isinstance(then, Mapping):
        return False
    return any(path in then and then[path] != stamp for path, stamp in stamps(recipe).items())


def _paths(value: Any) -> Iterator[str]:
    """Recipes hold the files they name as absolute paths."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, str) and Path(value).is_absolute():
        yield value
