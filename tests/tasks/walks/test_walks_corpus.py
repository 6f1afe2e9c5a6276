"""The walks: edges and rules of every one of them, where they start, how they step, and what they depend on."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from loopwright.tasks.walks.compliance import Judge
from loopwright.tasks.walks.corpus import BLOCK, items, make_walks, uniform_walks
from loopwright.tasks.walks.graph import Array, Graph, make_graph
from loopwright.tasks.walks.jumpers import Rules, choose_jumpers
from loopwright.tasks.walks.settings import WalksData
from loopwright.tasks.walks.steering import Steering, steering, walk
from support.walks import plain_compliance, random_graph

ANCHOR = WalksData()
SMALL = WalksData(
    vertices=40, p_in=0.5, p_out=0.15, jumpers_per_block=1, delays=(0.25, 0.375, 0.5), window=16, walk_length=48
)
# Nearly a third of the vertices are jumpers, with delays from 1 to 12: paths would overlap all the time.
CROWDED = WalksData(
    vertices=40,
    blocks=4,
    p_in=0.6,
    p_out=0.2,
    jumpers_per_block=3,
    delays=(0.125, 0.5, 1.5, 0.25, 1.0),
    window=8,
    walk_length=40,
)


@cache
def made(data: WalksData) -> tuple[Graph, Rules, Steering]:
    graph = make_graph(data.vertices, data.blocks, data.p_in, data.p_out, data.seed)
    rules = choose_jumpers(graph, data.jumpers_per_block, data.jumper_delays(), data.seed)
    return graph, rules, steering(graph, rules)


def corpus(data: WalksData, num_walks: int, name: str = "train") -> Array:
    return make_walks(made(data)[2], num_walks, data.walk_length, data.seed, name)


@pytest.mark.parametrize(("data", "num_walks"), [(ANCHOR, 200_000), (SMALL, 30_000), (CROWDED, 30_000)])
def test_every_walk_obeys_every_edge_and_every_rule(data: WalksData, num_walks: int) -> None:
    graph, rules, _ = made(data)
    walks = corpus(data, num_walks)
    judge, checks = Judge(graph, rules.jumpers), 0
    for part in np.array_split(walks, -(-num_walks // 10_000)):
        judged = judge(part)
        assert judged.edge == 1.0 and judged.rule == 1.0
        checks += judged.num_checks
    assert checks > num_walks / 2
    some = walks[:: num_walks // 200]
    edges, pairs, obeyed, rules_checked = plain_compliance(graph, rules.jumpers, some)
    assert edges == pairs == len(some) * (data.walk_length - 1) and obeyed == rules_checked > 0


def test_rules_hold_on_random_graphs_where_paths_are_scarce() -> None:
    generator = np.random.default_rng(5)
    checks = 0
    for seed in range(40):
        graph = random_graph(generator, 16, 2, 0.08)
        rules = choose_jumpers(graph, 3, [2, 3, 5, 4, 7, 1], seed)
        walks = make_walks(steering(graph, rules), 60, 24, seed, "train")
        edges, pairs, obeyed, checked = plain_compliance(graph, rules.jumpers, walks)
        assert (edges, obeyed) == (pairs, checked)
        checks += checked
    assert checks > 1000


def test_a_path_passes_no_other_jumper_and_is_on_its_way_where_the_walk_ends() -> None:
    _, rules, _ = made(CROWDED)
    by_vertex = {jumper.vertex: jumper for jumper in rules.jumpers}
    ended_early = 0
    for row in corpus(CROWDED, 2000).tolist():
        t = 0
        while t < len(row):
            jumper = by_vertex.get(row[t])
            if jumper is None:
                t += 1
                continue
            inside = row[t + 1 : t + jumper.delay]
            assert not set(inside) & by_vertex.keys()
            if t + jumper.delay >= len(row):
                left = t + jumper.delay - (len(row) - 1)
                assert rules.reach[left, row[-1], jumper.target]
                ended_early += 1
            t += jumper.delay
    assert ended_early > 100


def test_steps_are_uniform_over_what_is_allowed() -> None:
    """Free steps over all out-neighbours; steps of a path over those from which the target is still in reach."""
    graph, rules, tables = made(CROWDED)
    walks = corpus(CROWDED, 40_000)
    jumper = max(rules.jumpers, key=lambda held: held.delay)
    rows = walks[walks[:, 0] == jumper.vertex]
    neighbours = np.flatnonzero(graph.adjacency.toarray()[jumper.vertex])
    ahead = rules.reach[jumper.delay - 1, neighbours, jumper.target] & ~np.isin(neighbours, rules.vertices)
    counts = np.bincount(rows[:, 1], minlength=graph.num_vertices)
    assert set(np.flatnonzero(counts)) == set(neighbours[ahead])
    expected = len(rows) / ahead.sum()
    assert (np.abs(counts[neighbours[ahead]] - expected) < 4.5 * np.sqrt(expected)).all()

    free = uniform_walks(steering(graph), np.zeros(20_000, dtype=np.int64), 3, 0, "test")
    from_zero = np.flatnonzero(graph.adjacency.toarray()[0])
    counts = np.bincount(free[:, 1], minlength=graph.num_vertices)
    expected = len(free) / len(from_zero)
    assert counts.sum() == counts[from_zero].sum()
    assert (np.abs(counts[from_zero] - expected) < 4.5 * np.sqrt(expected)).all()
    assert len(tables.layer) < 60


def test_half_of_the_walks_start_at_jumpers_and_the_others_anywhere() -> None:
    _, rules, _ = made(SMALL)
    starts = corpus(SMALL, 4001)[:, 0]
    assert np.isin(starts[:2001], rules.vertices).all()
    assert set(starts[:2001].tolist()) == set(rules.vertices.tolist())
    assert set(starts[2001:].tolist()) == set(range(40))


def test_walks_are_the_same_for_the_same_address_and_for_no_other() -> None:
    assert (corpus(SMALL, 500) == corpus(SMALL, 500)).all()
    assert (corpus(SMALL, 500) != corpus(SMALL, 500, "val")).mean() > 0.5
    other = make_walks(made(SMALL)[2], 500, 48, SMALL.seed + 1, "train")
    assert (corpus(SMALL, 500) != other).mean() > 0.5


def test_a_walk_does_not_depend_on_how_many_are_made_with_it() -> None:
    many, more = corpus(SMALL, 2 * BLOCK + 700), corpus(SMALL, 4 * BLOCK)
    assert (many[: BLOCK + 350] == more[: BLOCK + 350]).all()
    _, rules, tables = made(SMALL)
    generator = np.random.default_rng(0)
    starts, draws = generator.integers(40, size=50), generator.random((30, 50), dtype=np.float32)
    whole, parts = np.empty((31, 50), dtype=np.int16), np.empty((31, 50), dtype=np.int16)
    walk(tables, starts, draws, whole)
    for columns in np.array_split(np.arange(50), 7):
        part = np.empty((31, len(columns)), dtype=np.int16)
        walk(tables, starts[columns], draws[:, columns], part)
        parts[:, columns] = part
    assert (whole == parts).all() and len(rules.jumpers) == 4


def test_the_largest_draw_still_picks_a_neighbour() -> None:
    _, _, tables = made(ANCHOR)
    starts = np.arange(500)
    draws = np.full((40, 500), np.float32(1 - 2.0**-24))
    out = np.empty((41, 500), dtype=np.int16)
    walk(tables, starts, draws, out)
    graph, rules, _ = made(ANCHOR)
    assert Judge(graph, rules.jumpers)(out.T).edge == 1.0
    counts = np.arange(1, 50_001, dtype=np.float32)
    assert (np.float32(1 - 2.0**-24) * counts < counts).all()


def test_without_jumpers_every_walk_is_free() -> None:
    graph, _, _ = made(SMALL)
    none = Rules((), (), np.zeros((1, 40, 4), dtype=bool))
    walks = make_walks(steering(graph, none), 3000, 20, 0, "train")
    assert Judge(graph, ())(walks).edge == 1.0 and len(set(walks[:1500, 0].tolist())) == 40


def test_a_vertex_takes_two_bytes_even_the_last_of_the_most() -> None:
    assert corpus(SMALL, 10).dtype == np.int16 and corpus(SMALL, 10).flags.c_contiguous
    WalksData(vertices=2**15)
    with pytest.raises(ValueError, match="less than or equal to 32768"):
        WalksData(vertices=2**15 + 4)


def test_items_are_chunks_that_do_not_overlap() -> None:
    walks = np.arange(2 * 256, dtype=np.int16).reshape(2, 256)
    chunks = items(walks, 64)
    assert chunks.shape == (6, 65) and chunks.flags.c_contiguous
    for index, chunk in enumerate(chunks):
        row, start = divmod(index, 3)
        assert (chunk == walks[row, 65 * start : 65 * start + 65]).all()
