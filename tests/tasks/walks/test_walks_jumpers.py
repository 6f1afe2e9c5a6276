"""Jumpers: reachability against matrix powers and enumerated paths, and which vertices may be one."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from loopwright.tasks.walks import jumpers as module
from loopwright.tasks.walks.graph import Graph, make_graph
from loopwright.tasks.walks.jumpers import choose_jumpers, delays, reachable
from loopwright.tasks.walks.settings import WalksData
from support.walks import graph_of, random_graph


def ends(graph: Graph, start: int, steps: int, avoid: set[int]) -> set[int]:
    """Where paths of exactly so many steps end that pass none of `avoid` on their way: every path, one by one."""
    table = graph.adjacency.toarray()
    if steps == 0:
        return {start}
    found = set()
    for onward in np.flatnonzero(table[start]).tolist():
        if steps == 1 or onward not in avoid:
            found |= ends(graph, onward, steps - 1, avoid)
    return found


def test_reachability_equals_boolean_matrix_powers() -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        graph = random_graph(generator, 12, 3, 0.1)
        table = reachable(graph, 9)
        power = np.eye(12, dtype=np.int64)
        blocks = np.repeat(np.eye(3, dtype=np.int64), 4, axis=0)
        for r in range(10):
            assert (table[r] == ((power @ blocks) > 0)).all()
            power = ((power @ graph.adjacency.toarray()) > 0).astype(np.int64)


def test_reachability_past_avoided_vertices_equals_every_path_enumerated() -> None:
    generator = np.random.default_rng(1)
    for _ in range(6):
        graph = random_graph(generator, 8, 2, 0.2)
        avoid = set(generator.choice(8, 3, replace=False).tolist())
        table = reachable(graph, 5, avoid)
        for r in range(6):
            for v in range(8):
                blocks = {int(graph.block[end]) for end in ends(graph, v, r, avoid)}
                assert set(np.flatnonzero(table[r, v]).tolist()) == blocks


def test_delays_take_the_shares_in_turn() -> None:
    shares = WalksData().delays
    assert delays(shares, 64, 8) == [32, 45, 58, 64, 70, 83, 96, 128]
    assert delays(shares, 64, 10)[8:] == [32, 45]
    assert WalksData(blocks=2, vertices=20, window=10, walk_length=20).jumper_delays() == [5, 7, 9, 10]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (WalksData(), [32, 45, 58, 64, 70, 83, 96, 128]),
        (
            WalksData(
                vertices=40,
                p_in=0.5,
                p_out=0.15,
                jumpers_per_block=3,
                delays=(0.1, 0.2, 0.3),
                window=10,
                walk_length=32,
            ),
            [1, 2, 3] * 4,
        ),
    ],
)
def test_chosen_jumpers_are_legal(data: WalksData, expected: list[int]) -> None:
    graph = make_graph(data.vertices, data.blocks, data.p_in, data.p_out, data.seed)
    rules = choose_jumpers(graph, data.jumpers_per_block, data.jumper_delays(), data.seed)
    assert not rules.skipped and [jumper.delay for jumper in rules.jumpers] == expected
    assert len(set(rules.vertices.tolist())) == len(rules.jumpers)
    step = graph.adjacency.toarray().astype(np.float64)
    for jumper in rules.jumpers:
        paths = np.zeros(data.vertices)
        paths[jumper.vertex] = 1.0
        for _ in range(jumper.delay):
            paths = ((paths @ step) > 0).astype(np.float64)
        hit = {int(block) for block in graph.block[paths > 0]}
        assert jumper.target in hit and len(hit) > 1
        assert jumper.target != jumper.block == graph.block[jumper.vertex]
        assert rules.reach[jumper.delay, jumper.vertex, jumper.target]


def test_where_a_rule_would_say_nothing_the_jumper_is_skipped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Two blocks, every edge from one to the other: after r steps the block is certain, or out of reach."""
    table = np.zeros((6, 6), dtype=int)
    table[:3, 3:] = table[3:, :3] = 1
    with caplog.at_level(logging.WARNING, logger="loopwright"):
        rules = choose_jumpers(graph_of(table, 2), 1, [2, 3], 0)
    assert rules.jumpers == () and [tuple(skipped) for skipped in rules.skipped] == [(0, 1, 2), (1, 0, 3)]
    assert caplog.messages == [
        "2 of 2 jumpers are skipped, no vertex can be one: block 0 to 1 in 2 steps, block 1 to 0 in 3 steps; none is left, "
        "so there is no rule to learn, to check, or for a gate to pass"
    ]


def test_another_vertex_is_taken_where_the_first_is_not_legal() -> None:
    """Vertex 0 has one way on, inside its block; from 1 and 2 both blocks are one step away."""
    table = [
        [0, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [1, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 1, 1],
        [1, 0, 0, 0, 0, 1],
        [0, 1, 0, 1, 0, 0],
    ]
    firsts = set()
    for seed in range(12):
        rules = choose_jumpers(graph_of(table, 2), 1, [1, 1], seed)
        (jumper,) = (jumper for jumper in rules.jumpers if jumper.block == 0)
        firsts.add(jumper.vertex)
    assert firsts == {1, 2}


def test_jumpers_that_stand_in_one_anothers_way_are_chosen_anew() -> None:
    generator = np.random.default_rng(3)
    changed = 0
    for seed in range(60):
        graph = random_graph(generator, 16, 2, 0.05)
        steps = [3, 4, 5, 6] * 2
        rules = choose_jumpers(graph, 4, steps, seed)
        first, _ = module._select(graph, 4, steps, seed, reachable(graph, 6), set())
        changed += list(rules.jumpers) != first
        blocked = reachable(graph, 6, rules.vertices.tolist())
        assert all(blocked[j.delay, j.vertex, j.target] for j in rules.jumpers)
        assert len(rules.jumpers) + len(rules.skipped) == 8
    assert changed > 5
