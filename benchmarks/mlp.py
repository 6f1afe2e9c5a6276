"""MLP regression: 10,000 x 10, hidden 3 x 64, Adam; the marginal cost of epochs against the loop by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import loopwright
from benchmarks import by_hand
from benchmarks.measure import Result, cpu_seconds, marginal_pairs, ratio
from benchmarks.recorded import ROWS, regression, timed
from loopwright import experiment
from loopwright.building import build

BOUND = 0.45
LOSS_BOUND = 1e-5
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


def network(activation: str) -> nn.Sequential:
    act = _ACTIVATIONS[activation]
    sizes = ((10, 64), (64, 64), (64, 64))
    return nn.Sequential(*(layer for a, b in sizes for layer in (nn.Linear(a, b), act())), nn.Linear(64, 1))


def initial(activation: str) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The recipe's initial weights and training data."""
    built = build(regression(1, activation=activation), torch.device("cpu"))
    return built.state.model.state_dict(), built.task.splits["train"]  # type: ignore[attr-defined]


def benchmark(quick: bool) -> Iterator[Result]:
    pairs = 2 if quick else 5
    cases = [("relu", 128, 1, BOUND), ("gelu", 128, 1, BOUND), ("relu", 32, 1, None), ("gelu", 32, 1, None)]
    if not quick:
        cases.append(("relu", 128, 2, None))
    for activation, batch_size, threads, bound in cases:
        yield from against_by_hand(activation, batch_size, threads, bound, pairs)
    yield python(pairs)


def against_by_hand(
    activation: str, batch_size: int, threads: int, bound: float | None, pairs: int
) -> Iterator[Result]:
    weights, data = initial(activation)
    first: dict[str, float] = {}

    def ours(epochs: int) -> float:
        recipe = regression(epochs, batch_size=batch_size, activation=activation, threads=threads)
        seconds, _, rows = timed(lambda root: experiment.run(recipe, out=root))
        first["ours"] = float(rows[0]["train_loss"])
        return seconds

    def theirs(epochs: int) -> float:
        model = network(activation)
        model.load_state_dict(weights)
        torch.set_num_threads(threads)
        seconds, history = cpu_seconds(
            lambda: by_hand.train(model, nn.MSELoss(), data, epochs=epochs, batch_size=batch_size, lr=1e-3)
        )
        torch.set_num_threads(1)
        first["theirs"] = history[0]
        return seconds

    # Marginal cost: 40 epochs minus 8 at batch 128; as many steps at batch 32.
    low, high = (8, 40) if batch_size == 128 else (2, 10)
    if threads > 1:
        low, high, pairs = 1, 3, 2
    steps = (high - low) * -(-ROWS // batch_size)
    name = f"MLP regression, {activation}, batch {batch_size}"
    found = marginal_pairs(ours, theirs, low, high, pairs)
    yield ratio(f"{name}, {threads} thread{'s' * (threads > 1)}", found, steps, bound)
    if threads == 1:
        yield Result(f"{name}: first epoch's loss, difference", abs(first["ours"] - first["theirs"]), "", LOSS_BOUND)


def python(pairs: int) -> Result:
    """The same by `loopwright.fit` on a module and a loss of one's own, without a validation split."""
    weights, data = initial("relu")

    def fresh() -> nn.Sequential:
        model = network("relu")
        model.load_state_dict(weights)
        return model

    def ours(epochs: int) -> float:
        def train(root: str) -> loopwright.Outcome:
            return loopwright.fit(
                fresh(), nn.MSELoss(), train=data, epochs=epochs, batch_size=128, lr=1e-3, out=root, plots="none"
            )

        return timed(train)[0]

    def theirs(epochs: int) -> float:
        model = fresh()
        return cpu_seconds(lambda: by_hand.train(model, nn.MSELoss(), data, epochs=epochs, batch_size=128, lr=1e-3))[0]

    steps = 32 * -(-ROWS // 128)
    return ratio(
        "MLP by loopwright.fit, relu, batch 128, 1 thread", marginal_pairs(ours, theirs, 8, 40, pairs), steps, BOUND
    )
