"""Walks for tests: small graphs and data, compliance as a plain double loop, and the smallest token model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from loopwright.models.base import TokenModel
from loopwright.tasks.walks.graph import Graph
from loopwright.tasks.walks.jumpers import Jumper
from loopwright.tasks.walks.settings import WalksData

Array = NDArray[Any]


def graph_of(table: Sequence[Sequence[int]] | Array, blocks: int) -> Graph:
    """A graph from its adjacency table (n, n) of 0 and 1."""
    dense = np.asarray(table, dtype=np.int8)
    n = len(dense)
    adjacency = csr_array(dense)
    adjacency.sort_indices()
    block = np.repeat(np.arange(blocks), n // blocks)
    nothing = np.zeros((blocks, blocks))
    return Graph(adjacency, block, blocks, nothing, nothing, nothing, nothing, 1)


def random_graph(generator: np.random.Generator, n: int, blocks: int, p: float) -> Graph:
    """Independent edges, and a cycle through all vertices in a drawn order, so that it is strongly connected."""
    table = generator.random((n, n)) < p
    order = generator.permutation(n)
    table[order, np.roll(order, -1)] = True
    np.fill_diagonal(table, False)
    return graph_of(table, blocks)


def plain_compliance(graph: Graph, jumpers: Iterable[Jumper], walks: Any) -> tuple[int, int, int, int]:
    """(edges, pairs, rules obeyed, rules checked), token by token."""
    edges = {(int(u), int(v)) for u, v in zip(*graph.adjacency.nonzero(), strict=True)}
    rules = {jumper.vertex: jumper for jumper in jumpers}
    found = pairs = obeyed = checks = 0
    for walk in np.asarray(walks).tolist():
        for t, vertex in enumerate(walk):
            if t + 1 < len(walk):
                pairs += 1
                found += (vertex, walk[t + 1]) in edges
            rule = rules.get(vertex)
            if rule is not None and t + rule.delay < len(walk):
                checks += 1
                obeyed += int(graph.block[walk[t + rule.delay]]) == rule.target
    return found, pairs, obeyed, checks


def tiny_data(**changes: Any) -> WalksData:
    """A graph of 16 vertices and 60 walks of 12: made in milliseconds."""
    defaults: dict[str, Any] = {
        "vertices": 16,
        "blocks": 2,
        "p_in": 0.9,
        "p_out": 0.5,
        "jumpers_per_block": 1,
        "delays": (0.5,),
        "window": 4,
        "walk_length": 12,
        "num_walks": 60,
        "seed": 1,
    }
    return WalksData(**{**defaults, **changes})


class MeanNet(nn.Module):
    """Logits (B, T, vocabulary) of a linear layer on the mean of the embeddings so far."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 8)
        self.readout = nn.Linear(8, vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor, noise: Any = None) -> dict[str, Tensor]:
        x = self.embedding(tokens_BT)
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return {"next": self.readout(x.cumsum(1) / count)}


class Mean(TokenModel):
    """The smallest token model there is."""

    name: str = "mean"

    def build(self, vocab_size: int, length: int, heads: Mapping[str, int]) -> nn.Module:
        assert dict(heads) == {"next": vocab_size}
        return MeanNet(vocab_size)
