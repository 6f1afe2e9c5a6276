"""The values that a searched key can take, and how a storage keeps them."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from loopwright.config.overrides import as_typed, parse_override
from loopwright.searches.proposals import distribution
from loopwright.searches.space import Entry


def entry(**keys: Any) -> Entry:
    return Entry.model_validate(keys)


def test_distributions_are_optunas() -> None:
    assert distribution(entry(type="float", low=1e-4, high=1, log=True)) == FloatDistribution(1e-4, 1.0, log=True)
    assert distribution(entry(type="int", low=1, high=9)) == IntDistribution(1, 9)
    assert distribution(entry(type="int", low=8, high=256, log=True)) == IntDistribution(8, 256, log=True)
    assert distribution(entry(type="categorical", choices=((1, 2), None))) == CategoricalDistribution(("[1,2]", None))


def test_the_last_step_is_the_top() -> None:
    steps = entry(type="int", low=1, high=10, step=4)
    assert (steps.values, steps.top, steps.ends) == ((1, 5, 9), 9, (1, 9))
    tenths = entry(type="float", low=0.1, high=0.7, step=0.1)
    assert tenths.values == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert entry(type="float", low=0.0, high=1.0).num_values is None


@given(
    low=st.integers(-50, 50),
    steps=st.integers(0, 40),
    step=st.sampled_from([0.1, 0.25, 0.3, 1.0, 7.5]),
    short=st.booleans(),
)
def test_every_value_of_a_stepped_float_is_one_of_optunas(low: int, steps: int, step: float, short: bool) -> None:
    made = entry(type="float", low=float(low), high=low + steps * step + (step / 2 if short else 0.0), step=step)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = distribution(made)
    assert made.num_values is not None and steps <= made.num_values <= steps + 1
    assert all(drawn._contains(value) for value in made.values)
    assert made.values[-1] == drawn.high


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text("ab'\\,:[]{} 1=$", max_size=6),
        lambda below: st.lists(below, max_size=3),
        max_leaves=6,
    )
)
def test_a_choice_is_typed_as_it_is_read(value: Any) -> None:
    read = parse_override(f"key={as_typed(value)}").value
    assert read == value and type(read) is type(value)


def test_choices_come_back_as_they_were() -> None:
    hidden = entry(type="categorical", choices=((64, 64), (), None, "gelu", 3, 0.5, True))
    assert hidden.labels == ("[64,64]", "[]", None, "gelu", 3, 0.5, True)
    assert [hidden.value(label) for label in hidden.labels] == list(hidden.choices or ())
    with pytest.raises(ValueError, match="not in tuple"):
        hidden.value("relu")
