"""Scores for the next event, from the last events up to a day."""

from __future__ import annotations

from bisect import bisect_right
from datetime import date

import torch
from torch import Tensor, nn

from loopwright.engine.compute import device_of
from loopwright.engine.evaluate import measured
from loopwright.errors import DataError, UserError
from loopwright.tasks.set_prediction.history import History
from loopwright.tasks.set_prediction.metrics import ranking
from loopwright.tasks.set_prediction.validate import NUM_PARTS


def predict(
    model: nn.Module, history: History, window: int, asof: date | None = None, top_k: int = 20
) -> list[tuple[int, int, float]]:
    """(rank from 1, part, score) of the `top_k` highest parts, from the last `window` events up to `asof`, inclusive.

    `asof=None` means the whole history; the score is the model's output, a logit for a trained one. Raises UserError
    for `top_k` outside 1..39 and DataError when fewer than `window` events have happened by then.
    """
    if not 1 <= top_k <= NUM_PARTS:
        raise UserError(f"top_k is {top_k}; use 1 to {NUM_PARTS}")
    end = len(history) if asof is None else bisect_right(history.dates, asof)
    if end < window:
        until = f" up to {asof}" if asof else ""
        raise DataError(
            f"the history has {end} events{until}, fewer than the window of {window}; use a later day or more events"
        )
    x_1WF = torch.from_numpy(history.vectors[end - window : end]).to(device_of(model), torch.float32)[None]
    logits_1F = score(model, x_1WF)
    best = ranking(logits_1F)[0, :top_k]
    rows = zip(best.tolist(), logits_1F[0, best].tolist(), strict=True)
    return [(rank, column + 1, value) for rank, (column, value) in enumerate(rows, 1)]


def score(model: nn.Module, x_BWF: Tensor) -> Tensor:
    """The logits (B, F) of windows (B, W, F), in evaluation mode and without grad; the model is as before afterwards."""
    logits: Tensor = measured(lambda: model(x_BWF), model)
    return logits.detach()
