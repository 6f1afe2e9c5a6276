"""Greedy generation of 1000 walks of 256 tokens, window 64 (500 vertices, d 128, 4 layers), against full forwards.

The plain way is `generate_plainly`, whose 255 forwards of all walks take some eight minutes. A forward's cost depends on
its shape alone, so it is measured at seven of these positions and scaled; token for token it is compared on 24 walks.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measure import Result, cpu_seconds
from loopwright.models.transformer import Transformer, TransformerConfig
from loopwright.streams import Streams
from loopwright.tasks.walks.corpus import items, make_walks
from loopwright.tasks.walks.generate import Generated, generate, generate_plainly
from loopwright.tasks.walks.graph import make_graph
from loopwright.tasks.walks.jumpers import choose_jumpers
from loopwright.tasks.walks.settings import WalksData
from loopwright.tasks.walks.steering import steering

UNTRAINED, TRAINED = 1 / 10, 1 / 12
DATA = WalksData()
LENGTH, WINDOW, WALKS, COMPARED, STEPS = DATA.walk_length, DATA.window, 1000, 24, 300
# (tokens of the context, how many of the 255 positions such a forward stands for)
POSITIONS = [(8, 16), (24, 16), (40, 16), (56, 15), *[(WINDOW, (LENGTH - WINDOW) // 3)] * 3]


def benchmark(quick: bool) -> Iterator[Result]:
    assert sum(count for _, count in POSITIONS) == LENGTH - 1
    starts, chunks = walks()
    Streams(0).pin("weights")
    config = TransformerConfig(d_model=128, layers=4, heads=4, dropout=0.0, positions="learned")
    model = config.build(DATA.vertices, WINDOW, {"next": DATA.vertices})
    yield from against_full_forwards(model, starts, "an untrained model", UNTRAINED, 1 if quick else 2)
    train(model, chunks)
    yield from against_full_forwards(model, starts, f"a model of {STEPS} steps", TRAINED, 1 if quick else 2)


def walks() -> tuple[Tensor, Tensor]:
    """The starts of 1000 of 20,000 held-out walks, and chunks of 6,000 others; on the anchor's graph."""
    graph = make_graph(DATA.vertices, DATA.blocks, DATA.p_in, DATA.p_out, DATA.seed)
    rules = choose_jumpers(graph, DATA.jumpers_per_block, DATA.jumper_delays(), DATA.seed)
    tables = steering(graph, rules)
    first = make_walks(tables, 20_000, 2, DATA.seed, "val")[:, 0].astype(np.int64)
    order = Streams(DATA.seed).numpy("walks", "judged").permutation(len(first))[:WALKS]
    chunks = items(make_walks(tables, 6_000, LENGTH, DATA.seed, "train"), WINDOW)
    return torch.from_numpy(first[order]), torch.from_numpy(chunks.astype(np.int64))


def train(model: Transformer, chunks: Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    for step in range(STEPS):
        batch = chunks[torch.randint(len(chunks), (32,), generator=Streams(0).generator("step", step))]
        loss = F.cross_entropy(model(batch[:, :-1])["next"].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def plain_seconds(model: Transformer, tokens: Tensor) -> float:
    """CPU time of the plain way for these walks, from forwards at `POSITIONS`; once the memory is warm."""

    def forward(context: int) -> None:
        model(tokens[:, :context])["next"][:, -1].argmax(-1)

    model.eval()
    with torch.inference_mode():
        forward(WINDOW)
        return sum(count * cpu_seconds(lambda at=context: forward(at))[0] for context, count in POSITIONS)


def against_full_forwards(model: Transformer, starts: Tensor, name: str, bound: float, pairs: int) -> Iterator[Result]:
    ours, theirs = [], []
    made: Generated
    for _ in range(pairs):
        seconds, made = cpu_seconds(lambda: generate(model, starts, LENGTH, WINDOW))
        ours.append(seconds)
        theirs.append(plain_seconds(model, made.tokens))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    detail = {
        "ours_s": round(statistics.median(ours), 1),
        "plain_s": round(statistics.median(theirs), 1),
        "times_faster": round(1 / statistics.median(ratios), 1),
        "full_windows": made.full_windows,
        "of_windows": WALKS * (LENGTH - WINDOW),
        "ties": made.ties,
        "distinct_starts": len(torch.unique(starts)),
    }
    claim = f"greedy generation by {name}, {WALKS} walks of {LENGTH}"
    yield Result(claim, statistics.median(ratios), "x full forwards", bound, ratios, detail)

    few = starts[: 4 * COMPARED]
    seconds, alone = cpu_seconds(lambda: generate(model, few, LENGTH, WINDOW, memo=False))
    plainly = plain_seconds(model, alone.tokens)
    detail = {"times_faster": round(plainly / seconds, 2), "walks": len(few)}
    yield Result(
        f"greedy generation by {name}, without the memo", seconds / plainly, "x full forwards", None, [], detail
    )

    plain = generate_plainly(model, starts[:COMPARED], LENGTH, WINDOW)
    differ = sum(int((tokens[:COMPARED] != plain).sum()) for tokens in (made.tokens, alone.tokens))
    yield Result(f"greedy generation by {name}: tokens that differ in {COMPARED} walks", differ, "", 0)
