"""What a run of a sweep costs, its start included: `loopwright sweep` with one worker, against a process per run.

By hand is what a shell loop over a plain PyTorch script costs: the same MLP on the same numbers, nothing recorded. The third
side is `loopwright train` in a shell loop. CPU seconds of all processes together, divided by the runs; sides take turns.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Result, child_cpu_seconds

RUNS, EPOCHS = 20, 5
BOUND = 0.5
_RECIPE = ("experiment=self_test", f"train.epochs={EPOCHS}", "plots=none", "record.code=false")
_BY_HAND = f"""
import torch
from torch import nn
from benchmarks.by_hand import train
torch.set_num_threads(1)
x = torch.randn(5000, 16)
data = x[:3500], (x @ torch.randn(16, 1))[:3500]
model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
train(model, nn.MSELoss(), data, epochs={EPOCHS}, batch_size=128, lr=1e-3)
"""


def benchmark(quick: bool) -> Iterator[Result]:
    runs, pairs = (4, 1) if quick else (RUNS, 3)
    with tempfile.TemporaryDirectory() as pycache:
        _sweep(1, pycache), _processes(1, "-m", pycache), _processes(1, "-c", pycache)  # bytecode
        found = [
            (_sweep(runs, pycache), _processes(1, "-m", pycache), _processes(2, "-c", pycache)) for _ in range(pairs)
        ]
    for side, column, bound in (("a plain script by hand", 2, BOUND), ("`loopwright train`", 1, None)):
        ratios = [sides[0] / sides[column] for sides in found]
        detail = {
            "sweep_cpu_seconds_per_run": round(statistics.median(sides[0] for sides in found), 2),
            "process_cpu_seconds_per_run": round(statistics.median(sides[column] for sides in found), 2),
        }
        claim = f"a run of a sweep of {runs}, {EPOCHS} epochs of a small MLP, against a process per run: {side}"
        yield Result(claim, statistics.median(ratios), "x by hand" if bound else "x", bound, ratios, detail)


def _sweep(runs: int, pycache: str) -> float:
    with tempfile.TemporaryDirectory() as out:
        arguments = ["-m", "loopwright", "train", "-m", *_RECIPE, f"seed=range({runs})", "launcher.workers=1"]
        seconds, _ = child_cpu_seconds([*arguments, "--out", out], pycache)
        assert len(list(Path(out).glob("self_test/*/result.json"))) == runs
    return seconds / runs


def _processes(times: int, kind: str, pycache: str) -> float:
    """CPU seconds of one process: of the command, or of the script."""
    found = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as out:
            command = ["-m", "loopwright", "train", *_RECIPE, "--out", out] if kind == "-m" else ["-c", _BY_HAND]
            found.append(child_cpu_seconds(command, pycache)[0])
    return statistics.median(found)
