"""From patterns to the minimal machine: interegular reads a pattern, what follows is our own.

The library's machines are partial, carry a symbol for "anything else" and are not minimal. Here they are completed over
the alphabet, multiplied, minimised with respect to the classes, and numbered in breadth-first order.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from loopwright.tasks.regex.fsm import FSM, INCOMPLETE, REJECT, Ints, labels, reaching

Patterns = Sequence[tuple[str, str]]
_CATEGORIES = "dDwWsS"
_ESCAPES = _CATEGORIES + "ntrfv"
# Escapes and whole character classes, inside which operators mean themselves.
_LITERALS = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_UNSUPPORTED = (
    (r"[\^$]", "the whole string has to match anyway; leave {found} out, or write \\{found} for the symbol"),
    (r"[*+?}]\+", "possessive repetition, {found}, depends on the order of matching; leave its last + out"),
    (r"\(\?(?!:|P<|!\)).", "{found} is not regular; use ( ) or (?: )"),
)


class PatternError(ValueError):
    """A pattern that cannot be compiled; the message says why, in one line and without the pattern."""


def compile_fsm(patterns: Patterns, alphabet: Sequence[str]) -> FSM:
    """The minimal machine of (pattern, class) pairs: the first pattern that accepts a string names its class.

    A pattern accepts what `re.fullmatch` matches. Patterns hold literals, escapes, `.`, classes, groups, `|`, `*`, `+`,
    `?` and `{m,n}`; `(?!)` accepts nothing. Raises PatternError.

    >>> compile_fsm([("a+", "accept")], "ab").num_states
    3
    """
    machines = [_read(pattern, alphabet) for pattern, _ in patterns]
    names = labels(patterns)
    none = len(patterns)
    # The product: a state is a state of each machine.
    numbers: dict[tuple[int, ...], int] = {(0,) * none: 0}
    rows: list[list[int]] = []
    label: list[int] = []
    for states in (queue := list(numbers)):
        accepting = (i for i, (state, (_, accepts)) in enumerate(zip(states, machines, strict=True)) if accepts[state])
        label.append(next(accepting, none))
        row = []
        for symbol in range(len(alphabet)):
            after = tuple(delta[state][symbol] for state, (delta, _) in zip(states, machines, strict=True))
            if after not in numbers:
                numbers[after] = len(numbers)
                queue.append(after)
            row.append(numbers[after])
        rows.append(row)
    delta, state_class = _minimal(np.array(rows, dtype=np.int64), np.array(label, dtype=np.int64))
    live = reaching(delta, state_class < none)
    state_class = np.where(state_class < none, state_class, np.where(live, none, none + 1))
    assert names[none:] == (INCOMPLETE, REJECT)
    return FSM(tuple((p, name) for p, name in patterns), tuple(alphabet), names, delta, state_class)


def _read(pattern: str, alphabet: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
    """A pattern's total machine over the alphabet, start 0: a row of next states per state, and which states accept."""
    import interegular  # 30 ms that only this task should pay

    _check_operators(pattern)
    try:
        _check_symbols(pattern, alphabet)
        machine = interegular.parse_pattern(pattern).to_fsm()
    except (interegular.InvalidSyntax, interegular.Unsupported, RecursionError):
        raise PatternError(
            "it cannot be read as a regular language; write operators that are symbols with a \\"
        ) from None
    keys = [machine.alphabet[symbol] for symbol in alphabet]
    sink = -1  # where the missing edges lead
    numbers: dict[int, int] = {machine.initial: 0}
    rows: list[list[int]] = []
    queue: list[Any] = [machine.initial]
    for state in queue:
        out = machine.map.get(state, {})
        row = []
        for key in keys:
            after = out.get(key, sink)
            if after not in numbers:
                numbers[after] = len(numbers)
                queue.append(after)
            row.append(numbers[after])
        rows.append(row)
    return rows, [state in machine.finals for state in queue]


def _check_operators(pattern: str) -> None:
    """Raises PatternError unless `re` accepts the pattern and its operators are those of regular languages."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of set operations that a later Python may bring
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(f"it is not a regular expression: {error}") from None
    for escape in re.finditer(r"\\(.)", pattern, re.DOTALL):
        if escape[1].isalnum() and escape[1] not in _ESCAPES:
            raise PatternError(f"{escape[0]} is not supported; write the symbol itself")
    bare = _LITERALS.sub("x", pattern)
    for operator, why in _UNSUPPORTED:
        if found := re.search(operator, bare):
            raise PatternError(why.format(found=found[0]))


def _check_symbols(pattern: str, alphabet: Sequence[str]) -> None:
    """Raises PatternError for a symbol that the pattern names and the alphabet lacks; `.` and \\d name none.

    Also for \\d and its like where the library, which knows ASCII, does not see in a symbol what `re` does.
    """
    import interegular

    for category in sorted({escape[0] for escape in re.finditer(r"\\(.)", pattern) if escape[1] in _CATEGORIES}):
        known = interegular.parse_pattern(category).to_fsm()
        for symbol in alphabet:
            if known.accepts(symbol) != (re.fullmatch(category, symbol) is not None):
                raise PatternError(f"{category} is not supported with {symbol!r}; write the symbols themselves")

    def one(escape: re.Match[str]) -> str:
        return re.escape(alphabet[0]) if escape[1] in _CATEGORIES else escape[0]

    plain = re.sub(r"\\(.)", one, pattern, flags=re.DOTALL)
    named = interegular.parse_pattern(plain).get_alphabet(interegular.REFlags(0))
    # A dot is "anything but a line break" and so names that one.
    strange = sorted(symbol for symbol in named if isinstance(symbol, str) and symbol not in (*alphabet, "\n"))
    if strange:
        these = ", ".join(map(repr, strange[:5])) + (", ..." if len(strange) > 5 else "")
        raise PatternError(
            f"{these} is not in the alphabet {''.join(alphabet)!r}; add it to task.alphabet or take it out"
        )


def _minimal(delta: Ints, label: Ints) -> tuple[Ints, Ints]:
    """Moore's refinement (1956): states stay together while their labels, and those of their successors, are equal.

    Takes and returns delta (S, K) and a label (S,) for each state; state 0 is the start. The states that remain are
    numbered in breadth-first order, so equal languages give equal tables.
    """
    _, block = np.unique(label, return_inverse=True)
    count = 0
    while (found := int(block.max()) + 1) > count:
        count = found
        _, block = np.unique(np.column_stack([block, block[delta]]), axis=0, return_inverse=True)
        block = block.reshape(-1)
    _, first = np.unique(block, return_index=True)
    merged = block[delta[first]]
    order = [int(block[0])]
    seen = set(order)
    for state in order:
        for after in merged[state].tolist():
            if after not in seen:
                seen.add(after)
                order.append(after)
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[merged[order]], label[first[order]]
