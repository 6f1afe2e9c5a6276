"""The walks of a corpus, and the items a model is trained on. Letters of shapes: N walks, L vertices of a walk."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from loopwright.engine.task import Split
from loopwright.streams import Streams
from loopwright.tasks.walks.cache import cached
from loopwright.tasks.walks.graph import Array, Graph
from loopwright.tasks.walks.jumpers import Rules
from loopwright.tasks.walks.settings import WalksData
from loopwright.tasks.walks.steering import Steering, steering, walk

# Walks that share an address and are made at once; part of what a corpus is (its tables fit a core's cache).
BLOCK = 8192
# How a vertex is kept: there are at most 32,768.
VERTEX = np.dtype(np.int16)
# Stands for everything that decides which walks a seed gives; a change of it makes the cached ones another corpus.
FORMAT = 1


def corpora(data: WalksData, graph: Graph, rules: Rules) -> dict[Split, Array]:
    """The walks to train on and those held out (`val`), (N, walk_length) each, from the cache where they are there."""
    length = data.walk_length
    sizes: dict[Split, int] = {"train": data.num_train, "val": data.num_held_out}
    decides = {"format": FORMAT, "numpy": np.__version__, "data": data.model_dump(), "jumpers": rules.jumpers}
    state = hashlib.sha256(json.dumps(decides, sort_keys=True).encode())
    state.update(np.ascontiguousarray(graph.adjacency.indptr, dtype="<i8").data)
    state.update(np.ascontiguousarray(graph.adjacency.indices, dtype="<i4").data)

    def make() -> dict[str, Array]:
        tables = steering(graph, rules)
        return {split: make_walks(tables, size, length, data.seed, split) for split, size in sizes.items()}

    held = cached(state.hexdigest()[:32], {split: ((size, length), VERTEX) for split, size in sizes.items()}, make)
    return {split: held[split] for split in sizes}


def make_walks(tables: Steering, num_walks: int, length: int, seed: int, corpus: str) -> Array:
    """`num_walks` walks (N, L). The first half, rounded up, start at jumpers, the others anywhere, all equally likely.

    Walks are drawn in blocks at the addresses (seed, "walks", corpus, block); a walk does not depend on those after it.
    """
    walks = np.empty((num_walks, length), dtype=VERTEX)
    half = -(-num_walks // 2)
    streams = Streams(seed)
    for block, first in enumerate(range(0, num_walks, BLOCK)):
        generator = streams.numpy("walks", corpus, block)
        size = min(BLOCK, num_walks - first)
        places = generator.random(BLOCK)[:size]
        starts = (places * tables.num_vertices).astype(np.int64)
        if len(tables.jumpers):
            at_jumper = np.arange(first, first + size) < half
            jumpers = tables.jumpers[(places * len(tables.jumpers)).astype(np.int64)]
            starts = np.where(at_jumper, jumpers, starts)
        draws = generator.random((length - 1, BLOCK), dtype=np.float32)[:, :size]
        made = np.empty((length, size), dtype=walks.dtype)
        walk(tables, starts, draws, made)
        walks[first : first + size] = made.T
    return walks


def uniform_walks(tables: Steering, starts: Array, length: int, seed: int, purpose: str) -> Array:
    """A walk (N, L) from each of `starts`, with `tables` as they are (without rules: uniform over out-neighbours)."""
    made = np.empty((length, len(starts)), dtype=VERTEX)
    draws = Streams(seed).numpy("walks", purpose).random((length - 1, len(starts)), dtype=np.float32)
    walk(tables, starts, draws, made)
    return np.ascontiguousarray(made.T)


def items(walks: Array, window: int) -> Array:
    """Chunks (N floor(L / (w + 1)), w + 1) of the walks, none overlapping: inputs are the first w, targets the last w.

    >>> items(np.arange(14).reshape(2, 7), 2).tolist()
    [[0, 1, 2], [3, 4, 5], [7, 8, 9], [10, 11, 12]]
    """
    per_walk = walks.shape[1] // (window + 1)
    return np.ascontiguousarray(walks[:, : per_walk * (window + 1)]).reshape(-1, window + 1)
