"""What the engine adds to a step: a tiny MLP (10-4-1, batch 10) against a bare loop over the same gathered batches
with the same optimizer and `.item()`. On so small a step every microsecond of Python shows.

The recorded run also validates, writes its rows and checkpoints; that is in the number.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from benchmarks.measure import Result, cpu_seconds, marginal_pairs
from benchmarks.recorded import ROWS, regression, timed
from loopwright import experiment
from loopwright.building import build

BOUND_US = 10.0
_BATCH = 10


def ours(epochs: int) -> float:
    return timed(lambda root: experiment.run(regression(epochs, batch_size=_BATCH, hidden=[4]), out=root))[0]


def bare(epochs: int) -> float:
    built = build(regression(epochs, batch_size=_BATCH, hidden=[4]), torch.device("cpu"))
    model, optimizer, loader = built.state.model, built.state.optimizers["main"], built.task.loader("train")
    params, criterion = built.state.groups["main"], torch.nn.functional.mse_loss
    losses: list[float] = []

    def loop() -> None:
        for epoch in range(epochs):
            for x, y in loader.epoch(epoch):  # type: ignore[union-attr]
                loss = criterion(model(x), y)
                for p in params:
                    p.grad = None
                loss.backward()
                optimizer.step()
                losses.append(loss.item())

    return cpu_seconds(loop)[0]


def benchmark(quick: bool) -> Iterator[Result]:
    low, high = 2, 10
    steps = (high - low) * ROWS // _BATCH
    pairs = marginal_pairs(ours, bare, low, high, 3 if quick else 15)
    added = [(a - b) / steps * 1e6 for a, b in pairs]
    detail = {
        "ours_us_per_step": round(statistics.median(a for a, _ in pairs) / steps * 1e6, 1),
        "bare_us_per_step": round(statistics.median(b for _, b in pairs) / steps * 1e6, 1),
    }
    yield Result(
        "the engine's own cost over a bare loop", statistics.median(added), "us a step", BOUND_US, added, detail
    )
