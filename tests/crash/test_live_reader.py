"""Whoever reads a run while it is written sees whole files: nothing is ever torn, and nothing goes backwards."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from loopwright.record.index import Index
from loopwright.record.read import find_runs, read_config, read_json, read_sessions
from loopwright.report import frame
from support.warm import Warm

pytestmark = pytest.mark.slow

READS = 1000
TRAIN = (
    "train",
    "experiment=self_test",
    "task.data.rows=200",
    "model.hidden=[8]",
    "train.batch_size=8",
    "plots=none",
    "record.code=false",
    "record.console_every=0",
    "record.checkpoint_every='1 steps'",
    "record.keep_last=3",
    "train.epochs=400",
    "--out",
)


def read_everything(run: Path) -> dict[str, int]:
    """Parse every file of a run as its readers do; how far each has come."""
    assert isinstance(read_config(run), dict)
    environment = read_json(run / "environment.json")
    assert environment is None or environment["seed"] == 42
    metrics, steps = frame.metrics(run), frame.steps(run)
    for columns in (metrics, steps):
        assert len({len(values) for values in columns.values()}) <= 1
    numbers = steps.get("step", [])
    assert numbers == [float(n) for n in range(1, len(numbers) + 1)]
    epochs = metrics.get("epoch", [])
    assert epochs == [float(n) for n in range(1, len(epochs) + 1)]
    for row in read_sessions(run):
        assert row["host"] and row["pid"]
    events = (run / "events.jsonl").read_text() if (run / "events.jsonl").exists() else ""
    kinds = [json.loads(line)["event"] for line in events[: events.rfind("\n") + 1].splitlines()]
    result = read_json(run / "result.json")
    assert result is None or result["status"] in ("completed", "interrupted")
    index = read_json(run / "checkpoints/index.json")
    newest = 0
    if index is not None:
        newest = int(index["last"][5:14])
        assert [entry["step"] for entry in index["files"]][-1] == newest
        # Rows up to a committed checkpoint are there before its index is; a reader that comes later sees them.
        assert len(frame.steps(run)["step"]) >= newest
        assert not Index.read(run / "checkpoints").from_files
    for name in ("model.pt", "checkpoints/last.pt", "checkpoints/best.pt"):
        try:
            data = (run / name).read_bytes()
        except FileNotFoundError:  # not there yet; or the link's target was replaced between the two looks
            continue
        torch.load(io.BytesIO(data), weights_only=True)
    return {"steps": len(numbers), "epochs": len(epochs), "events": len(kinds), "committed": newest}


def test_a_live_run_is_never_torn(tmp_path: Path, warm: Warm) -> None:
    child = warm.start(*TRAIN, tmp_path)
    found: list[Path] = []
    while not found:
        found = [run.path for run in find_runs(tmp_path)]
    run, before, seen = found[0], {}, set()
    for _ in range(READS):
        now = read_everything(run)
        assert all(now[name] >= before.get(name, 0) for name in now), (before, now)
        seen.add(now["steps"])
        before = now
    child.kill()
    assert len(seen) > 100, "the reader was there while the run was written"
    with (run / "steps.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) > len(seen)
