"""Which neighbours a walk may step to, so that every jumper it meets is obeyed.

A free walk steps to any out-neighbour, each equally likely. A walk that meets the jumper (target b, delay r) is spliced
with a path of r steps that ends in block b: with d steps left it steps to the out-neighbours from which b can still be
reached in exactly d - 1 steps, each equally likely. Such a path passes no other jumper. So there is never more than one
rule to obey at a time, rules cannot contradict one another, and a walk obeys each jumper it visits with t + r < L;
one that ends earlier was on its way. Where the path ends the walk is free again, and at a jumper the next path begins.
That the path exists is what makes a jumper legal (`choose_jumpers`), and each step keeps it so.

All this is looked up: a layer is the graph restricted to the allowed steps of one (b, d). Far from the end nearly every
vertex can still get there, so most (b, d) share a layer (the anchor configuration has 377 of them in 10 layers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loopwright.tasks.walks.graph import Array, Graph
from loopwright.tasks.walks.jumpers import Rules


@dataclass(frozen=True, eq=False)
class Steering:
    """Tables for `walk`. A walk's state is its vertex v and a course c: 0 when free, else where it has to be and when.

    `first` and `count` say where in `neighbours` the allowed steps from v under c lie, at index `layer[c] + v`.
    `onward[c]` is the course one step later; where that is 0 it is `meet[v]` of the vertex arrived at.
    """

    num_vertices: int
    neighbours: Array
    first: Array
    count: Array
    layer: Array
    onward: Array
    meet: Array
    jumpers: Array


def steering(graph: Graph, rules: Rules | None = None) -> Steering:
    """The tables for a graph and its jumpers; without rules every walk is free (a uniform walk)."""
    n = graph.num_vertices
    jumpers = np.zeros(0, dtype=np.int64) if rules is None else rules.vertices
    longest: dict[int, int] = {}
    for jumper in () if rules is None else rules.jumpers:
        longest[jumper.target] = max(longest.get(jumper.target, 0), jumper.delay)
    passable = np.ones(n, dtype=bool)
    passable[jumpers] = False

    masks = {np.ones(n, dtype=bool).tobytes(): 0}
    layer, onward, start = [0], [0], {}
    for block, delay in sorted(longest.items()):
        assert rules is not None
        start[block] = len(layer) - 1  # the course of (block, d) is start + d
        for d in range(1, delay + 1):
            mask = rules.reach[d - 1, :, block] & (passable | (d == 1))
            layer.append(masks.setdefault(mask.tobytes(), len(masks)))
            onward.append(0 if d == 1 else start[block] + d - 1)
    meet = np.zeros(n, dtype=np.int32)
    for jumper in () if rules is None else rules.jumpers:
        meet[jumper.vertex] = start[jumper.target] + jumper.delay

    indptr, indices = graph.adjacency.indptr, graph.adjacency.indices
    kept, firsts, counts, offset = [], [], [], 0
    for mask in (np.frombuffer(held, dtype=bool) for held in masks):
        allowed = mask[indices]
        below = np.concatenate([[0], np.cumsum(allowed)])
        kept.append(indices[allowed])
        firsts.append(below[indptr[:-1]] + offset)
        counts.append(below[indptr[1:]] - below[indptr[:-1]])
        offset += len(kept[-1])
    return Steering(
        num_vertices=n,
        neighbours=np.concatenate(kept).astype(np.int32),
        first=np.concatenate(firsts).astype(np.int32 if offset < 2**31 else np.int64),
        count=np.concatenate(counts).astype(np.float32),
        layer=np.array(layer, dtype=np.int64) * n,
        onward=np.array(onward, dtype=np.int32),
        meet=meet,
        jumpers=jumpers,
    )


def walk(tables: Steering, starts_B: Array, draws_TB: Array, out_TB: Array) -> None:
    """Walk from `starts_B` and write the vertices into `out_TB`, whose first row are the starts.

    `draws_TB` are float32 in [0, 1), a row for each step after the start: a walk is a function of its start and its
    column. (u x count in float32 stays below count: u has 24 bits and is at most 1 - 2^-24.)
    """
    at = starts_B.astype(np.int64)
    course = tables.meet[at]
    out_TB[0] = at
    for draws_B, out_B in zip(draws_TB, out_TB[1:], strict=True):
        state = tables.layer[course] + at
        chosen = tables.first[state] + (draws_B * tables.count[state]).astype(np.int32)
        at = tables.neighbours[chosen]
        out_B[:] = at
        course = tables.onward[course]
        course = np.where(course == 0, tables.meet[at], course)
