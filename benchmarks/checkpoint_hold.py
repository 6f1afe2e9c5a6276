"""How long a checkpoint of 100 or 500 MB holds the training, against torch.save and fsync in the loop. Wall time."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import Result
from loopwright.config.durations import Duration
from loopwright.engine.history import Ranking
from loopwright.engine.loss import Loss
from loopwright.engine.state import TrainState
from loopwright.optim import fused
from loopwright.record.lock import DirectoryLock
from loopwright.record.recorder import RunRecorder
from loopwright.record.settings import RecordSettings

# One square layer of this width: a third of the megabytes are weights, the rest Adam's moments.
_WIDTHS = {100: 2886, 500: 6454}


def benchmark(quick: bool) -> Iterator[Result]:
    for megabytes in _WIDTHS:
        yield from _held(megabytes, quick)


def _held(megabytes: int, quick: bool) -> Iterator[Result]:
    width = _WIDTHS[megabytes]
    state = TrainState(
        model := nn.Linear(width, width),
        {"main": list(model.parameters())},
        lambda params: fused.Adam(params, lr=1e-3, fused=True),
    )
    state.apply(Loss(model(torch.ones(1, width)).mean(), 1))
    plain, held, total = [], [], []
    with tempfile.TemporaryDirectory() as root:
        path = Path(root)
        lock = DirectoryLock(path / ".lock").acquire()
        settings = RecordSettings(checkpoint_every=Duration.parse("1 steps"))
        recorder = RunRecorder(path, settings, ranking=Ranking("val_loss", "min"), seed=0, config={}, lock=lock)
        recorder.open(state)
        for step in range(1, (3 if quick else 7) + 2):
            state.step = step
            started = time.perf_counter()
            with open(path / "plain.pt", "wb") as file:
                torch.save(state.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
            plain.append(time.perf_counter() - started)
            started = time.perf_counter()
            recorder.checkpoint(state, frozenset(), now=False)
            held.append(time.perf_counter() - started)
            recorder.wait()
            total.append(time.perf_counter() - started)
        recorder.close()
        lock.release()
    medians = [statistics.median(times[1:]) for times in (held, plain, total)]  # the first ones warm up
    detail = {"torch_save_and_fsync_s": round(medians[1], 3), "until_committed_s": round(medians[2], 3)}
    yield Result(f"a checkpoint of {megabytes} MB holds the step for", medians[0], "s", None, held[1:], detail)
    yield Result("the same, against torch.save + fsync", medians[0] / medians[1], "x", None)
