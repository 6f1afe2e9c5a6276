"""Uniform strings of a machine by kind and length, drawn by counting paths.

The machine is deterministic, so strings are paths from the start. `paths[t][q]` counts those of length t that end in q.
A string of a class is drawn from its end: a final state in proportion to its paths, then edge after edge backwards, each
in proportion to the paths that lead to its source. No draw can fail. Counts are Python integers (26^127 has 180 digits);
only the probabilities, quotients of two counts, are rounded, once each.

A rejected string has one fatal step, after which no acceptance is reachable. It is of the kind

- `overrun` where the string was accepted before that step: it was complete and went on;
- `wrong_alternative` where it was incomplete, and another string of that length could have gone on with this symbol;
- `illegal_step` where it was incomplete, and no string of that length could have;
- `hopeless` where there is no fatal step, the language being empty.

Letters of shapes: N samples, L longest length, S states, K symbols, E = S K edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loopwright.tasks.regex.fsm import FSM, Ints

REJECT_KINDS = ("illegal_step", "wrong_alternative", "overrun", "hopeless")
Fatal = tuple[int, int, int]  # depth (from 1), the state before it, the symbol


@dataclass(frozen=True)
class Kind:
    """What a sample is drawn as: its class, and for a rejected one how it goes wrong ("" otherwise)."""

    class_name: str
    reject_kind: str = ""


class Sampler:
    """The strings of a machine with up to `longest` symbols. `kinds` are the rows of every table here."""

    def __init__(self, fsm: FSM, longest: int) -> None:
        self.fsm, self.longest = fsm, longest
        *others, reject = fsm.classes
        self.kinds = (*(Kind(name) for name in others), *(Kind(reject, kind) for kind in REJECT_KINDS))
        self.paths = _paths(fsm, longest)
        self._fatal = _fatal_steps(fsm, self.paths)
        # Edges, numbered state K + symbol, by the state they lead to.
        self._order = np.argsort(fsm.delta.ravel(), kind="stable")
        self._backwards = [np.empty(0), *(self._edges_into(t) for t in range(1, longest + 1))]

    def count(self, kind: Kind, length: int) -> int:
        """How many strings there are of a kind and length."""
        return sum(self._endings(kind, length).values())

    def draw(self, kind_N: Ints, length_N: Ints, rng: np.random.Generator) -> Ints:
        """Strings of the given rows of `kinds` and lengths, uniform over all there are: (N, L) symbols, -1 behind the end.

        Raises ValueError for a kind and length of which there is no string.
        """
        num_symbols, num_samples = len(self.fsm.alphabet), len(kind_N)
        # What no path fixes is uniform: the symbols behind a fatal step.
        symbols_NL = rng.integers(num_symbols, size=(num_samples, self.longest))
        state_N, depth_N = np.zeros_like(kind_N), np.zeros_like(kind_N)
        for kind, length in sorted({(int(k), int(n)) for k, n in zip(kind_N, length_N, strict=True)}):
            rows = np.flatnonzero((kind_N == kind) & (length_N == length))
            endings = self._endings(self.kinds[kind], length)
            total = sum(endings.values())
            if not total:
                raise ValueError(f"there is no string of {length} symbols of the kind {self.kinds[kind]}")
            chances = np.array([ways / total for ways in endings.values()])
            chosen = np.array(list(endings))[rng.choice(len(endings), len(rows), p=chances / chances.sum())]
            depth, state_N[rows], symbol = chosen.T
            # A fatal step stands at `depth`; before it, a path of depth - 1 symbols. A class's path has all its symbols.
            fatal = symbol >= 0
            symbols_NL[rows[fatal], depth[fatal] - 1] = symbol[fatal]
            depth_N[rows] = depth - fatal
        for t in range(self.longest, 0, -1):
            rows = np.flatnonzero(depth_N >= t)
            at = np.minimum(state_N[rows] + rng.random(len(rows)), np.nextafter(state_N[rows] + 1.0, 0.0))
            edge = self._order[np.searchsorted(self._backwards[t], at, side="right")]
            state_N[rows], symbols_NL[rows, t - 1] = np.divmod(edge, num_symbols)
        symbols_NL[np.arange(self.longest) >= length_N[:, None]] = -1
        return symbols_NL

    def _endings(self, kind: Kind, length: int) -> Mapping[Fatal, int]:
        """Where the drawing of a string can begin, and how many strings each beginning stands for.

        (length, final state, -1) for a class; (depth, state, symbol) of the fatal step for a rejected one; (0, 0, -1)
        for a hopeless one, whose symbols are all free.
        """
        fsm, num_symbols = self.fsm, len(self.fsm.alphabet)
        if kind.reject_kind == "hopeless":
            return {} if fsm.live[fsm.start] else {(0, 0, -1): num_symbols**length}
        if kind.reject_kind:
            steps = ((step, self.paths[step[0] - 1][step[1]]) for step in self._fatal[kind.reject_kind])
            return {step: ways * num_symbols ** (length - step[0]) for step, ways in steps if step[0] <= length}
        states = np.flatnonzero(fsm.state_class == fsm.classes.index(kind.class_name)).tolist()
        return {(length, state, -1): self.paths[length][state] for state in states if self.paths[length][state]}

    def _edges_into(self, t: int) -> NDArray[np.float64]:
        """(E,): for edges in that order, their target plus the cumulated probability among all that lead there at depth t."""
        order, targets = self._order, self.fsm.delta.ravel()[self._order]
        ways = [self.paths[t - 1][edge // len(self.fsm.alphabet)] for edge in order.tolist()]
        totals = self.paths[t]
        table = np.empty(len(order))
        target, running = -1, 0
        for i, (to, number) in enumerate(zip(targets.tolist(), ways, strict=True)):
            running = number if to != target else running + number
            target = to
            table[i] = to + (running / totals[to] if totals[to] else 0.0)
        return table


def _paths(fsm: FSM, longest: int) -> list[list[int]]:
    """paths[t][q]: the number of strings of t symbols that lead from the start to q."""
    delta = fsm.delta.tolist()
    paths = [[int(state == fsm.start) for state in range(fsm.num_states)]]
    for _ in range(longest):
        after = [0] * fsm.num_states
        for ways, row in zip(paths[-1], delta, strict=True):
            if ways:
                for state in row:
                    after[state] += ways
        paths.append(after)
    return paths


def _fatal_steps(fsm: FSM, paths: list[list[int]]) -> Mapping[str, list[Fatal]]:
    """The steps from a live state into rejection, by their kind; depths from 1 to the longest length."""
    steps: dict[str, list[Fatal]] = {kind: [] for kind in REJECT_KINDS}
    live, delta, accepting = fsm.live.tolist(), fsm.delta.tolist(), (fsm.state_class < fsm.num_accepting).tolist()
    for depth, ways in enumerate(paths[:-1], 1):
        states = [state for state in range(fsm.num_states) if live[state] and ways[state]]
        legal = {symbol for state in states for symbol, after in enumerate(delta[state]) if live[after]}
        for state in states:
            for symbol, after in enumerate(delta[state]):
                if not live[after]:
                    elsewhere = "wrong_alternative" if symbol in legal else "illegal_step"
                    steps["overrun" if accepting[state] else elsewhere].append((depth, state, symbol))
    return steps
