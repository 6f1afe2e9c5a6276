"""What a run is granted on a cluster: its time limit, and what else is asked of the scheduler."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from loopwright.config.durations import Duration
from loopwright.config.node import FrozenDict

_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d{2})(?::(\d{2}))?")
_TEXT = re.compile(r"[^\x00-\x1f\x7f]+")


def seconds(text: str) -> int:
    """A time limit in seconds: `4 h`, `90 min`, or as a clock shows it, `04:00`, `04:00:00`, `1-12:00`. Raises ValueError.

    >>> seconds("90 min"), seconds("04:00:00"), seconds("1-12:00")
    (5400, 14400, 129600)
    """
    clock = _CLOCK.fullmatch(text.strip())
    if clock is not None:
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        amount = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    else:
        duration = Duration.parse(text)
        amount = round(duration.amount) if duration.unit == "seconds" else 0
    if amount < 1:
        raise ValueError(f"{text!r} is no time limit")
    return amount


def _time_limit(value: Any) -> str:
    try:
        if isinstance(value, str) and seconds(value):
            return value.strip()
    except ValueError:
        pass
    # YAML reads 12:00:00 without quotes as the number 43200.
    raise PydanticCustomError("time_limit", "write a time limit as '4 h', '90 min' or, in quotes, '04:00:00'")


def _resources(value: Any) -> FrozenDict:
    if not isinstance(value, Mapping):
        raise PydanticCustomError("dict_type", "it should be a mapping of keys")
    for key, held in value.items():
        if not (held is None or isinstance(held, str | bool | int | float)):
            kind = "mapping" if isinstance(held, Mapping) else "list"
            raise PydanticCustomError("resources", "{key} holds a {kind}; give one word", {"key": key, "kind": kind})
        if isinstance(held, str) and not _TEXT.fullmatch(held):
            raise PydanticCustomError("resources", "{key} has to be one line of text", {"key": key})
    return FrozenDict(value)


# The longest that one start of a run may take; text, as it was written.
TimeLimit = Annotated[str, PlainValidator(_time_limit)]
# Further words for the scheduler: text, numbers, true for an option without a value, null to take a site's word back.
Resources = Annotated[dict[str, Any], PlainValidator(_resources)]


def refuse(resources: Mapping[str, Any], pattern: str, own: Mapping[str, str], taken: Iterable[str] = ()) -> FrozenDict:
    """`resources` whose keys match `pattern` and are not ours. `own` says what to use instead of each that is.

    Keys are made alike first: no leading `--`. Raises PydanticCustomError.
    """
    found: dict[str, Any] = {}
    for key, value in resources.items():
        word = str(key).removeprefix("--")
        if not re.fullmatch(pattern, word):
            raise PydanticCustomError("resources", "{key} is no option's name", {"key": repr(key)})
        known = word.lower()
        if known in own or known in taken:
            instead = own.get(known, "")
            fix = f"use {instead}" if instead else "the launcher sets it itself, leave it out"
            raise PydanticCustomError("resources", "it sets {key}; {fix}", {"key": word, "fix": fix})
        found[word] = value
    return FrozenDict(found)


def clock_text(amount: int) -> str:
    """A time limit in seconds as a clock shows it, with days where there are any: Slurm's way.

    >>> clock_text(14400), clock_text(129600)
    ('04:00:00', '1-12:00:00')
    """
    minutes, rest = divmod(amount, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}-' if days else ''}{hours:02d}:{minutes:02d}:{rest:02d}"
