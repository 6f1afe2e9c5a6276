"""A directed, degree-corrected stochastic block model (Karrer and Newman 2011, directed and with clipped probabilities).

Vertices 0 .. n-1 lie in K blocks of m = n / K neighbours each. Vertex i has a propensity theta_i = 1 / rank (Zipf,
alpha 1) over ranks permuted among all n vertices, scaled so that each block's propensities sum to m. The edge i -> j,
i != j, is there with probability P_ij = clip(theta_i theta_j omega, 0, 1), where omega is p_in inside a block and p_out
between two. Clipping takes from the hubs, so the densities to expect lie below p_in and p_out; they are kept beside the
ones that came out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from loopwright.errors import DataError
from loopwright.streams import Streams

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Array = NDArray[Any]

TRIES = 10
MIN_OUT_DEGREE = 3.0
# Probabilities are held for this many pairs at a time (32 MB); the draws do not depend on it.
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True, eq=False)
class Graph:
    """A graph that was accepted, and what its draw was expected to give.

    `adjacency` (n, n) is CSR, int8 ones, its columns sorted; `block` (n,) the block of each vertex. `expected` and
    `variance` (K, K) are the mean and the variance of the number of edges from one block to another given the
    propensities, `edges` (K, K) the number that came out, `pairs` (K, K) the number of ordered pairs i != j.
    """

    adjacency: csr_array
    block: Array
    num_blocks: int
    expected: Array
    variance: Array
    edges: Array
    pairs: Array
    tries: int

    @property
    def num_vertices(self) -> int:
        return len(self.block)

    @property
    def num_edges(self) -> int:
        return int(self.adjacency.nnz)

    @property
    def density(self) -> float:
        """Share of the ordered pairs i != j that are edges."""
        return float(self.edges.sum() / self.pairs.sum())

    def densities(self, inside: bool) -> dict[str, float]:
        """The density inside (or between) blocks: `expected` with its standard deviation `sigma`, and `got`."""
        same = np.eye(self.num_blocks, dtype=bool)
        chosen = same if inside else ~same
        pairs = max(float(self.pairs[chosen].sum()), 1.0)  # blocks of one vertex have no pair inside
        return {
            "expected": float(self.expected[chosen].sum() / pairs),
            "sigma": float(np.sqrt(self.variance[chosen].sum()) / pairs),
            "got": float(self.edges[chosen].sum() / pairs),
        }


def make_graph(vertices: int, blocks: int, p_in: float, p_out: float, seed: int) -> Graph:
    """Draw until a graph is strongly connected and its expected out-degree (mean over vertices) is at least 3.

    Try k draws at the address (seed, "walks graph", k). Raises DataError after ten.
    """
    from scipy.sparse.csgraph import connected_components

    reached, split = 0.0, 0
    for attempt in range(TRIES):
        graph = _draw(vertices, blocks, p_in, p_out, Streams(seed).numpy("walks graph", attempt), attempt + 1)
        out_degree = float(graph.expected.sum() / vertices)
        reached = max(reached, out_degree)
        if out_degree < MIN_OUT_DEGREE:
            continue
        parts, _ = connected_components(graph.adjacency, directed=True, connection="strong")
        if parts == 1:
            return graph
        split += 1
    raise DataError(
        f"task.data: none of {TRIES} graphs of {vertices} vertices in {blocks} blocks with p_in={p_in:g}, p_out={p_out:g} "
        f"is strongly connected with an expected out-degree of at least {MIN_OUT_DEGREE:g} ({split} fall apart, the "
        f"largest expected out-degree is {reached:.2f}); raise p_in or p_out, or try another task.data.seed"
    )


def _draw(vertices: int, blocks: int, p_in: float, p_out: float, generator: np.random.Generator, tries: int) -> Graph:
    from scipy.sparse import csr_array

    size = vertices // blocks
    block = np.repeat(np.arange(blocks), size)
    theta = propensities(generator.permutation(vertices), blocks)
    omega = np.where(np.eye(blocks, dtype=bool), p_in, p_out)
    expected, variance = np.zeros((vertices, blocks)), np.zeros((vertices, blocks))
    targets: list[Array] = []
    degrees = np.zeros(vertices, dtype=np.int64)
    rows_at_once = max(1, _PAIRS_AT_ONCE // vertices)
    for first in range(0, vertices, rows_at_once):
        rows = np.arange(first, min(first + rows_at_once, vertices))
        p = np.minimum(theta[rows, None] * theta[None, :] * omega[block[rows]][:, block], 1.0)
        p[np.arange(len(rows)), rows] = 0.0
        expected[rows] = p.reshape(len(rows), blocks, size).sum(2)
        variance[rows] = (p * (1 - p)).reshape(len(rows), blocks, size).sum(2)
        there = generator.random(p.shape) < p
        degrees[rows] = there.sum(1)
        targets.append(np.nonzero(there)[1].astype(np.int32))
    indptr = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
    indices = np.concatenate(targets)
    adjacency = csr_array((np.ones(len(indices), dtype=np.int8), indices, indptr), shape=(vertices, vertices))
    source = np.repeat(block, degrees)
    edges = np.bincount(source * blocks + block[indices], minlength=blocks * blocks).reshape(blocks, blocks)
    return Graph(
        adjacency=adjacency,
        block=block,
        num_blocks=blocks,
        expected=expected.reshape(blocks, size, blocks).sum(1),
        variance=variance.reshape(blocks, size, blocks).sum(1),
        edges=edges,
        pairs=size * (size - np.eye(blocks, dtype=np.int64)),
        tries=tries,
    )


def propensities(ranks: Array, blocks: int) -> Array:
    """theta (n,) of vertices whose ranks, from 0, are given: 1 / (rank + 1), scaled to sum to n / K in each block.

    >>> propensities(np.array([0, 1, 3, 2]), 2).tolist()
    [1.3333333333333333, 0.6666666666666666, 0.8571428571428572, 1.1428571428571428]
    """
    weights = (1.0 / (ranks + 1)).reshape(blocks, -1)
    scaled: Array = (weights * (weights.shape[1] / weights.sum(1, keepdims=True))).ravel()
    return scaled
