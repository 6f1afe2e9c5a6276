"""Strings are counted exactly, drawn uniformly, and rejected ones are of the kind they were drawn as."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from loopwright.streams import Streams
from loopwright.tasks.regex.compile import compile_fsm
from loopwright.tasks.regex.fsm import FSM
from loopwright.tasks.regex.sampling import REJECT_KINDS, Kind, Sampler

PATTERNS = [
    ("a+", "ab"),
    ("a*b*", "ab"),
    ("(a|b)*c", "abc"),
    ("(ab|cd)e?", "abcde"),
    ("(?!)", "ab"),
    ("(ab|ba)+a", "ab"),
]
LONGEST = {2: 8, 3: 6, 5: 5}


def kind_of(fsm: FSM, string: str) -> Kind:
    """By the definition, from walking the string and from looking at every string of its length."""
    name = fsm.final_class(string)
    if name != "reject":
        return Kind(name)
    if fsm.final_class("") == "reject":
        return Kind(name, "hopeless")
    fatal = next(i for i in range(len(string)) if fsm.final_class(string[: i + 1]) == "reject")
    if fsm.final_class(string[:fatal]) not in ("incomplete", "reject"):
        return Kind(name, "overrun")
    others = ("".join(word) + string[fatal] for word in product(fsm.alphabet, repeat=fatal))
    legal = any(fsm.final_class(other) != "reject" for other in others)
    return Kind(name, "wrong_alternative" if legal else "illegal_step")


@pytest.mark.parametrize(("pattern", "alphabet"), PATTERNS)
def test_counts_are_those_of_all_strings(pattern: str, alphabet: str) -> None:
    fsm = compile_fsm([(pattern, "accept")], alphabet)
    longest = LONGEST[len(alphabet)]
    sampler = Sampler(fsm, longest)
    for length in range(1, longest + 1):
        wanted = Counter(kind_of(fsm, "".join(word)) for word in product(alphabet, repeat=length))
        assert {kind: sampler.count(kind, length) for kind in sampler.kinds} == {
            kind: wanted[kind] for kind in sampler.kinds
        }


@pytest.mark.parametrize(("pattern", "alphabet"), PATTERNS)
def test_every_string_of_a_kind_and_length_is_drawn_equally_often(pattern: str, alphabet: str) -> None:
    fsm = compile_fsm([(pattern, "accept")], alphabet)
    sampler, rng = Sampler(fsm, 5), Streams(3).numpy("test")
    looked_at = 0
    for number, kind in enumerate(sampler.kinds):
        for length in (1, 3, 5):
            count = sampler.count(kind, length)
            if not 0 < count <= 130:
                continue
            draws = 60 * count
            symbols = sampler.draw(np.full(draws, number), np.full(draws, length), rng)
            assert (symbols[:, length:] == -1).all() and (symbols[:, :length] >= 0).all()
            found = Counter("".join(fsm.alphabet[s] for s in row[:length]) for row in symbols.tolist())
            assert len(found) == count and all(kind_of(fsm, string) == kind for string in found)
            chi_squared = sum((seen - 60) ** 2 / 60 for seen in found.values())
            assert chi_squared < count - 1 + 5 * (2 * count) ** 0.5  # mean k - 1, variance 2 (k - 1)
            looked_at += 1
    assert looked_at >= 3


def test_kinds_and_lengths_may_be_mixed() -> None:
    fsm = compile_fsm([("(ab|cd)e?", "accept")], "abcde")
    sampler = Sampler(fsm, 9)
    cells = [(k, n) for k, kind in enumerate(sampler.kinds) for n in range(1, 10) if sampler.count(kind, n)]
    kinds, lengths = np.array(cells * 20).T
    order = Streams(0).numpy("order").permutation(len(kinds))
    symbols = sampler.draw(kinds[order], lengths[order], Streams(1).numpy("test"))
    for number, length, row in zip(kinds[order], lengths[order], symbols, strict=True):
        string = "".join(fsm.alphabet[s] for s in row if s >= 0)
        assert len(string) == length and kind_of(fsm, string) == sampler.kinds[number]
    assert (symbols == sampler.draw(kinds[order], lengths[order], Streams(1).numpy("test"))).all()


def test_counts_beyond_every_float() -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    sampler = Sampler(compile_fsm([("[a-m]*z[a-z]*", "accept")], alphabet), 300)
    accept, incomplete, *_ = sampler.kinds
    assert sampler.count(incomplete, 300) == 13**300 and 13**300 > 2**1024
    every = sum(sampler.count(kind, 300) for kind in sampler.kinds)
    assert every == 26**300 and sampler.count(accept, 300) > 0
    symbols = sampler.draw(np.array([0, 1] * 20), np.full(40, 300), Streams(0).numpy("test"))
    assert (sampler.fsm.state_class[sampler.fsm.walk(symbols)[:, -1]] == np.array([0, 1] * 20)).all()
    assert len(np.unique(symbols, axis=0)) == 40


def test_a_kind_without_a_string_is_refused() -> None:
    sampler = Sampler(compile_fsm([("a+", "accept")], "ab"), 4)
    assert [kind.reject_kind for kind in sampler.kinds[2:]] == list(REJECT_KINDS)
    with pytest.raises(ValueError, match="no string of 3 symbols"):
        sampler.draw(np.array([0, 1]), np.array([3, 3]), Streams(0).numpy("test"))
