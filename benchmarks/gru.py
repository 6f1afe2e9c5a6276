"""GRU set prediction: 10,000 windows of 21 events, 39 parts, hidden 64, batch 64, Adam, against nn.GRU by hand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks import by_hand
from benchmarks.measure import Result, cpu_seconds, marginal_pairs, ratio
from benchmarks.recorded import ROWS, set_prediction, timed
from loopwright import experiment
from loopwright.building import build

BOUND = 0.95
LOSS_BOUND = 1e-5


class Plain(nn.Module):
    """nn.GRU, batch first, read out from its final state."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.readout = nn.GRU(39, 64, batch_first=True), nn.Linear(64, 39)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.gru(x)[1][-1])  # type: ignore[no-any-return]


def benchmark(quick: bool) -> Iterator[Result]:
    yield from against_by_hand(1, BOUND, 2 if quick else 5)
    if not quick:
        yield from against_by_hand(2, None, 1)


def against_by_hand(threads: int, bound: float | None, pairs: int) -> Iterator[Result]:
    built = build(set_prediction(1), torch.device("cpu"))
    weights = {name.replace("layers.0", "gru"): w for name, w in built.state.model.state_dict().items()}
    rows = built.task.slices["train"]  # type: ignore[attr-defined]
    data = built.task.x[rows].contiguous(), built.task.y[rows].contiguous()  # type: ignore[attr-defined]
    assert len(data[0]) == ROWS
    first: dict[str, float] = {}

    def ours(epochs: int) -> float:
        recipe = set_prediction(epochs, threads=threads)
        seconds, _, rows = timed(lambda root: experiment.run(recipe, out=root))
        first["ours"] = float(rows[0]["train_loss"])
        return seconds

    def theirs(epochs: int) -> float:
        model = Plain()
        model.load_state_dict(weights)
        torch.set_num_threads(threads)
        seconds, history = cpu_seconds(
            lambda: by_hand.train(model, nn.BCEWithLogitsLoss(), data, epochs=epochs, batch_size=64, lr=1e-3)
        )
        torch.set_num_threads(1)
        first["theirs"] = history[0]
        return seconds

    steps = 2 * -(-ROWS // 64)
    found = marginal_pairs(ours, theirs, 1, 3, pairs)
    yield ratio(f"GRU set prediction, batch 64, {threads} thread{'s' * (threads > 1)}", found, steps, bound)
    if threads == 1:
        yield Result(
            "GRU set prediction: first epoch's loss, difference", abs(first["ours"] - first["theirs"]), "", LOSS_BOUND
        )
