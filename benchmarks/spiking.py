"""The spiking models of set prediction at their defaults, window 21, batch 64, Adam, against the same nets of snntorch.

By hand: the network as snntorch's tutorials write one, a loop over the simulated time around nn.Linear and snn.Leaky. It
gets our weights, and the transformer's dropout mask is drawn once per batch on either side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import snntorch
import torch
from snntorch import surrogate
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import by_hand
from benchmarks.measure import Result, cpu_seconds, marginal_pairs, ratio
from benchmarks.recorded import timed
from loopwright import experiment
from loopwright.building import build
from loopwright.config.schema import Recipe, parse

BOUND = 1 / 1.5
# Largest difference of a logit between the two networks of equal weights: the same spikes, summed in another order.
LOGIT_BOUND = 1e-4
WINDOW, TIME_STEPS = 21, {"spiking_mlp": 10, "spiking_transformer": 4}


def leaky(slope: float) -> snntorch.Leaky:
    return snntorch.Leaky(beta=0.95, spike_grad=surrogate.fast_sigmoid(slope), init_hidden=True)


class PlainMLP(nn.Module):
    """819 -> 256 -> 128, read out from the mean spikes. `hoisted`: the first product, the same in every step, once."""

    def __init__(self, hoisted: bool = False) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(WINDOW * 39, 256), nn.Linear(256, 128)])
        self.neurons = nn.ModuleList(leaky(25.0) for _ in self.hidden)
        self.readout = nn.Linear(128, 39)
        self.hoisted = hoisted

    def forward(self, x: Tensor) -> Tensor:
        at_rest(self)
        x, (first, second) = x.flatten(1), self.neurons
        fired, held = [], self.hidden[0](x) if self.hoisted else None
        for _ in range(TIME_STEPS["spiking_mlp"]):
            spikes = first(self.hidden[0](x) if held is None else held)
            fired.append(second(self.hidden[1](spikes)))
        return self.readout(torch.stack(fired).mean(0))  # type: ignore[no-any-return]


class PlainBlock(nn.Module):
    def __init__(self, d_model: int = 128, d_ffn: int = 256) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, d_ffn), nn.Linear(d_ffn, d_model)
        self.neurons = nn.ModuleList(leaky(2.0) for _ in range(5))

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        of_qkv, of_heads, of_attention, of_hidden, of_output = self.neurons
        q, k, v = of_qkv(self.qkv(x)).unflatten(-1, (3, 4, -1)).permute(2, 0, 3, 1, 4)
        heads = of_heads(((q @ k.transpose(-2, -1)) @ v / math.sqrt(32)).transpose(1, 2).flatten(2))
        x = of_attention(x + masks[0] * self.out(heads))
        return of_output(x + masks[1] * self.down(of_hidden(self.up(x))))  # type: ignore[no-any-return]


class PlainTransformer(nn.Module):
    """Width 128, two blocks of four heads, read out from the mean spikes of all positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions_WD = nn.Linear(39, 128), nn.Parameter(torch.empty(WINDOW, 128))
        self.neurons = leaky(2.0)
        self.blocks = nn.ModuleList(PlainBlock() for _ in range(2))
        self.readout = nn.Linear(128, 39)

    def forward(self, x: Tensor) -> Tensor:
        at_rest(self)
        masks = F.dropout(x.new_ones(2, 2, len(x), WINDOW, 128), 0.1, self.training)
        fired = []
        for _ in range(TIME_STEPS["spiking_transformer"]):
            spikes = self.neurons(self.embedding(x) + self.positions_WD)
            for block, of_block in zip(self.blocks, masks, strict=True):
                spikes = block(spikes, of_block)
            fired.append(spikes)
        return self.readout(torch.stack(fired).mean((0, 2)))  # type: ignore[no-any-return]


def at_rest(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, snntorch.Leaky):
            module.reset_mem()


def benchmark(quick: bool) -> Iterator[Result]:
    pairs = 2 if quick else 5
    yield from against_snntorch("spiking_mlp", "", PlainMLP, {}, 3_000, BOUND, pairs)
    if not quick:
        once = {"hoisted": True}
        yield from against_snntorch("spiking_mlp", ", first layer once by hand too", PlainMLP, once, 3_000, None, pairs)
    yield from against_snntorch("spiking_transformer", "", PlainTransformer, {}, 640, BOUND, pairs)


def against_snntorch(
    name: str, note: str, plain: type[nn.Module], given: dict[str, Any], windows: int, bound: float | None, pairs: int
) -> Iterator[Result]:
    built = build(recipe(name, windows, 1), torch.device("cpu"))
    weights = built.state.model.state_dict()
    rows = built.task.slices["train"]  # type: ignore[attr-defined]
    data = built.task.x[rows].contiguous(), built.task.y[rows].contiguous()  # type: ignore[attr-defined]
    assert len(data[0]) == windows

    def by_snntorch() -> nn.Module:
        model = plain(**given)
        missing, unexpected = model.load_state_dict(weights, strict=False)
        assert not unexpected and all("neurons" in key for key in missing)
        return model

    with torch.no_grad():
        logits = [model.eval()(data[0][:64]) for model in (built.state.model, by_snntorch())]
    difference = float((logits[0] - logits[1]).abs().max())

    def ours(epochs: int) -> float:
        return timed(lambda root: experiment.run(recipe(name, windows, epochs), out=root))[0]

    def theirs(epochs: int) -> float:
        model, criterion = by_snntorch(), nn.BCEWithLogitsLoss()
        return cpu_seconds(lambda: by_hand.train(model, criterion, data, epochs=epochs, batch_size=64, lr=1e-3))[0]

    found = marginal_pairs(ours, theirs, 1, 3, pairs)
    yield ratio(f"{name}, batch 64, against snntorch{note}", found, 2 * -(-windows // 64), bound)
    if not note:
        yield Result(f"{name}: largest difference of a logit to snntorch's", difference, "", LOGIT_BOUND)


def recipe(name: str, windows: int, epochs: int) -> Recipe:
    """A model at its defaults on so many training windows; a hundredth of them more to validate on."""
    total = math.ceil(windows / 0.98)
    data = {"shuffle": True, "window": WINDOW, "split": [0.98, 0.01, 0.01], "synthetic": {"rows": total + WINDOW}}
    return parse(
        {
            "name": "benchmark",
            "seed": 0,
            "task": {"name": "set_prediction", "data": data},
            "model": {"name": name},
            "optim": {"name": "adam"},
            "train": {"epochs": epochs, "batch_size": 64},
            "plots": "none",
        }
    )
