"""The graph: its probabilities, its densities, and what is accepted."""

from __future__ import annotations

import numpy as np
import pytest

from loopwright.errors import DataError
from loopwright.streams import Streams
from loopwright.tasks.walks import graph as module
from loopwright.tasks.walks.graph import Graph, make_graph, propensities

SMALL = (40, 4, 0.5, 0.15)
ANCHOR = (500, 4, 0.25, 0.03)


def one_draw(shape: tuple[int, int, float, float], seed: int, attempt: int = 0) -> Graph:
    return module._draw(*shape, Streams(seed).numpy("walks graph", attempt), attempt + 1)


def reached(neighbours: list[set[int]]) -> int:
    seen, ahead = {0}, [0]
    while ahead:
        for vertex in neighbours[ahead.pop()] - seen:
            seen.add(vertex)
            ahead.append(vertex)
    return len(seen)


def strongly_connected(graph: Graph) -> bool:
    """All are reached from vertex 0, and vertex 0 from all: a search by hand, forth and back."""
    table = graph.adjacency.toarray()
    return all(reached([set(np.flatnonzero(row)) for row in side]) == len(table) for side in (table, table.T))


def test_propensities_are_zipf_scaled_to_each_block() -> None:
    ranks = np.random.default_rng(0).permutation(30)
    theta = propensities(ranks, 3)
    assert theta.reshape(3, 10).sum(1) == pytest.approx([10.0] * 3)
    for block in range(3):
        rows = slice(10 * block, 10 * block + 10)
        assert theta[rows] * (ranks[rows] + 1) == pytest.approx([theta[rows][0] * (ranks[rows][0] + 1)] * 10)


def test_expected_edges_are_the_sum_of_clipped_probabilities() -> None:
    vertices, blocks, p_in, p_out = shape = (12, 3, 0.6, 0.2)
    graph = one_draw(shape, 5)
    theta = propensities(Streams(5).numpy("walks graph", 0).permutation(vertices), blocks)
    mean, variance = np.zeros((3, 3)), np.zeros((3, 3))
    clipped = 0
    for i in range(vertices):
        for j in range(vertices):
            if i != j:
                raw = theta[i] * theta[j] * (p_in if i // 4 == j // 4 else p_out)
                p = min(raw, 1.0)
                clipped += raw > 1
                mean[i // 4, j // 4] += p
                variance[i // 4, j // 4] += p * (1 - p)
    assert clipped > 0
    assert graph.expected == pytest.approx(mean) and graph.variance == pytest.approx(variance)
    assert graph.pairs.sum() == 12 * 11


@pytest.mark.parametrize("shape", [SMALL, ANCHOR])
def test_block_densities_are_within_two_sigma_of_what_was_asked(shape: tuple[int, int, float, float]) -> None:
    graph = make_graph(*shape, 42)
    for inside in (True, False):
        density = graph.densities(inside)
        assert abs(density["got"] - density["expected"]) < 2 * density["sigma"]


def test_deviations_of_block_densities_are_those_of_independent_edges() -> None:
    """Not one lucky graph: over 60 of them, block by block, standard deviation 1 and 95 % within two."""
    drawn = [one_draw((120, 4, 0.3, 0.05), seed) for seed in range(60)]
    z = np.array([(g.edges - g.expected) / np.sqrt(g.variance) for g in drawn])
    assert abs(z.mean()) < 3 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 3 / np.sqrt(2 * z.size)
    assert 0.93 < (np.abs(z) < 2).mean() < 0.975


def test_the_adjacency_is_csr_without_self_loops_and_sorted() -> None:
    graph = make_graph(*SMALL, 42)
    adjacency = graph.adjacency
    assert adjacency.format == "csr" and adjacency.shape == (40, 40) and adjacency.dtype == np.int8
    assert adjacency.diagonal().sum() == 0 and set(adjacency.data.tolist()) == {1}
    for start, stop in zip(adjacency.indptr, adjacency.indptr[1:], strict=False):
        assert (np.diff(adjacency.indices[start:stop]) > 0).all()
    table = adjacency.toarray()
    for a in range(4):
        for b in range(4):
            assert graph.edges[a, b] == table[10 * a : 10 * a + 10, 10 * b : 10 * b + 10].sum()
    assert graph.num_edges == table.sum() and graph.density == table.sum() / (40 * 39)


def test_graphs_are_strongly_connected_and_every_try_has_its_own_draw() -> None:
    tries = set()
    for seed in range(42, 60):
        graph = make_graph(60, 3, 0.5, 0.15, seed)
        assert strongly_connected(graph) and graph.expected.sum() / 60 >= 3
        same = one_draw((60, 3, 0.5, 0.15), seed, graph.tries - 1)
        assert (same.adjacency != graph.adjacency).nnz == 0
        refused = [one_draw((60, 3, 0.5, 0.15), seed, attempt) for attempt in range(graph.tries - 1)]
        assert not any(strongly_connected(other) for other in refused)
        tries.add(graph.tries)
    assert len(tries) > 1


def test_a_graph_does_not_depend_on_how_many_pairs_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_graph(*SMALL, 42)
    monkeypatch.setattr(module, "_PAIRS_AT_ONCE", 97)
    parts = make_graph(*SMALL, 42)
    assert (whole.adjacency != parts.adjacency).nnz == 0 and whole.expected == pytest.approx(parts.expected, abs=1e-12)


def test_another_seed_is_another_graph() -> None:
    assert (make_graph(*SMALL, 42).adjacency != make_graph(*SMALL, 43).adjacency).nnz > 0


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        # a mean out-degree below 3: never looked at further
        ((40, 4, 0.1, 0.02), "0 fall apart, the largest expected out-degree is 1."),
        # strongly connected in most draws, but of four vertices
        ((4, 2, 1.0, 1.0), "0 fall apart, the largest expected out-degree is 2."),
        # enough edges, but too few among the many vertices of little propensity
        ((400, 2, 0.02, 0.02), "10 fall apart"),
    ],
)
def test_after_ten_tries_one_line_says_what_was_wrong(shape: tuple[int, int, float, float], says: str) -> None:
    with pytest.raises(DataError) as refused:
        make_graph(*shape, 0)
    line = str(refused.value)
    assert says in line and "\n" not in line
    assert "none of 10 graphs" in line and "raise p_in or p_out, or try another task.data.seed" in line
