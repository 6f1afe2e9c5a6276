"""The walks' data: 200,000 walks of 256 on the anchor graph, and compliance against the plain double loop."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measure import Result, cpu_seconds
from loopwright.tasks.walks.compliance import Compliance, Judge
from loopwright.tasks.walks.corpus import make_walks
from loopwright.tasks.walks.graph import Graph, make_graph
from loopwright.tasks.walks.jumpers import Jumper, choose_jumpers
from loopwright.tasks.walks.settings import WalksData
from loopwright.tasks.walks.steering import steering

BOUND_SECONDS = 60.0
BOUND_SHARE = 1 / 20
_DATA = WalksData()
_TIMES = 10  # one takes a millisecond


def plain_compliance(graph: Graph, jumpers: tuple[Jumper, ...], walks: Any) -> tuple[int, int, int]:
    """(edges, rules obeyed, rules checked): the double loop over tokens, with a set of edges and a dict of rules."""
    edges = {(int(u), int(v)) for u, v in zip(*graph.adjacency.nonzero(), strict=True)}
    rules = {jumper.vertex: jumper for jumper in jumpers}
    found = obeyed = checks = 0
    for walk in walks:
        for t in range(len(walk)):
            vertex = int(walk[t])
            if t + 1 < len(walk):
                found += (vertex, int(walk[t + 1])) in edges
            rule = rules.get(vertex)
            if rule is not None and t + rule.delay < len(walk):
                checks += 1
                obeyed += int(graph.block[walk[t + rule.delay]]) == rule.target
    return found, obeyed, checks


def _repeated(judge: Judge, walks: Any) -> Compliance:
    for _ in range(_TIMES):
        judged = judge(walks)
    return judged


def benchmark(quick: bool) -> Iterator[Result]:
    graph = make_graph(_DATA.vertices, _DATA.blocks, _DATA.p_in, _DATA.p_out, _DATA.seed)
    rules = choose_jumpers(graph, _DATA.jumpers_per_block, _DATA.jumper_delays(), _DATA.seed)

    def everything() -> Any:
        made = make_graph(_DATA.vertices, _DATA.blocks, _DATA.p_in, _DATA.p_out, _DATA.seed)
        chosen = choose_jumpers(made, _DATA.jumpers_per_block, _DATA.jumper_delays(), _DATA.seed)
        return make_walks(steering(made, chosen), _DATA.num_walks, _DATA.walk_length, _DATA.seed, "train")

    times = []
    for _ in range(1 if quick else 3):
        seconds, walks = cpu_seconds(everything)
        times.append(seconds)
    detail = {"walks": len(walks), "vertices_each": walks.shape[1], "type": str(walks.dtype)}
    claim = "graph, jumpers and 200,000 spliced walks of 256"
    yield Result(claim, statistics.median(times), "CPU s", BOUND_SECONDS, times, detail)

    drawn = np.random.default_rng(0).integers(_DATA.vertices, size=(1000, _DATA.walk_length))
    judge = Judge(graph, rules.jumpers)
    shares, plain = [], []
    for _ in range(3 if quick else 9):
        slow, counted = cpu_seconds(lambda: plain_compliance(graph, rules.jumpers, drawn))
        fast, judged = cpu_seconds(partial(_repeated, judge, drawn))
        assert counted == (int(judged.edges.sum()), int(judged.obeyed.sum()), judged.num_checks)
        shares.append(fast / _TIMES / slow)
        plain.append(slow)
    detail = {
        "times_faster": round(1 / statistics.median(shares)),
        "plain_ms": round(1e3 * statistics.median(plain), 1),
    }
    claim = "compliance of 1000 walks of 256"
    yield Result(claim, statistics.median(shares), "x the plain double loop", BOUND_SHARE, shares, detail)
