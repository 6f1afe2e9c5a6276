"""Jumpers: vertices that force a walk to be in a given block exactly r steps later.

Letters of shapes: n vertices, K blocks, R the longest delay.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loopwright.streams import Streams
from loopwright.tasks.walks.graph import Array, Graph

log = logging.getLogger("loopwright")


class Jumper(NamedTuple):
    """A walk at `vertex`, of block `block`, is in block `target` exactly `delay` steps later."""

    vertex: int
    block: int
    target: int
    delay: int


class Skipped(NamedTuple):
    """A jumper that was asked for and that no vertex of its block can be."""

    block: int
    target: int
    delay: int


@dataclass(frozen=True, eq=False)
class Rules:
    """The jumpers of a graph; `reach` is `reachable` without passing a jumper, for delays up to the longest."""

    jumpers: tuple[Jumper, ...]
    skipped: tuple[Skipped, ...]
    reach: Array

    @property
    def vertices(self) -> Array:
        return np.array([jumper.vertex for jumper in self.jumpers], dtype=np.int64)


def delays(shares: Sequence[float], window: int, count: int) -> list[int]:
    """The delays of `count` jumpers: round(s w) for the shares s in turn (halves to the even number, as Python rounds).

    >>> delays((0.5, 0.7, 1.5), 64, 4)
    [32, 45, 96, 32]
    """
    return [round(shares[index % len(shares)] * window) for index in range(count)]


def reachable(graph: Graph, longest: int, avoid: Collection[int] = ()) -> Array:
    """(longest + 1, n, K) bool: whether block k can be reached from v in exactly r steps, r the first index.

    `avoid` are vertices that may be the first or the last of such a path, but none between. Sparse products of the
    adjacency with the (n, K) table of one step less: R K edges in all.
    """
    step = graph.adjacency.astype(np.int32)
    passable = np.ones((graph.num_vertices, 1), dtype=bool)
    passable[list(avoid)] = False
    table = np.empty((longest + 1, graph.num_vertices, graph.num_blocks), dtype=bool)
    table[0] = graph.block[:, None] == np.arange(graph.num_blocks)
    for r in range(1, longest + 1):
        before = table[r - 1] if r == 1 else table[r - 1] & passable
        table[r] = (step @ before.astype(np.int32)) > 0
    return table


def choose_jumpers(graph: Graph, per_block: int, delays: Sequence[int], seed: int) -> Rules:
    """Give each block its jumpers: `delays` has one entry for each, block by block.

    Target blocks are drawn uniformly from the others, vertices in a drawn order. A vertex is legal if its target and at
    least one other block can be reached in exactly r steps (otherwise the rule could not hold, or would say nothing),
    and if the target can be reached so without passing another jumper, which is how walks are spliced (`steering`).
    Where a vertex is not legal the next one is tried; a jumper that no vertex can be is skipped with a warning.
    """
    longest = max(delays, default=0)
    anywhere = reachable(graph, longest)
    unfit: set[int] = set()
    while True:
        jumpers, skipped = _select(graph, per_block, delays, seed, anywhere, unfit)
        reach = reachable(graph, longest, [jumper.vertex for jumper in jumpers])
        stuck = {j.vertex for j in jumpers if not reach[j.delay, j.vertex, j.target]}
        if not stuck:
            break
        unfit |= stuck  # grows in every round, so the rounds end
    if skipped:
        shown = ", ".join(f"block {block} to {target} in {delay} steps" for block, target, delay in skipped[:3])
        more = f" and {len(skipped) - 3} more" if len(skipped) > 3 else ""
        none_left = (
            "; none is left, so there is no rule to learn, to check, or for a gate to pass" if not jumpers else ""
        )
        asked = len(jumpers) + len(skipped)
        log.warning(
            "%d of %d jumpers are skipped, no vertex can be one: %s%s%s", len(skipped), asked, shown, more, none_left
        )
    return Rules(tuple(jumpers), tuple(skipped), reach)


def _select(
    graph: Graph, per_block: int, delays: Sequence[int], seed: int, anywhere: Array, unfit: set[int]
) -> tuple[list[Jumper], list[Skipped]]:
    generator = Streams(seed).numpy("walks jumpers")
    jumpers: list[Jumper] = []
    skipped: list[Skipped] = []
    for block in range(graph.num_blocks):
        others = [other for other in range(graph.num_blocks) if other != block]
        order = generator.permutation(np.flatnonzero(graph.block == block)).tolist()
        free = [vertex for vertex in order if vertex not in unfit]
        for delay in delays[block * per_block : (block + 1) * per_block]:
            target = others[int(generator.integers(len(others)))]
            reach = anywhere[delay]
            legal = (v for v in free if reach[v, target] and reach[v].sum() > 1)
            vertex = next(legal, None)
            if vertex is None:
                skipped.append(Skipped(block, target, delay))
            else:
                free.remove(vertex)
                jumpers.append(Jumper(vertex, block, target, delay))
    return jumpers, skipped
