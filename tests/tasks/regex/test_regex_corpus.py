"""The corpus: shares as asked or as redistributed, splits by hash, and what the report says of both."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from loopwright.errors import DataError
from loopwright.streams import Streams
from loopwright.tasks.regex.bins import bin_name, length_bins
from loopwright.tasks.regex.ceiling import best_token_accuracy, table_token_accuracy
from loopwright.tasks.regex.compile import compile_fsm
from loopwright.tasks.regex.corpus import SPLITS, Corpus, make_corpus, split_of
from loopwright.tasks.regex.fsm import FSM
from loopwright.tasks.regex.report import corpus_report, failed_attempts, missing_classes
from loopwright.tasks.regex.sampling import Sampler
from loopwright.tasks.regex.shares import Plan, plan

SHIPPED = [("a+", "ab"), ("a*b*", "ab"), ("(a|b)*c", "abc")]
ALL = [*SHIPPED, ("(ab|cd)e?", "abcde"), ("(?!)", "ab"), ("", "ab"), (".*", "a"), (".*a...", "ab")]


def machine(pattern: str, alphabet: str) -> FSM:
    return compile_fsm([(pattern, "accept")], alphabet)


def planned(
    fsm: FSM, lengths: tuple[int, int] = (1, 20), p_class: Any = None, p_reject: Any = None
) -> tuple[Sampler, Plan]:
    sampler = Sampler(fsm, lengths[1])
    return sampler, plan(sampler, range(lengths[0], lengths[1] + 1), p_class, p_reject)


def corpus(fsm: FSM, samples: int = 2000, seed: int = 0, **given: Any) -> Corpus:
    return make_corpus(*planned(fsm, **given), samples, (0.8, 0.1, 0.1), seed)


def report(drawn: Corpus) -> dict[str, Any]:
    lengths = drawn.plan.lengths
    half, third = dict.fromkeys(SPLITS, 0.5), dict.fromkeys(SPLITS, 0.3)
    return corpus_report(drawn, length_bins((5, 10, 15, 20), lengths[0], lengths[-1]), half, third, [])


@pytest.mark.parametrize(("pattern", "alphabet"), ALL)
def test_classes_and_lengths_as_asked_within_sampling_error(pattern: str, alphabet: str) -> None:
    fsm = machine(pattern, alphabet)
    n = 4000
    drawn = corpus(fsm, n)
    assert drawn.plan.asked.sum() == pytest.approx(1) and drawn.plan.drawn.sum() == pytest.approx(1)
    # Every cell, every class and every length: at most 5 standard deviations off, and a cell of share 0 is empty.
    cells = np.zeros(drawn.plan.drawn.shape)
    np.add.at(cells, (drawn.kind_N, drawn.length_N - 1), 1)
    for got, share in (
        (cells, drawn.plan.drawn),
        (cells.sum(0), drawn.plan.drawn.sum(0)),
        (cells.sum(1), drawn.plan.drawn.sum(1)),
    ):
        assert (np.abs(got - n * share) <= 5 * np.sqrt(n * share * (1 - share)) + 1e-6).all()
    # The class of a sample is that of its last state, and the one it was drawn as.
    strings = drawn.strings(np.arange(n))
    matches = [re.fullmatch(pattern, string) is not None for string in strings]
    assert ((drawn.class_N == 0) == matches).all()
    assert [len(string) for string in strings] == drawn.length_N.tolist()
    assert [fsm.classes[c] for c in drawn.class_N] == [drawn.plan.kinds[k].class_name for k in drawn.kind_N]
    assert failed_attempts(drawn) == 0


def test_what_exists_is_drawn_as_asked() -> None:
    p_class = {"accept": 0.25, "incomplete": 0.25, "reject": 0.5}
    p_reject = {"overrun": 0.5, "illegal_step": 0.25, "wrong_alternative": 0.25}
    _, shares = planned(machine("(ab|cde?)+f?", "abcdef"), (5, 9), p_class, p_reject)
    assert shares.moved == () and (shares.drawn == shares.asked).all()
    of_kind = {(k.class_name, k.reject_kind): row.sum() for k, row in zip(shares.kinds, shares.drawn, strict=True)}
    assert of_kind == pytest.approx(
        {
            ("accept", ""): 0.25,
            ("incomplete", ""): 0.25,
            ("reject", "illegal_step"): 0.125,
            ("reject", "wrong_alternative"): 0.125,
            ("reject", "overrun"): 0.25,
            ("reject", "hopeless"): 0.0,
        }
    )
    assert shares.drawn.sum(0) == pytest.approx(np.full(5, 0.2))


def test_a_class_that_cannot_exist_gives_its_share_to_the_others() -> None:
    _, shares = planned(machine("a+", "ab"))
    by_class = {kind.class_name: 0.0 for kind in shares.kinds}
    for kind, row in zip(shares.kinds, shares.drawn, strict=True):
        by_class[kind.class_name] += row.sum()
    assert by_class == pytest.approx({"accept": 0.4 / 0.7, "incomplete": 0.0, "reject": 0.3 / 0.7})
    moved = {(m["class"], m.get("reject_kind"), m["to_other"]): m for m in shares.moved}
    assert moved["incomplete", None, "classes"]["lengths"] == list(range(1, 21))
    assert moved["incomplete", None, "classes"]["share"] == pytest.approx(0.3)
    assert moved["reject", "wrong_alternative", "kinds"]["share"] == pytest.approx(0.1)
    assert moved["reject", "overrun", "kinds"]["lengths"] == [1]  # b is the only rejected string of one symbol
    assert len(moved) == 3


def test_a_length_that_cannot_exist_gives_its_share_to_the_other_lengths_of_its_class() -> None:
    _, shares = planned(machine("ab", "ab"), (1, 4))
    accept, incomplete, *_ = shares.drawn
    assert accept == pytest.approx([0, 0.4, 0, 0]) and incomplete == pytest.approx([0.3, 0, 0, 0])
    assert [m["lengths"] for m in shares.moved if m["to_other"] == "lengths"][:2] == [[1, 3, 4], [2, 3, 4]]


def test_an_empty_language_is_hopeless() -> None:
    drawn = corpus(machine("(?!)", "ab"))
    assert report(drawn)["rejects"] == {"illegal_step": 0, "wrong_alternative": 0, "overrun": 0, "hopeless": 2000}
    (line,) = missing_classes(drawn)
    assert "is of class 'accept'" in line


def test_nothing_of_what_was_asked_exists() -> None:
    for given in ({"p_class": {"incomplete": 1.0}}, {"p_class": {"reject": 1.0}, "p_reject": {"hopeless": 1.0}}):
        with pytest.raises(DataError, match=r"task.data.lengths=\[1, 20\]: no string that long"):
            planned(machine("a+", "ab"), **given)


@pytest.mark.parametrize(("pattern", "alphabet"), SHIPPED)
def test_no_string_is_in_two_splits(pattern: str, alphabet: str) -> None:
    drawn = corpus(machine(pattern, alphabet))
    held = [set(drawn.strings(drawn.rows(split))) for split in SPLITS]
    assert not (held[0] & held[1] or held[0] & held[2] or held[1] & held[2])
    assert sum(map(len, held)) == len(set(drawn.strings(np.arange(2000)))) == drawn.string_N.max() + 1
    assert sum(len(drawn.rows(split)) for split in SPLITS) == 2000


def test_the_split_is_a_function_of_the_string_alone() -> None:
    fsm = machine("(a|b)*c", "abc")
    drawn = corpus(fsm)
    wanted = dict(zip(drawn.strings(np.arange(2000)), drawn.split_N.tolist(), strict=True))
    order = Streams(5).numpy("order").permutation(2000)
    assert (split_of(drawn.symbols_NL[order], (0.8, 0.1, 0.1)) == drawn.split_N[order]).all()
    # Another padding, another seed, other strings around it: the same split.
    assert (split_of(drawn.symbols_NL[:50, :20], (0.8, 0.1, 0.1)) == drawn.split_N[:50]).all()
    wider = np.pad(drawn.symbols_NL, ((0, 0), (0, 7)), constant_values=-1)
    assert (split_of(wider, (0.8, 0.1, 0.1)) == drawn.split_N).all()
    other = corpus(fsm, seed=1, lengths=(1, 12))
    common = [
        (s, n) for s, n in zip(other.strings(np.arange(2000)), other.split_N.tolist(), strict=True) if s in wanted
    ]
    assert len(common) > 100 and all(wanted[string] == split for string, split in common)


def test_the_shares_of_the_splits() -> None:
    every = np.array(list(np.ndindex(*([3] * 8))))
    counts = np.bincount(split_of(every, (0.7, 0.2, 0.1)), minlength=3) / len(every)
    assert counts == pytest.approx([0.7, 0.2, 0.1], abs=5 * (0.21 / len(every)) ** 0.5)


def test_a_split_without_a_string_is_refused() -> None:
    with pytest.raises(DataError, match=r"task\.data\.samples=10 leaves the val split empty"):
        corpus(machine("a", "a"), 10, lengths=(1, 3), p_class={"accept": 1.0})


def test_the_same_seed_draws_the_same_corpus() -> None:
    fsm = machine("(a|b)*c", "abc")
    first, again, other = corpus(fsm), corpus(fsm), corpus(fsm, seed=1)
    assert (first.symbols_NL == again.symbols_NL).all() and not (first.symbols_NL == other.symbols_NL).all()


def test_the_report_counts_what_is_there() -> None:
    drawn = corpus(machine("a+", "ab"))
    said = report(drawn)
    strings = {split: drawn.strings(drawn.rows(split)) for split in SPLITS}
    every = [string for split in SPLITS for string in strings[split]]
    assert said["samples"] == 2000 and said["distinct_strings"] == len(set(every))
    assert said["classes"]["accept"]["got"] == sum(set(s) == {"a"} for s in every) / 2000
    assert said["lengths"]["7"] == {
        "asked": pytest.approx(0.05), "planned": pytest.approx(0.05), "got": sum(len(s) == 7 for s in every) / 2000,
    }  # fmt: skip
    assert said["rejects"]["illegal_step"] == sum(s[0] == "b" for s in every)
    assert said["rejects"]["overrun"] == sum(s[0] == "a" and "b" in s for s in every)
    assert said["failed_attempts"] == 0
    assert [m["class"] for m in said["redistributed"]] == ["incomplete", "reject", "reject"]
    for split in SPLITS:
        part, held = said["splits"][split], strings[split]
        assert part["samples"] == len(held) and part["tokens"] == sum(map(len, held))
        assert part["distinct_strings"] == len(set(held))
        assert part["classes"] == {
            "accept": sum("b" not in s for s in held),
            "incomplete": 0,
            "reject": sum("b" in s for s in held),
        }
        assert part["distinct_strings_by_class"]["accept"] == len({s for s in held if "b" not in s})
        assert part["length_bins"]["6-10"] == {
            "samples": sum(6 <= len(s) <= 10 for s in held), "tokens": sum(len(s) for s in held if 6 <= len(s) <= 10),
        }  # fmt: skip
        assert sum(b["tokens"] for b in part["length_bins"].values()) == part["tokens"]
    assert said["coverage"]["states"] == said["coverage"]["of_states"] == 3
    assert said["coverage"]["edges"] == said["coverage"]["of_edges"] == 6


def test_coverage_names_what_no_sample_visits() -> None:
    drawn = corpus(machine("a{30}", "ab"), lengths=(1, 4))
    said = report(drawn)["coverage"]
    # States 0..4 and the rejecting one; from each of 0..3 both edges, and from the rejecting one.
    assert (said["states"], said["of_states"], said["edges"], said["of_edges"]) == (6, 32, 10, 64)
    assert len(said["states_not_visited"]) == 20 and len(said["edges_not_visited"]) == 20
    fsm = drawn.fsm
    used = {(0, string[0]) for string in drawn.strings(np.arange(2000))}
    assert not used & {(state, symbol) for state, symbol in said["edges_not_visited"]}
    assert fsm.num_states == 32


def test_a_class_that_a_split_lacks_is_named() -> None:
    drawn = corpus(machine("(ab|cd)e?", "abcde"), 300)
    said = list(missing_classes(drawn))
    held = {split: set(drawn.class_N[drawn.rows(split)].tolist()) for split in SPLITS}
    wanted = [(split, name) for split in SPLITS for i, name in enumerate(drawn.fsm.classes) if i not in held[split]]
    assert wanted and [(split, name) for split, name in wanted] == [
        re.match(r"the (\w+) split has no string of class '(\w+)'", line).groups()  # type: ignore[union-attr]
        for line in said
    ]
    assert list(missing_classes(corpus(machine("a+", "ab")))) == []  # incomplete cannot exist, so nobody misses it


def test_the_ceiling_by_hand() -> None:
    # aab, aab, aa, b: after a (3): a. After aa (3): b, b, EOS. After aab: EOS, EOS. After b: EOS. 3 + 2 + 2 + 1 of 9.
    tokens = np.array([[2, 2, 3, 1], [2, 2, 3, 1], [2, 2, 1, 0], [3, 1, 0, 0]])
    assert best_token_accuracy(tokens, np.array([3, 3, 2, 1])) == 8 / 9
    assert np.isnan(best_token_accuracy(np.zeros((0, 4), dtype=np.int64), np.zeros(0, dtype=np.int64)))


def test_the_table_by_hand() -> None:
    # Train: aab and ab, state 1 after a, 2 after b. At (state 1, place 0): a, b, the lower wins; (1, 1): b; (2, 1), (2, 2): EOS.
    train = np.array([[2, 2, 3, 1], [2, 3, 1, 0]]), np.array([[1, 1, 2, 0], [1, 2, 0, 0]]), np.array([3, 2])
    assert table_token_accuracy(train, train) == 4 / 5
    # aa: a, then EOS where the table says b. b: state 2 at place 0 was never seen, EOS is the most frequent of all.
    other = np.array([[2, 2, 1], [3, 1, 0]]), np.array([[1, 1, 0], [2, 0, 0]]), np.array([2, 1])
    assert table_token_accuracy(train, other) == 2 / 3
    nothing = np.zeros((0, 3), dtype=np.int64), np.zeros((0, 3), dtype=np.int64), np.zeros(0, dtype=np.int64)
    assert np.isnan(table_token_accuracy(train, nothing))


def test_an_accepted_class_without_any_string_is_named() -> None:
    assert next(iter(missing_classes(corpus(machine("", "ab"))))) == (
        "no string of 1 to 20 symbols is of class 'accept'; is the pattern what was meant?"
    )
    assert not any("what was meant" in line for line in missing_classes(corpus(machine("a+", "ab"))))


def test_the_ceiling_is_what_the_best_table_of_prefixes_has() -> None:
    drawn = corpus(machine("a*b*", "ab"))
    strings = drawn.strings(drawn.rows("train"))
    follows: dict[str, Counter[str]] = {}
    for string in strings:
        for i in range(1, len(string) + 1):
            follows.setdefault(string[:i], Counter())[(string + "$")[i]] += 1
    wanted = sum(max(after.values()) for after in follows.values()) / sum(map(len, strings))
    symbols = drawn.symbols_NL[drawn.rows("train")]
    tokens = np.pad(np.where(symbols >= 0, symbols + 2, 0), ((0, 0), (0, 1)))
    tokens[np.arange(len(tokens)), (symbols >= 0).sum(1)] = 1
    assert best_token_accuracy(tokens, (symbols >= 0).sum(1)) == wanted


@pytest.mark.parametrize(
    ("edges", "lengths", "bins"),
    [
        ((5, 10, 15, 20), (1, 20), [(1, 5), (6, 10), (11, 15), (16, 20)]),
        ((5, 10, 15, 20), (1, 30), [(1, 5), (6, 10), (11, 15), (16, 20), (21, 30)]),
        ((5, 10, 15, 20), (8, 12), [(8, 10), (11, 12)]),
        ((5,), (5, 6), [(5, 5), (6, 6)]),
        ((100,), (3, 3), [(3, 3)]),
    ],
)
def test_length_bins_hold_every_length_once(edges: Any, lengths: Any, bins: Any) -> None:
    assert list(length_bins(edges, *lengths)) == bins
    inside = [length for low, high in bins for length in range(low, high + 1)]
    assert inside == list(range(lengths[0], lengths[1] + 1))
    assert bin_name(bins[0]) == f"token_accuracy_len_{bins[0][0]}_{bins[0][1]}"
