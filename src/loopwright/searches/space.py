"""`Entry`: one searched key of a study's `space`, and the values that it can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from loopwright.config.node import Node, frozen, setting
from loopwright.config.overrides import as_typed

Scalar = str | bool | int | float | None
_MOST_STEPS = 1e9


class Entry(Node):
    """One searched key: where its values come from."""

    type: Literal["int", "float", "categorical"] = setting(..., "int, float or categorical")
    low: int | float | None = setting(None, "the smallest value of an int or float")
    high: int | float | None = setting(None, "the largest value of an int or float; itself possible")
    step: int | float | None = setting(None, "distance of two neighbouring values; null: every value (ints: 1)", gt=0)
    log: bool = setting(False, "draw evenly in the logarithm")
    choices: tuple[Any, ...] | None = setting(None, "the values of a categorical key: numbers, text, lists, null")

    @field_validator("choices")
    @classmethod
    def _choices_are_plain(cls, choices: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return choices if choices is None else tuple(frozen(choices))

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        problems = list(self._categorical_problems() if self.type == "categorical" else self._range_problems())
        if problems:
            raise PydanticCustomError("entry", "{lines}", {"lines": "; ".join(problems)})
        return self

    def _categorical_problems(self) -> Iterator[str]:
        given = [name for name in ("low", "high", "step") if getattr(self, name) is not None] + ["log"] * self.log
        if given:
            yield f"a categorical key has `choices` and no `{given[0]}`"
        if not self.choices:
            yield "give `choices`, a list of values"
            return
        if any(isinstance(choice, Mapping) for choice in self.choices):
            yield "a choice is a number, text, true, false, null or a list"
        elif len(set(self.labels)) < len(self.labels):
            yield "a choice is in it twice"

    def _range_problems(self) -> Iterator[str]:
        if self.choices is not None:
            yield f"`choices` belong to type: categorical, not {self.type}"
        if self.low is None or self.high is None:
            yield "give `low` and `high`"
            return
        if self.type == "int" and any(isinstance(value, float) for value in (self.low, self.high, self.step)):
            yield "`low`, `high` and `step` of an int are whole numbers"
        if self.low > self.high:
            yield f"`low` {self.low:g} is above `high` {self.high:g}"
        if self.log and self.low <= 0:
            yield f"`log` needs a `low` above 0; it is {self.low:g}"
        if self.log and self.step is not None:
            yield "`log` and `step` exclude each other; leave one out"
        if self.step is not None and self.high - self.low > _MOST_STEPS * self.step:
            yield f"`step` {self.step:g} divides the range into more than {_MOST_STEPS:g} values; leave it out"
        if self.type == "int" and max(abs(self.low), abs(self.high)) >= 2**63:
            yield f"`low` and `high` of an int are below {2**63}"

    @property
    def numeric(self) -> bool:
        return self.choices is None

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Smallest and largest possible value; None for a categorical key."""
        return None if self.low is None or self.high is None else (self.low, self.top)

    @property
    def top(self) -> int | float:
        """The largest possible value: `high`, or the last step below it."""
        assert self.low is not None and self.high is not None
        return self.high if self.step is None or self.num_values is None else self._at(self.num_values - 1)

    @property
    def num_values(self) -> int | None:
        """How many values the key can take; None for a continuous one."""
        if self.choices is not None:
            return len(self.choices)
        step = 1 if self.step is None and self.type == "int" else self.step
        if step is None:
            return None
        return int((Decimal(str(self.high)) - Decimal(str(self.low))) // Decimal(str(step))) + 1

    @property
    def values(self) -> tuple[Scalar, ...]:
        """Every value of a key that has finitely many, as the storage keeps them."""
        return self.labels or tuple(self._at(index) for index in range(self.num_values or 0))

    def _at(self, index: int) -> int | float:
        """`low` and so many steps, reckoned in decimal as it was written."""
        value = Decimal(str(self.low)) + index * Decimal(str(1 if self.step is None else self.step))
        return int(value) if self.type == "int" else float(value)

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values at which the recipe is tried before anything starts: both bounds, or every choice."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None
        number = float if self.type == "float" else int
        return tuple(dict.fromkeys((number(self.low), number(self.top))))

    @property
    def labels(self) -> tuple[Scalar, ...]:
        """The choices as a storage keeps them: a list as it would be typed."""
        return tuple(as_typed(choice) if isinstance(choice, tuple) else choice for choice in self.choices or ())

    def value(self, stored: Any) -> Any:
        """The recipe's value for what the storage keeps."""
        return stored if self.choices is None else self.choices[self.labels.index(stored)]
