"""Compliance against the plain double loop, by hand, and where there is nothing to count."""

from __future__ import annotations

import numpy as np

from loopwright.tasks.walks.compliance import Judge
from loopwright.tasks.walks.jumpers import Jumper
from support.walks import graph_of, plain_compliance, random_graph

CYCLE = graph_of(np.roll(np.eye(6, dtype=int), 1, axis=1), 2)  # 0 -> 1 -> ... -> 5 -> 0; blocks 0 1 2 | 3 4 5


def test_it_equals_the_plain_double_loop() -> None:
    generator = np.random.default_rng(0)
    for case in range(120):
        blocks = int(generator.integers(2, 5))
        n = blocks * int(generator.integers(1, 9))
        graph = random_graph(generator, n, blocks, float(generator.random()))
        vertices = generator.permutation(n)[: int(generator.integers(0, n + 1))].tolist()
        jumpers = [
            Jumper(v, int(graph.block[v]), int(generator.integers(blocks)), int(generator.integers(1, 12)))
            for v in vertices
        ]
        length = int(generator.integers(1, 20))
        walks = generator.integers(n, size=(int(generator.integers(1, 9)), length))
        judged = Judge(graph, jumpers)(walks.astype([np.int64, np.int16][case % 2]))
        counted = (int(judged.edges.sum()), judged.pairs * len(walks), int(judged.obeyed.sum()), judged.num_checks)
        assert counted == plain_compliance(graph, jumpers, walks)
        for row, walk in enumerate(walks):
            edges, pairs, obeyed, checks = plain_compliance(graph, jumpers, walk[None])
            assert (judged.edges[row], judged.pairs, judged.obeyed[row], judged.checks[row]) == (
                edges,
                pairs,
                obeyed,
                checks,
            )
        assert judged.edge == (counted[0] / counted[1] if counted[1] else 0.0)
        assert judged.rule == (counted[2] / counted[3] if counted[3] else None)


def test_the_shares_on_a_cycle_by_hand() -> None:
    judge = Judge(CYCLE, [Jumper(2, 0, 1, 1), Jumper(1, 0, 1, 4), Jumper(5, 1, 0, 2)])
    judged = judge(np.array([[0, 1, 2, 3, 4, 5, 0], [2, 1, 0, 3, 3, 0, 1]]))
    # First walk: all six pairs; jumper 1 at t=1 is due at t=5 (5: block 1), 2 at t=2 at t=3 (3: block 1); 5 at t=5 too late.
    # Second: only 0 -> 1 is an edge; 2 at t=0 is due at t=1 (1: block 0), 1 at t=1 at t=5 (0: block 0).
    assert judged.edges.tolist() == [6, 1] and judged.pairs == 6
    assert judged.checks.tolist() == [2, 2] and judged.obeyed.tolist() == [2, 0]
    assert judged.edge == 7 / 12 and judged.rule == 0.5


def test_each_visit_counts_with_its_own_delay_up_to_the_last_vertex() -> None:
    judge = Judge(CYCLE, [Jumper(2, 0, 1, 3)])
    assert judge(np.array([[2, 0, 0, 4]])).rule == 1.0  # t + r = L - 1 is checked
    assert judge(np.array([[0, 2, 0, 0]])).rule is None  # t + r = L is not
    assert judge(np.array([[2, 2, 0, 3, 0]])).rule == 0.5


def test_without_pairs_the_share_of_edges_is_zero_and_without_checks_there_is_no_share() -> None:
    judged = Judge(CYCLE, [Jumper(2, 0, 1, 1)])(np.array([[2], [3]]))
    assert (judged.edge, judged.rule, judged.num_checks, judged.pairs) == (0.0, None, 0, 0)
    judged = Judge(CYCLE, [])(np.array([[2, 3, 4]]))
    assert (judged.edge, judged.rule, judged.num_checks) == (1.0, None, 0)


def test_every_pair_of_a_larger_graph_is_told_apart() -> None:
    n = 1501
    table = np.random.default_rng(0).random((n, n)) < 0.01
    judged = Judge(graph_of(table, 1), [])(
        np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), -1).reshape(-1, 2)
    )
    assert (judged.edges.reshape(n, n) == table).all()
