"""Overrides: one `key=value` read with Hydra's grammar, and the axes of a sweep."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, lru_cache
from math import ceil
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from loopwright.errors import ConfigError

# Text that needs no quotes, alone and in a list.
_BARE = re.compile(r"[A-Za-z_][\w./:%+-]*")

# The most values of a range: one more digit than anybody means.
MOST_VALUES = 100_000
# What stands in a list without quotes and is text.
_WORD = re.compile(r"[a-z_][a-z_0-9]*")


@dataclass(frozen=True, slots=True)
class Assignment:
    """One override: a dotted key and its value; `delete` removes the key."""

    key: str
    value: Any
    delete: bool = False


@lru_cache(maxsize=4096)  # 0.5 ms each, and the points of a sweep share most
def parse_override(text: str) -> Assignment:
    """Read one `key=value` with Hydra's grammar.

    A value that does not parse is plain text when quoting it would parse, and so is one with commas or a sweep (only
    `--multirun` expands them). Raises ConfigError.

    >>> parse_override("train.epochs=5")
    Assignment(key='train.epochs', value=5, delete=False)
    >>> parse_override("task.data.path=a,b(1).csv").value
    'a,b(1).csv'
    """
    key, equals, value = text.partition("=")
    try:
        parsed: Override | None = _parser().parse_override(text)
    except (HydraException, RecursionError):
        parsed = _as_text(key, value) if equals else None
    if parsed is None or not parsed.key_or_group:
        raise ConfigError(f"`{text}` is not an override; write key=value, for example train.epochs=20")
    if parsed.package is not None:
        raise ConfigError(f"`{text}` places a group with `@`, which recipes do not use; write the dotted key")
    if parsed.is_delete():
        if equals:
            raise ConfigError(f"`{text}` gives a value to a key that is to be removed; write `~{parsed.key_or_group}`")
        return Assignment(parsed.key_or_group, None, delete=True)
    if parsed.is_sweep_override():
        return Assignment(parsed.key_or_group, value)
    return Assignment(parsed.key_or_group, parsed.value())


def axis(text: str) -> tuple[str, ...] | None:
    """The overrides that one with commas, a `choice(...)` or a `range(...)` stands for; None for one that is no sweep.

    Raises ConfigError for a sweep without an end or without a value.

    >>> axis("model=gru,frequency")
    ('model=gru', 'model=frequency')
    >>> axis("seed=range(3)")
    ('seed=0', 'seed=1', 'seed=2')
    >>> axis("train.epochs=5") is None
    True
    """
    try:
        parsed = _parser().parse_override(text)
    except (HydraException, RecursionError):
        return None  # `parse_override` reads it as text or says what is wrong
    if not parsed.is_sweep_override() or parsed.is_delete():
        return None
    if not parsed.is_discrete_sweep() or isinstance(parsed.value(), Glob):
        raise ConfigError(f"`{text}` has no list of values; write them out with commas, or range(start,stop,step)")
    if getattr(parsed.value(), "shuffle", False):
        raise ConfigError(
            f"`{text}` is in another order each time; a sweep's order changes nothing, so leave shuffle out"
        )
    key = parsed.key_or_group if parsed.package is None else parsed.get_key_element()
    # Hydra's own texts are hard to read: `1\\ min`, `True`.
    if isinstance(parsed.value(), RangeSweep):
        values = tuple(typed(key, value) for value in _numbers(parsed.value(), text))
    else:
        values = _written_out(parsed, key, text)
    if not values:
        raise ConfigError(f"`{text}` is a sweep without a value; range(start,stop) leaves out stop")
    return values


def _written_out(parsed: Override, key: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(typed(key, parse_override(f"{key}={value}").value) for value in parsed.sweep_string_iterator())
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"`{text}` has a sweep in a sweep; write all values out with commas") from error


def _numbers(sweep: Any, text: str) -> Iterator[int | float]:
    """The numbers of a range, counted in decimals: 0.1 + 0.1 + 0.1 in binary ones is more than 0.3, and less than stop."""
    start, stop, step = (Decimal(str(each)) for each in (sweep.start, sweep.stop, sweep.step))
    if step == 0 or any(each.is_nan() for each in (start, stop, step)):
        raise ConfigError(f"`{text}` never gets to its end; write range(start,stop,step) with a step that leads there")
    if not (start.is_finite() and step.is_finite()) or abs(stop - start) / abs(step) > MOST_VALUES:
        raise ConfigError(f"`{text}` has more than {MOST_VALUES:,} values; take a smaller range, or a larger step")
    whole = all(isinstance(each, int) for each in (sweep.start, sweep.stop, sweep.step))
    for number in range(max(0, ceil((stop - start) / step))):
        value = start + number * step
        yield int(value) if whole else float(value)


def typed(key: str, value: Any) -> str:
    """The override that gives a key a plain value, as one would type it.

    >>> typed("model.hidden", [32, 32])
    'model.hidden=[32,32]'
    >>> typed("task.data.path", "a,b.csv")
    "task.data.path='a,b.csv'"
    """
    if isinstance(value, str):
        text = f"{key}={value}"
        try:
            bare = value != "" and axis(text) is None and parse_override(text).value == value
        except ConfigError:
            bare = False
        return text if bare else f"{key}={quoted(value)}"
    return f"{key}={_typed(value)}"


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_typed(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, str):
        return value if _WORD.fullmatch(value) and value not in ("true", "false", "null") else quoted(value)
    return repr(value)


def _as_text(key: str, value: str) -> Override | None:
    try:
        return _parser().parse_override(f"{key}={quoted(value)}")
    except HydraException:
        return None


def quoted(text: str) -> str:
    """A text in Hydra's quotes, where a backslash is special before a quote only."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text) + "'"


def as_typed(value: Any) -> str:
    """A plain value as one would type it after `key=`: `parse_override` reads it back.

    >>> as_typed([32, None, "a b", "3"])
    "[32,null,'a b','3']"
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{as_typed(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(as_typed, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        try:
            bare = bool(_BARE.fullmatch(value)) and _parser().parse_override(f"key={value}").value() == value
        except HydraException:
            bare = False
        return value if bare else quoted(value)
    return repr(value)


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
