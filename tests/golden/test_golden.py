"""Twenty steps of every shipped experiment, frozen: the losses to the bit and the hash of the weights.

On a processor that has no key, the losses are compared with those of the same torch version to 1e-4, and the end of the
report says so. A torch version without any key fails: `make golden` adds it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from golden.regenerate import EXPERIMENTS, SHOWN, Values, compute, differences, key, read, updated, version

TOLERANCE = 1e-4


def judge(experiment: str, here: str, held: dict[str, dict[str, Values]], found: Values) -> str | None:
    """Compare to the bit where there is a key, else with a tolerance, which the answer says. Raises AssertionError."""
    if here in held:
        assert experiment in held[here], f"{experiment} has no golden values; run `make golden`"
        lines = differences({experiment: held[here][experiment]}, {experiment: found})
        assert not lines, f"{here}; run `make golden` if this is meant:\n" + "\n".join(lines)
        return None
    relatives = {name: values for name, values in held.items() if name.split("/")[0] == here.split("/")[0]}
    assert relatives, f"no golden values for {here.split('/')[0]}; run `make golden`"
    for name, values in relatives.items():
        for step, loss in found["losses"].items():
            expected = float.fromhex(values[experiment]["losses"][step])
            assert float.fromhex(loss) == pytest.approx(expected, rel=TOLERANCE), f"step {step}, against {name}"
    return f"golden: {here} has no key, so losses were compared to {TOLERANCE:g} only (with {', '.join(relatives)})"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_computes_what_it_did(experiment: str, record_property: Callable[[str, object], None]) -> None:
    remark = judge(experiment, key(), read(), compute(experiment))
    if remark is not None:
        record_property("remark", remark)


@pytest.fixture(scope="module")
def found() -> Values:
    return compute("self_test")


def test_the_same_steps_give_the_same_values_again(found: Values) -> None:
    assert compute("self_test") == found
    assert list(found["losses"]) == [str(step) for step in SHOWN]


def test_one_bit_is_noticed(found: Values) -> None:
    loss = float.fromhex(found["losses"]["20"])
    other = {**found, "losses": {**found["losses"], "20": (loss * (1 + 2**-52)).hex()}}
    with pytest.raises(AssertionError, match="loss of step 20"):
        judge("self_test", "t-1/A", {"t-1/A": {"self_test": found}}, other)
    with pytest.raises(AssertionError, match="weights"):
        judge("self_test", "t-1/A", {"t-1/A": {"self_test": found}}, {**found, "weights_sha256": "0" * 64})
    assert judge("self_test", "t-1/A", {"t-1/A": {"self_test": found}}, found) is None


def test_another_processor_is_compared_with_a_tolerance_and_said(found: Values) -> None:
    held = {"t-1/A": {"self_test": found}, "t-0/B": {"self_test": {**found, "losses": {}}}}
    near, far = (
        {**found, "losses": {step: (float.fromhex(loss) * factor).hex() for step, loss in found["losses"].items()}}
        for factor in (1 + 1e-5, 1 + 1e-3)
    )
    assert "t-1/B has no key" in (judge("self_test", "t-1/B", held, near) or "")
    with pytest.raises(AssertionError, match="against t-1/A"):
        judge("self_test", "t-1/B", held, far)
    with pytest.raises(AssertionError, match="no golden values for t-2"):
        judge("self_test", "t-2/A", held, found)
    with pytest.raises(AssertionError, match="gru_baseline has no golden values"):
        judge("gru_baseline", "t-1/A", held, found)


def test_changed_values_take_those_of_other_machines_with_them(found: Values) -> None:
    held = {"t-1/A": {"self_test": found}, "t-1/B": {"self_test": found}}
    changed = {"self_test": {**found, "weights_sha256": "0" * 64}}
    assert updated(held, "t-1/A", {"self_test": found}) == held
    assert updated(held, "t-1/A", changed) == {"t-1/A": changed}
    assert set(updated(held, "t-1/C", changed)) == {"t-1/A", "t-1/B", "t-1/C"}
    assert differences(held["t-1/A"], {}) == ["self_test: gone"]


def test_the_key_names_version_and_processor() -> None:
    assert key().startswith(version() + "/") and len(key().split("/")[1].split("-")) >= 3
