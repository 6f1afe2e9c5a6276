"""Twenty steps of every shipped experiment, frozen: the losses to the bit and the hash of the weights.

On a processor that has no key, the losses are compared with those of the same torch version to 1e-4, and the end of the
report says so. A torch version without any key fails: `make golden` adds it.

A spiking model is chaotic: where a membrane comes to its threshold within a rounding, other kernels give a spike more or
less, and the losses part. On a processor without a key its first steps are held as the others' are, and the later ones to
1e-2. Measured with other kernels of torch, MKL and oneDNN (ATEN_CPU_CAPABILITY=default, MKL_CBWR=COMPATIBLE,
ONEDNN_MAX_CPU_ISA=SSE41, and these together), and with a rounding put on every output of a linear layer, largest relative
difference of a loss:

    step                          1      2      5      10     20     (the largest of the twenty)
    spiking_mlp_baseline          0      0      2e-4   1e-3   1e-3   2e-3
    spiking_transformer_baseline  6e-6   1e-4   5e-4   1e-3   7e-4   1e-3
    the 12 others                                                    3e-7
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from golden import regenerate
from golden.regenerate import EXPERIMENTS, KERNELS, SHOWN, Values, compute, differences, key, read, updated, version

TOLERANCE = 1e-4
# The chaotic ones: how many steps are held to TOLERANCE where there is no key, and how far the later ones may be.
FIRST_STEPS = {"spiking_mlp_baseline": 2, "spiking_transformer_baseline": 1}
LATER_TOLERANCE = 1e-2


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
            near = TOLERANCE if int(step) <= FIRST_STEPS.get(experiment, int(step)) else LATER_TOLERANCE
            assert float.fromhex(loss) == pytest.approx(expected, rel=near), f"step {step}, against {name}"
    return (
        f"golden: {here} has no key, so losses were compared to {TOLERANCE:g} only, those of spiking models after their "
        f"first steps to {LATER_TOLERANCE:g} (with {', '.join(relatives)})"
    )


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


def test_a_chaotic_experiment_is_held_to_its_first_steps_where_there_is_no_key(found: Values) -> None:
    def moved(factors: dict[str, float]) -> Values:
        losses = {step: (float.fromhex(loss) * factors.get(step, 1.0)).hex() for step, loss in found["losses"].items()}
        return {**found, "losses": losses}

    for experiment, steps in FIRST_STEPS.items():
        assert experiment in EXPERIMENTS and steps in SHOWN
        held = {"t-1/A": {experiment: found}}
        parted = {str(step): 1 + 2e-3 for step in SHOWN if step > steps}
        assert judge(experiment, "t-1/B", held, moved(parted)) is not None
        with pytest.raises(AssertionError, match=f"step {steps}, against"):
            judge(experiment, "t-1/B", held, moved({str(steps): 1 + 1e-3}))
        with pytest.raises(AssertionError, match="step 20, against"):
            judge(experiment, "t-1/B", held, moved({"20": 1.02}))
        with pytest.raises(AssertionError, match="loss of step 20"):
            judge(experiment, "t-1/A", held, moved({"20": 1 + 1e-6}))  # a processor with a key is held to the bit


def test_changed_values_take_those_of_other_machines_with_them(found: Values) -> None:
    held = {"t-1/A": {"self_test": found}, "t-1/B": {"self_test": found}}
    changed = {"self_test": {**found, "weights_sha256": "0" * 64}}
    assert updated(held, "t-1/A", {"self_test": found}) == held
    assert updated(held, "t-1/A", changed) == {"t-1/A": changed}
    assert set(updated(held, "t-1/C", changed)) == {"t-1/A", "t-1/B", "t-1/C"}
    assert differences(held["t-1/A"], {}) == ["self_test: gone"]


def test_the_key_names_version_and_processor() -> None:
    assert key().startswith(version() + "/") and len(key().split("/")[1].split("-")) >= 3


@pytest.mark.parametrize("name", KERNELS)
def test_a_variable_that_chooses_kernels_makes_another_processor(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for other in KERNELS:
        monkeypatch.delenv(other, raising=False)
    own = key()
    monkeypatch.setenv(name, "")
    assert key() == own
    monkeypatch.setenv(name, "COMPATIBLE")
    assert key() == f"{own}+{name}=COMPATIBLE"
    with pytest.raises(SystemExit, match=f"{name}=COMPATIBLE: golden values are those of the processor's own"):
        regenerate.main()
