"""Training the walks' transformer (500 vertices, d 128, 4 layers, 4 heads, context 64, batch 64) against torch's layers.

By hand: nn.TransformerEncoder with a causal mask, AdamW, warm-up and cosine by LambdaLR, clipping, `.item()` at every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.by_hand import Replay
from benchmarks.measure import Result, cpu_seconds, marginal_pairs, ratio
from benchmarks.recorded import timed
from loopwright import compose, experiment
from loopwright.building import build
from loopwright.config.schema import Recipe

WALKS, BATCH = 480, 64
TOKENS = 64 * BATCH


class Plain(nn.Module):
    """What torch offers: an embedding, learned positions, nn.TransformerEncoder, a bias-free read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(500, 128), nn.Embedding(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 512, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, nn.LayerNorm(128), enable_nested_tensor=False)
        self.readout = nn.Linear(128, 500, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embedding(tokens) + self.positions(torch.arange(length))
        return self.readout(self.layers(x, mask=mask, is_causal=True))  # type: ignore[no-any-return]


def benchmark(quick: bool) -> Iterator[Result]:
    built = build(recipe(1), torch.device("cpu"))
    loader = built.task.loader("train")
    items = loader.tensors[0].long()  # type: ignore[union-attr]
    steps = 2 * -(-len(items) // BATCH)

    def ours(epochs: int) -> float:
        return timed(lambda root: experiment.run(recipe(epochs), out=root))[0]

    def theirs(epochs: int) -> float:
        torch.manual_seed(0)
        model = Plain()
        return cpu_seconds(lambda: by_hand(model, items, epochs))[0]

    found = marginal_pairs(ours, theirs, 1, 3, 2 if quick else 4)
    result = ratio("walks' transformer, batch 64 of 64 tokens", found, steps, None)
    result.detail["ours_tokens_per_s"] = round(TOKENS / result.detail["ours_us_per_step"] * 1e6)
    yield result


def recipe(epochs: int) -> Recipe:
    """The anchor's model and optimizer on a few walks; validation, which generates, only at the end."""
    return compose(
        "experiment=walks_anchor",
        f"task.data.num_walks={WALKS}",
        "task.evaluation.walks=1",
        f"train.epochs={epochs}",
        "train.validate_every=100 epochs",
        "stop.gate=null",
        "plots=none",
        "record.code=false",
        "device=cpu",
    )


def by_hand(model: nn.Module, items: Tensor, epochs: int) -> None:
    loader = DataLoader(TensorDataset(items), batch_size=BATCH, sampler=Replay(42, len(items)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
    total = epochs * len(loader)
    warm = total // 10

    def rate(step: int) -> float:
        if step < warm:
            return step / warm
        return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for _ in range(epochs):
        for (batch,) in loader:
            optimizer.zero_grad()
            logits = model(batch[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss.item()
