"""The grammar of overrides, pinned: people's job scripts depend on it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loopwright import compose
from loopwright.config.overrides import Assignment, parse_override, quoted
from loopwright.errors import ConfigError

VALUES: list[tuple[str, Any]] = [
    # numbers
    ("1", 1),
    ("-2", -2),
    ("1_000", 1000),
    ("1e-3", 0.001),
    ("1e5", 100_000.0),
    ("1.", 1.0),
    (".5", 0.5),
    ("inf", float("inf")),
    (" 5", 5),
    ("5 ", 5),
    ("0x10", "0x10"),
    ("00", "00"),
    ("int('3')", 3),
    ("str(3)", "3"),
    # words
    ("true", True),
    ("True", True),
    ("false", False),
    ("yes", "yes"),
    ("on", "on"),
    ("null", None),
    ("None", "None"),
    ("~", "~"),
    ("", ""),
    ("''", ""),
    ('""', ""),
    ("' '", " "),
    ("'1'", "1"),
    ("'null'", "null"),
    ('"x y"', "x y"),
    ("x y", "x y"),
    ("10 epochs", "10 epochs"),
    ("2020-06-01", "2020-06-01"),
    ("12:30", "12:30"),
    # commas and sweeps are text: only --multirun expands them
    ("1,2", "1,2"),
    ("a,b", "a,b"),
    ("1,", "1,"),
    (",", ","),
    ("'x,y'", "x,y"),
    ("a\\,b", "a,b"),
    ("range(1,4)", "range(1,4)"),
    ("choice(1,2)", "choice(1,2)"),
    ("interval(0,1)", "interval(0,1)"),
    ("glob(*)", "glob(*)"),
    ("shuffle(1,2)", "shuffle(1,2)"),
    ("sort(3,1)", "sort(3,1)"),
    ("foo(1)", "foo(1)"),
    # lists and mappings
    ("[]", []),
    ("[1,2]", [1, 2]),
    ("[32, 32]", [32, 32]),
    ("[1,[2,3]]", [1, [2, 3]]),
    ("[a b,c]", ["a b", "c"]),
    ("'[1,2]'", "[1,2]"),
    ("{}", {}),
    ("{b:1}", {"b": 1}),
    ("{b: 1, c: [2]}", {"b": 1, "c": [2]}),
    # what does not parse is text
    ("[1,2", "[1,2"),
    ("(1,2)", "(1,2)"),
    ("{b", "{b"),
    ("x=y", "x=y"),
    ("/p/a=b.csv", "/p/a=b.csv"),
    ("/tmp/a b/c,d(1).csv", "/tmp/a b/c,d(1).csv"),
    ("C:\\x\\y.csv", "C:\\x\\y.csv"),
    ("C:\\x,y\\(1).csv", "C:\\x,y\\(1).csv"),
    ("~/x.csv", "~/x.csv"),
    ("$HOME/x", "$HOME/x"),
    ("${seed}", "${seed}"),
    ("${", "${"),
    ("#x", "#x"),
    ("é", "é"),
    ("数据 1.csv", "数据 1.csv"),
    ("it's", "it's"),
    ("'a\\'b'", "a'b"),
    ("'it''s'", "'it''s'"),
    ('"x', '"x'),
    ("http://h/x?y=1&z=2", "http://h/x?y=1&z=2"),
    ("*", "*"),
    ("???", "???"),
    ("\\", "\\"),
]


@pytest.mark.parametrize(("text", "value"), VALUES, ids=[repr(text) for text, _ in VALUES])
def test_a_value_is_read_as(text: str, value: Any) -> None:
    read = parse_override(f"key={text}")
    assert read == Assignment("key", value)
    assert type(read.value) is type(value)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("a.b.c=1", Assignment("a.b.c", 1)),
        ("task/data=wave", Assignment("task/data", "wave")),
        ("task.data=wave", Assignment("task.data", "wave")),
        ("a-b=1", Assignment("a-b", 1)),
        ("+a=1", Assignment("a", 1)),
        ("++a.b=1", Assignment("a.b", 1)),
        ("+task/data=wave", Assignment("task/data", "wave")),
        ("~a", Assignment("a", None, delete=True)),
        ("~a.b", Assignment("a.b", None, delete=True)),
    ],
)
def test_a_key_is_read_as(text: str, read: Assignment) -> None:
    assert parse_override(text) == read


@pytest.mark.parametrize(
    "text", ["", "a", "--a", "=1", "a =1", "é=1", "1=2", "a..b=1", "a.=1", ".a=1", "a[0]=1", "a@b=1", "~a=1", "~"]
)
def test_what_is_no_override_is_one_line_that_shows_it(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    (line,) = caught.value.problems
    assert f"`{text}`" in line and "write" in line


def test_a_nesting_too_deep_to_read_is_text() -> None:
    deep = "[" * 500 + "]" * 500
    read = parse_override(f"a={deep}").value
    assert read == deep or isinstance(read, list)


@given(st.text(max_size=12).filter(lambda text: "\\\n" not in text))
@example("\\'")
@example("it's, (a) {b} \\")
def test_quoting_gives_back_any_text(text: str) -> None:
    assert parse_override(f"key={quoted(text)}").value == text


def test_a_comma_or_a_range_without_multirun_is_plain_text() -> None:
    data = "task.data.path=/data/a,b(1).csv"
    recipe = compose("experiment=gru_baseline", data)
    assert recipe.task.data.path == "/data/a,b(1).csv"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"`train.epochs` is 'range\(1,4\)'; it should be a valid integer"):
        compose("train.epochs=range(1,4)")
    with pytest.raises(ConfigError, match=r"`seeds` is '1,2'; it should be a list, for example \[1, 2\]"):
        compose("seeds=1,2")


@pytest.mark.parametrize("text", ["train.epochs=3", "+train.epochs=3", "++train.epochs=3"])
def test_one_two_or_no_plus_set_a_key(text: str) -> None:
    assert compose(text).train.epochs == 3


def test_a_removed_key_has_its_default_again() -> None:
    assert compose().train.epochs == 60
    assert compose("~train.epochs").train.epochs == 50
    assert compose("~train").train.batch_size == 256
    assert compose("~optim").optim.weight_decay == 0.01
    with pytest.raises(ConfigError, match=r"`~train\.epoch`: there is no such key to remove"):
        compose("~train.epoch")


def test_the_last_of_two_overrides_counts() -> None:
    assert compose("train.epochs=3", "train.epochs=4").train.epochs == 4
    assert compose("optim=sgd", "optim=adam").optim.name == "adam"
    assert compose("optim=RMSprop", "optim=sgd").optim.name == "sgd"
    assert compose("optim=sgd", "optim=RMSprop").optim.name == "RMSprop"
