"""`FSM`: a total, minimal machine whose states have classes, and the file `fsm.json` that holds it.

Letters of shapes: S states, K symbols.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loopwright.errors import DataError

INCOMPLETE, REJECT = "incomplete", "reject"
_VERSION = 1
_KEYS = ("version", "patterns", "alphabet", "classes", "states", "start", "delta", "checksum")

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FSM:
    """A total deterministic machine; reading symbol k in state q leads to `delta[q, k]`.

    `classes` are the names that `patterns` give to the strings they accept, then `incomplete` (no acceptance yet, one is
    reachable) and `reject` (none is reachable). `state_class` (S,) holds a number into `classes` for each state.
    """

    patterns: tuple[tuple[str, str], ...]
    alphabet: tuple[str, ...]
    classes: tuple[str, ...]
    delta: Ints
    state_class: Ints
    start: int = 0

    @property
    def num_states(self) -> int:
        return len(self.delta)

    @property
    def num_accepting(self) -> int:
        """How many of the classes, the first ones, are of accepted strings."""
        return len(self.classes) - 2

    @property
    def live(self) -> NDArray[np.bool_]:
        """(S,): whether acceptance is still reachable (or there already)."""
        live: NDArray[np.bool_] = self.state_class != len(self.classes) - 1
        return live

    def walk(self, symbols_NL: Ints) -> Ints:
        """The states (N, L) after each symbol; where a symbol is negative (behind a string's end) the state stays."""
        states_NL = np.empty_like(symbols_NL)
        state_N = np.full(len(symbols_NL), self.start)
        for position, symbol_N in enumerate(symbols_NL.T):
            state_N = np.where(symbol_N < 0, state_N, self.delta[state_N, symbol_N])
            states_NL[:, position] = state_N
        return states_NL

    def final_class(self, string: str) -> str:
        """The class of the state that a string leads to. Raises ValueError for a symbol outside the alphabet."""
        state = self.start
        for symbol in string:
            state = int(self.delta[state, self.alphabet.index(symbol)])
        return self.classes[int(self.state_class[state])]

    def to_json(self) -> dict[str, Any]:
        """What `fsm.json` holds: `states` lists the class of each state, `delta` a row per state, `checksum` seals them."""
        held = {
            "version": _VERSION,
            "patterns": [list(pair) for pair in self.patterns],
            "alphabet": list(self.alphabet),
            "classes": list(self.classes),
            "states": [self.classes[number] for number in self.state_class],
            "start": self.start,
            "delta": self.delta.tolist(),
        }
        return {**held, "checksum": _checksum(held)}

    @classmethod
    def from_json(cls, held: Any, name: str = "the machine") -> FSM:
        """Undo `to_json`. Raises DataError, naming the first thing that is wrong, unless all of it fits together."""
        if not isinstance(held, Mapping) or set(held) != set(_KEYS):
            raise DataError(f"{name} is not a machine: it needs the keys {', '.join(_KEYS)}, and no others")
        if held["version"] != _VERSION:
            raise DataError(f"{name} has version {held['version']!r}; this program reads version {_VERSION}")
        if held["checksum"] != _checksum({key: held[key] for key in _KEYS if key != "checksum"}):
            raise DataError(f"{name} is damaged: its checksum does not fit its content; take it from a copy")
        if problem := _problem(held):
            raise DataError(f"{name} is no total machine: {problem}")
        classes = tuple(held["classes"])
        return cls(
            tuple((pattern, label) for pattern, label in held["patterns"]),
            tuple(held["alphabet"]),
            classes,
            np.array(held["delta"], dtype=np.int64),
            np.array([classes.index(label) for label in held["states"]], dtype=np.int64),
            held["start"],
        )


def read_fsm(path: str | Path) -> FSM:
    """The machine of a file `fsm.json`. Raises DataError where the file is missing, damaged or not a machine."""
    try:
        held = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give the path of an fsm.json") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is damaged: it is not JSON; take it from a copy") from None
    return FSM.from_json(held, str(path))


def reaching(delta: Ints, targets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(S,): the states from which one of `targets` (S,) can be reached, themselves included."""
    reached = targets
    while True:
        more = reached | reached[delta].any(1)
        if (more == reached).all():
            return reached
        reached = more


def _checksum(held: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(json.dumps(held, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _problem(held: Mapping[str, Any]) -> str:
    """What is wrong with the structure; "" where all of it fits together."""
    patterns, alphabet, classes, states = (held[key] for key in ("patterns", "alphabet", "classes", "states"))
    delta, start = held["delta"], held["start"]
    if not _texts(alphabet) or not alphabet or any(len(symbol) != 1 for symbol in alphabet):
        return "`alphabet` should list single characters, each once"
    pairs = patterns if isinstance(patterns, list) else [None]
    if not all(isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in pairs):
        return "`patterns` should list pairs of a pattern and a class"
    if not _texts(classes) or classes != [*labels(patterns)]:
        return f"`classes` should be those of the patterns, then {INCOMPLETE} and {REJECT}"
    if not isinstance(states, list) or not states or not all(label in classes for label in states):
        return "`states` should list a class for each state"
    numbers = range(len(states))
    if type(start) is not int or start not in numbers:
        return f"`start` should be a state, 0 to {len(states) - 1}"
    rows = delta if isinstance(delta, list) else []
    if len(rows) != len(states) or not all(isinstance(row, list) and len(row) == len(alphabet) for row in rows):
        return "`delta` should have a row for each state and a column for each symbol"
    if not all(type(state) is int and state in numbers for row in rows for state in row):
        return f"`delta` should hold states, 0 to {len(states) - 1}"
    accepting = np.array([label not in (INCOMPLETE, REJECT) for label in states])
    live = reaching(np.array(rows, dtype=np.int64), accepting)
    if any((label == REJECT) == bool(reachable) for label, reachable in zip(states, live, strict=True)):
        return f"`{REJECT}` should be the states from which no acceptance is reachable"
    return ""


def _texts(values: Any) -> bool:
    """Whether these are a list of texts, no two of them equal."""
    return isinstance(values, list) and all(isinstance(v, str) for v in values) and len(set(values)) == len(values)


def labels(patterns: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """The classes of the machine of some patterns, in the order of their numbers."""
    return (*(label for _, label in patterns), INCOMPLETE, REJECT)
