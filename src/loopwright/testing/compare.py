"""Two run directories compared by content, time fields aside."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from loopwright.engine.weights import content_hash
from loopwright.record.checkpoint import content

# The lock names the process; figures, and what trackers were sent, are views of the rest.
_NOT_CONTENT = ("figures", "trackers", ".lock")
# What a process is, not what it computed; somebody may commit between two runs.
_OF_THE_PROCESS = ("pid", "argv", "git")


def is_time(name: str) -> bool:
    """Whether a field holds a time, a rate or a memory size, and so may differ between two equal runs."""
    return name == "seconds" or name.endswith(("_seconds", "_at", "_per_second", "_mib"))


def timeless(value: Any) -> Any:
    """A JSON value without its time fields, at any depth."""
    if isinstance(value, Mapping):
        return {name: timeless(item) for name, item in value.items() if not is_time(name)}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def assert_same(a: str | Path | None, b: str | Path | None, *, sessions: bool = False) -> None:
    """Fail with every difference of two runs. `sessions` compares also which processes worked on them."""
    assert a is not None and b is not None
    found = differences(Path(a), Path(b), sessions=sessions)
    assert not found, "\n".join(found)


def differences(a: Path, b: Path, *, sessions: bool = False) -> list[str]:
    """A line for each difference between two runs; empty where they have the same content."""
    left, right = (dict(_content(path, sessions)) for path in (a, b))
    lines = [f"{name}: only in {a.name}" for name in left if name not in right]
    lines += [f"{name}: only in {b.name}" for name in right if name not in left]
    for name in left.keys() & right.keys():
        lines += [f"{name}{line}" for line in _unequal(left[name], right[name])]
    return sorted(lines)


def trajectory(run: str | Path | None) -> dict[str, Any]:
    """What the cadence of validation, logging and checkpoints must not move: the loss of every step and the weights."""
    assert run is not None
    path = Path(run)
    losses = {row["step"]: row["loss"] for row in _rows(path / "steps.csv")}
    return {"losses": losses, "weights": json.loads((path / "result.json").read_text())["weights_sha256"]}


def _content(run: Path, sessions: bool) -> Iterator[tuple[str, Any]]:
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_dir() or name.split("/")[0] in _NOT_CONTENT or (name == "sessions.jsonl" and not sessions):
            continue
        if path.is_symlink():
            yield name, f"-> {path.readlink()}"
        else:
            yield name, _read(path)


def _read(path: Path) -> Any:
    if path.name == "index.json":
        index = json.loads(path.read_text())
        # The bytes of a file differ after a reload (pickle's memo), so do their hash and size; the content may not.
        index["files"] = [{k: v for k, v in entry.items() if k not in ("sha256", "size")} for entry in index["files"]]
        return {name: value for name, value in index.items() if name not in ("model_sha256", "loss_sha256", "checksum")}
    if path.name == "environment.json":
        return {k: v for k, v in timeless(json.loads(path.read_text())).items() if k not in _OF_THE_PROCESS}
    if path.name == "sessions.jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in timeless(row).items() if k not in _OF_THE_PROCESS} for row in rows]
    if path.suffix == ".json":
        return timeless(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [timeless(json.loads(line)) for line in path.read_text().splitlines()]
    if path.suffix == ".csv":
        return _rows(path)
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text())
    if path.suffix == ".pt":
        tree = torch.load(path, map_location="cpu", weights_only=True)
        if "model_state_dict" not in tree:
            return content_hash(tree)
        # Part by part, so that a difference says where; and as the index hashes it.
        inside = {name: content({name: part}) for name, part in tree.items() if name not in ("config", "log_lengths")}
        return {**inside, "content_sha256": content(tree)}
    return path.read_bytes()


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if not is_time(k)} for row in csv.DictReader(file)]


def _unequal(a: Any, b: Any, place: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        if list(a) != list(b) and set(a) == set(b):
            yield f"{place}: keys in another order: {list(a)} != {list(b)}"
        for name in {**a, **b}:
            if name not in a or name not in b:
                yield f"{place}.{name}: only in one of the two"
            else:
                yield from _unequal(a[name], b[name], f"{place}.{name}")
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{place}: {len(a)} != {len(b)} items"
        for number, (left, right) in enumerate(zip(a, b, strict=False)):
            yield from _unequal(left, right, f"{place}[{number}]")
    elif type(a) is not type(b) or a != b:
        yield f"{place}: {a!r} != {b!r}"
