"""Machines equal `re.fullmatch`, are total and minimal, and their file is verified when read."""

from __future__ import annotations

import json
import random
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from automata.fa.dfa import DFA
from automata.fa.nfa import NFA

from loopwright.errors import DataError
from loopwright.tasks.regex.compile import PatternError, compile_fsm
from loopwright.tasks.regex.fsm import FSM, read_fsm

# Pattern, alphabet, and the size of its minimal total machine.
PATTERNS = [
    ("a+", "ab", 3),
    ("a*b*", "ab", 3),
    ("(a|b)*c", "abc", 3),
    ("", "ab", 2),
    ("(?!)", "ab", 1),
    ("a[^ab]", "ab", 1),
    (".*", "ab", 1),
    ("a?b?", "ab", 4),
    ("(ab|ba){2,3}", "ab", 11),
    ("((a|b)(a|b))*", "ab", 2),
    ("(a(b(c)?)*)+", "abc", 4),
    ("(a|)(|b)", "ab", 4),
    ("a{3}", "ab", 5),
    ("a{2,}b{,2}", "ab", 6),
    (".*a..", "ab", 8),
    ("(?:ab)*?a*?", "ab", 4),
    ("[^a][ab]+|c", "abc", 4),
    ("(a*b)?(b*a)?", "ab", 7),
    ("(?P<x>a|bb)+c?", "abc", 5),
    (r"\.+[\]\-]?", ".]-", 4),
    (r"\d\d|a\s", "01a ", 5),
    ("((a+b)*|c)*", "abc", 3),
]


def accepted(fsm: FSM, length: int) -> np.ndarray[Any, Any]:
    """Whether each string of that length is accepted, in the order of itertools.product."""
    states = np.array([fsm.start])
    for _ in range(length):
        states = fsm.delta[states].ravel()
    return fsm.state_class[states] < fsm.num_accepting


@pytest.mark.parametrize(("pattern", "alphabet", "size"), PATTERNS)
def test_equal_to_fullmatch_on_every_string_up_to_ten(pattern: str, alphabet: str, size: int) -> None:
    fsm, match = compile_fsm([(pattern, "accept")], alphabet), re.compile(pattern).fullmatch
    for length in range(11 if len(alphabet) < 4 else 7):
        wanted = [match("".join(word)) is not None for word in product(alphabet, repeat=length)]
        assert accepted(fsm, length).tolist() == wanted


@pytest.mark.parametrize(("pattern", "alphabet", "size"), PATTERNS)
def test_total_and_minimal(pattern: str, alphabet: str, size: int) -> None:
    fsm = compile_fsm([(pattern, "accept")], alphabet)
    assert fsm.delta.shape == (size, len(alphabet)) and fsm.start == 0
    assert set(fsm.delta.ravel()) | {0} == set(range(size))
    # No two states are alike: strings of up to `size` symbols tell any two apart.
    futures = []
    for state in range(size):
        states, seen = np.array([state]), []
        for _ in range(size):
            seen += [fsm.state_class[states]]
            states = np.unique(fsm.delta[states], axis=0).ravel() if len(states) > 4000 else fsm.delta[states].ravel()
        futures.append(np.concatenate(seen)[:4000].tobytes())
    assert len(set(futures)) == size


# What that library reads as `re` does: no (?:), no empty alternatives, no lazy repetition.
KNOWN = [given for given in PATTERNS if given[0] and not re.search(r"\(\?|\|\)|\(\||\*\?|\\", given[0])]


@pytest.mark.parametrize(("pattern", "alphabet", "size"), KNOWN)
def test_as_few_states_as_the_reference_library_finds(pattern: str, alphabet: str, size: int) -> None:
    nfa = NFA.from_regex(pattern, input_symbols=set(alphabet))
    reference = DFA.from_nfa(nfa).to_complete().minify(retain_names=False)
    assert len(reference.states) == compile_fsm([(pattern, "accept")], alphabet).num_states == size


def random_pattern(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(["a", "b", "a", "b", ".", "[ab]", "[^a]", "(|a)"])
    kind = rng.choice(["then", "or", "repeat"])
    inner = random_pattern(rng, depth - 1)
    if kind == "repeat":
        return f"({inner})" + rng.choice(["*", "+", "?", "{2}", "{1,2}", "{0,2}", "{2,}", "{,3}", "*?"])
    other = random_pattern(rng, depth - 1)
    return f"({inner}|{other})" if kind == "or" else inner + other


def test_random_patterns() -> None:
    rng, sizes = random.Random(7), []
    for _ in range(200):
        pattern = random_pattern(rng, 3)
        fsm, match = compile_fsm([(pattern, "accept")], "ab"), re.compile(pattern).fullmatch
        sizes.append(fsm.num_states)
        for length in range(8):
            wanted = [match("".join(word)) is not None for word in product("ab", repeat=length)]
            assert accepted(fsm, length).tolist() == wanted, pattern
        # The same language has the same table, whatever the pattern.
        again = compile_fsm([(f"({pattern})|({pattern})", "accept")], "ab")
        assert (again.delta == fsm.delta).all() and (again.state_class == fsm.state_class).all(), pattern
    assert max(sizes) > 8


def test_a_plus_has_three_states() -> None:
    fsm = compile_fsm([("a+", "accept")], "ab")
    assert fsm.classes == ("accept", "incomplete", "reject")
    assert [fsm.final_class(string) for string in ("", "a", "aaa", "b", "ab", "aba")] == [
        "incomplete", "accept", "accept", "reject", "reject", "reject",
    ]  # fmt: skip
    with pytest.raises(ValueError):
        fsm.final_class("c")


@pytest.mark.parametrize(("pattern", "alphabet", "size"), PATTERNS)
def test_incomplete_is_what_acceptance_can_follow(pattern: str, alphabet: str, size: int) -> None:
    fsm, match = compile_fsm([(pattern, "accept")], alphabet), re.compile(pattern).fullmatch
    short = ["".join(word) for length in range(4) for word in product(alphabet, repeat=length)]
    ends = ["".join(word) for length in range(6) for word in product(alphabet, repeat=length)]
    for string in short[:: max(1, len(short) // 20)]:
        unfinished = "incomplete" if any(match(string + end) for end in ends) else "reject"
        assert fsm.final_class(string) == ("accept" if match(string) else unfinished)


def test_the_first_of_several_patterns_that_accepts_names_the_class() -> None:
    pairs = [("a+", "as"), ("(a|b)+", "mixed"), ("b*c", "tail"), ("b+", "never")]
    fsm = compile_fsm(pairs, "abc")
    assert fsm.classes == ("as", "mixed", "tail", "never", "incomplete", "reject")
    matches = [(re.compile(pattern).fullmatch, name) for pattern, name in pairs]
    for length in range(6):
        for word in product("abc", repeat=length):
            string = "".join(word)
            named = next((name for match, name in matches if match(string)), None)
            assert fsm.final_class(string) == named or (named is None and fsm.final_class(string) in fsm.classes[-2:])
    assert fsm.final_class("") == "incomplete" and fsm.final_class("ac") == "reject"
    # start, a+, b+, mixed, tail, reject: minimal although the patterns overlap
    assert fsm.num_states == 6


def test_states_of_one_future_but_two_classes_stay_apart() -> None:
    assert compile_fsm([("a|b", "accept")], "ab").num_states == 3
    assert compile_fsm([("a", "one"), ("b", "other")], "ab").num_states == 4


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(a", "not a regular expression"),
        ("a**", "not a regular expression"),
        ("a{2,1}", "not a regular expression"),
        ("ac", "'c' is not in the alphabet 'ab'; add it to task.alphabet"),
        ("[a-d]", "'c', 'd' is not in the alphabet"),
        ("[^c]", "'c' is not in the alphabet"),
        ("a++b", "possessive repetition, ++,"),
        ("a{1,2}+", "possessive repetition, }+,"),
        ("^a", r"leave ^ out, or write \^"),
        ("a$", r"leave $ out, or write \$"),
        (r"(a)\1", r"\1 is not supported"),
        (r"a\b", r"\b is not supported"),
        (r"\x61", r"\x is not supported"),
        ("(?=a)a", "(?= is not regular"),
        ("(?i:a)", "(?i is not regular"),
        ("(?P<x>a)(?P=x)", "is not regular"),
        ("a{", "write operators that are symbols with a \\"),
    ],
)
def test_a_pattern_that_is_refused(pattern: str, said: str) -> None:
    with pytest.raises(PatternError) as caught:
        compile_fsm([(pattern, "accept")], "ab")
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_library_reads_otherwise_is_refused() -> None:
    assert compile_fsm([(r"\w", "accept")], "ab").num_states == 3
    with pytest.raises(PatternError, match="w is not supported with 'é'"):
        compile_fsm([(r"[\w]", "accept")], "aé")  # a letter to `re`, and none to the library


def test_the_file_reads_back(tmp_path: Path) -> None:
    fsm = compile_fsm([("(a|b)*c", "accept"), ("a{2}", "two")], "abc")
    (tmp_path / "fsm.json").write_text(json.dumps(fsm.to_json(), indent=2))
    again = read_fsm(tmp_path / "fsm.json")
    assert again.to_json() == fsm.to_json()
    assert (again.delta == fsm.delta).all() and (again.state_class == fsm.state_class).all()
    assert (again.patterns, again.alphabet, again.classes) == (fsm.patterns, fsm.alphabet, fsm.classes)


def sealed(**changed: Any) -> dict[str, Any]:
    """The file of a+ with some values changed, and a checksum that fits."""
    from loopwright.tasks.regex.fsm import _checksum

    held = {**compile_fsm([("a+", "accept")], "ab").to_json(), **changed}
    del held["checksum"]
    return {**held, "checksum": _checksum(held)}


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ([], "is not a machine: it needs the keys version, patterns"),
        ({"version": 1}, "is not a machine"),
        (sealed(version=2), "has version 2"),
        ({**sealed(), "start": 1}, "checksum does not fit"),
        ({**sealed(), "checksum": "0"}, "checksum does not fit"),
        (sealed(alphabet=["a", "a"]), "`alphabet` should list"),
        (sealed(alphabet=["a", "bc"]), "`alphabet` should list"),
        (sealed(patterns=[["a+"]]), "`patterns` should list pairs"),
        (sealed(patterns="a+"), "`patterns` should list pairs"),
        (sealed(classes=["yes", "incomplete", "reject"]), "`classes` should be"),
        (sealed(states=["incomplete", "accept", "perhaps"]), "`states` should list"),
        (sealed(states=[]), "`states` should list"),
        (sealed(start=3), "`start` should be a state, 0 to 2"),
        (sealed(start=True), "`start` should be a state"),
        (sealed(delta=[[1, 2], [1, 2]]), "`delta` should have a row"),
        (sealed(delta=[[1, 2], [1, 2], [2]]), "`delta` should have a row"),
        (sealed(delta=[[1, 2], [1, 2], [2, 3]]), "`delta` should hold states, 0 to 2"),
        (sealed(delta=[[1, 2], [1, 2], [2, 1]]), "`reject` should be the states"),
        (sealed(states=["reject", "accept", "reject"]), "`reject` should be the states"),
    ],
)
def test_a_file_that_is_no_machine_is_refused(held: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / "fsm.json").write_text(json.dumps(held))
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        read_fsm(tmp_path / "fsm.json")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_fsm(tmp_path / "none.json")
    (tmp_path / "fsm.json").write_bytes(b'{"version": 1, \xff')
    with pytest.raises(DataError, match="it is not JSON"):
        read_fsm(tmp_path / "fsm.json")
