"""Durations with units: `"10 epochs"`, `"500 steps"`, `"20 min"`. Inside there is one unit of time, the optimizer step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PlainValidator
from pydantic_core import PydanticCustomError

_SECONDS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Duration:
    """An amount of training: whole steps or epochs, or seconds of wall time."""

    amount: float
    unit: Literal["steps", "epochs", "seconds"]
    text: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read a duration. Raises ValueError with the accepted forms.

        >>> Duration.parse("20 min").amount
        1200.0
        """
        match = _PATTERN.fullmatch(text)
        if match:
            amount, unit = float(match[1]), match[2].lower()
            singular = unit[:-1] if unit.endswith("s") and len(unit) > 1 else unit
            if amount > 0 and singular in ("step", "epoch") and amount == int(amount):
                return cls(amount, "steps" if singular == "step" else "epochs", f"{int(amount)} {singular}s")
            if amount > 0 and (singular in _SECONDS or unit in _SECONDS):
                return cls(amount * _SECONDS.get(singular, _SECONDS.get(unit, 1.0)), "seconds", text.strip())
        raise ValueError(f"{text!r} is not a duration; write '10 epochs', '500 steps', '30 s', '20 min' or '2 h'")

    def __str__(self) -> str:
        return self.text


def _validate(value: Any) -> Duration:
    if isinstance(value, Duration):
        return value
    try:
        return Duration.parse(value if isinstance(value, str) else repr(value))
    except ValueError:
        raise PydanticCustomError(
            "duration", "it should be a duration: '10 epochs', '500 steps', '30 s', '20 min' or '2 h'"
        ) from None


DurationField = Annotated[Duration, PlainValidator(_validate), PlainSerializer(str, return_type=str)]
