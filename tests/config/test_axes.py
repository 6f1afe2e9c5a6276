"""Axes of a sweep in the grammar of overrides, and values written as overrides."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.config.compose import compose
from loopwright.config.overrides import axis, parse_override, quoted, typed
from loopwright.errors import ConfigError
from support.fuzz import examples

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False), WORDS
)
KEYS = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda key: key not in ("null", "true", "false"))
VALUES = st.recursive(LEAVES, lambda below: st.lists(below, max_size=3) | st.dictionaries(KEYS, below, max_size=3))


@examples(150)
@given(VALUES)
def test_a_typed_value_reads_back_and_is_no_sweep(value: Any) -> None:
    text = typed("a.b", value)
    assert axis(text) is None
    read = parse_override(text)
    assert read.key == "a.b" and read.value == value and type(read.value) is type(value)


@examples(60)
@given(st.lists(LEAVES, min_size=2, max_size=4))
def test_the_values_of_an_axis_are_those_written(values: list[Any]) -> None:
    alone = [typed("a", value) for value in values]
    written = ",".join(
        text.partition("=")[2] if not isinstance(value, str) else quoted(value)
        for text, value in zip(alone, values, strict=True)
    )
    found = axis(f"a={written}")
    assert found is not None and [parse_override(text).value for text in found] == values


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=1,2", ["a=1", "a=2"]),
        ("a=1e-3,true,null", ["a=0.001", "a=true", "a=null"]),
        ("a=1 min,2 min", ["a=1 min", "a=2 min"]),
        ("a='x,y',z", ["a='x,y'", "a=z"]),
        ("a=[1,2],[3]", ["a=[1,2]", "a=[3]"]),
        ("a={b:1},{b:x y}", ["a={b:1}", "a={b:'x y'}"]),
        ("a=${x},2", ["a=${x}", "a=2"]),
        ("a=choice(b,c)", ["a=b", "a=c"]),
        ("a=range(3)", ["a=0", "a=1", "a=2"]),
        ("a=range(1,2,0.5)", ["a=1.0", "a=1.5"]),
        ("a=range(0.1,0.4,0.1)", ["a=0.1", "a=0.2", "a=0.3"]),
        ("a=range(9,1.5,-2.5)", ["a=9.0", "a=6.5", "a=4.0"]),
        ("a=float(range(2))", ["a=0.0", "a=1.0"]),
        ("a=sort(range(3),reverse=true)", ["a=2", "a=1", "a=0"]),
        ("a=sort(3,1,2)", ["a=1", "a=2", "a=3"]),
        ("+a=1,2", ["a=1", "a=2"]),
        ("task/latent=none,vq", ["task/latent=none", "task/latent=vq"]),
    ],
)
def test_axes(text: str, wanted: list[str]) -> None:
    assert axis(text) == tuple(wanted)


@pytest.mark.parametrize(
    "text", ["a=1", "a=", "a='1,2'", "a=[1,2]", "a={b:1,c:2}", "a=x\\,y", "~a", "~a=1,2", "a", "", "a=(1,2"]
)
def test_what_is_no_axis(text: str) -> None:
    assert axis(text) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a=interval(0,1)", "has no list of values"),
        ("a=glob(*)", "has no list of values"),
        ("a=shuffle(1,2)", "is in another order each time"),
        ("a=range(3,1)", "is a sweep without a value"),
        ("a=1,choice(2,3)", "has a sweep in a sweep"),
        ("a=range(0,1,0)", "never gets to its end"),
        ("a=range(nan)", "never gets to its end"),
        ("a=range(inf)", "has more than 100,000 values"),
        ("a=range(100000000)", "has more than 100,000 values"),
        ("a=range(1,0,-1e-9)", "has more than 100,000 values"),
    ],
)
def test_sweeps_that_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        axis(text)
    assert str(caught.value).startswith(f"`{text}` {reason}")


def test_a_choice_written_out_and_its_keys_may_come_in_any_order() -> None:
    ways = [
        ["optim={name: sgd, momentum: 0.5}", "optim.lr=0.1"],
        ["optim.lr=0.1", "optim={name: sgd, momentum: 0.5}"],
        ["optim.momentum=0.5", "optim.lr=0.1", "optim=sgd"],
    ]
    recipes = [compose(way).recipe for way in ways]
    assert recipes[0] == recipes[1] == recipes[2] and recipes[0].optim.lr == 0.1
