import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from torch import nn
from torch.optim import lr_scheduler

from loopwright.config.registry import lookup, names
from loopwright.errors import ConfigError
from loopwright.optim.hyperbolic import ExpHyperbolic, Hyperbolic
from loopwright.optim.schedules import (
    Constant,
    Cosine,
    Plateau,
    ScheduleConfig,
    Step,
    WarmupCosine,
    WarmupLinear,
)
from loopwright.optim.torch_schedules import SCHEDULE, TorchSchedule

OURS = ("constant", "cosine", "exp_hyperbolic", "hyperbolic", "plateau", "step", "warmup_cosine", "warmup_linear")
examples = settings(max_examples=100, deadline=None, derandomize=True, database=None)


class Tree(BaseModel):
    schedule: SCHEDULE


def config(value) -> ScheduleConfig:
    return Tree(schedule=value).schedule


def message(value) -> str:
    with pytest.raises(ValidationError) as caught:
        config(value)
    (problem,) = caught.value.errors()
    assert "\n" not in problem["msg"]
    return problem["msg"]


def torch_rates(cls, steps: int, lr: float, /, **args) -> list[float]:
    """What the scheduler itself sets, used the way torch documents it."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = cls(optimizer, **args)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


# --- what holds for all of them


TORCH = [
    {"name": "StepLR", "args": {"step_size": 3}},
    {"name": "MultiStepLR", "args": {"milestones": (2, 5), "gamma": 0.5}},
    {"name": "ConstantLR", "args": {"factor": 0.5, "total_iters": 3}},
    {"name": "LinearLR", "args": {"start_factor": 0.2, "total_iters": 4}},
    {"name": "ExponentialLR", "args": {"gamma": 0.9}},
    {"name": "PolynomialLR", "args": {"total_iters": 8, "power": 2.0}},
    {"name": "CosineAnnealingLR", "args": {"T_max": 6, "eta_min": 0.01}},
    {"name": "CosineAnnealingWarmRestarts", "args": {"T_0": 3, "T_mult": 2}},
    {"name": "CyclicLR", "args": {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 3, "cycle_momentum": False}},
    {"name": "OneCycleLR", "args": {"max_lr": 0.5, "total_steps": 20, "cycle_momentum": False}},
]


@pytest.mark.parametrize("value", [*OURS, *TORCH], ids=str)
def test_rates_are_finite_functions_of_the_position_and_stay_beyond_the_end(value):
    chosen = config(value)
    schedule = chosen.build(20, 1, 0.1, "min")
    values = [0.5, 0.4, 0.6]
    forth = [schedule(i, values) for i in range(21)]
    assert all(math.isfinite(rate) and rate >= 0 for rate in forth)
    assert any(rate > 0 for rate in forth)
    fresh = chosen.build(20, 1, 0.1, "min")
    assert [fresh(i, values) for i in reversed(range(21))] == forth[::-1]
    if value not in ("constant", "step", "plateau"):
        assert schedule(25, values) == schedule(20, values)


@pytest.mark.parametrize("value", [*OURS, *TORCH, {"name": "OneCycleLR", "args": {"cycle_momentum": False}}], ids=str)
def test_depends_on_total_tells_the_truth(value):
    chosen = config(value)
    short, long = chosen.build(20, 1, 0.1, "min"), chosen.build(18, 1, 0.1, "min")
    differs = any(short(i, [1.0] * i) != long(i, [1.0] * i) for i in range(18))
    assert chosen.depends_on_total is differs


def test_names_and_units():
    assert set(OURS) <= set(names("schedule", ScheduleConfig))
    per_epoch = {name for name in OURS if lookup("schedule", name)().every == "epoch"}
    assert per_epoch == {"step", "plateau", "hyperbolic", "exp_hyperbolic"}
    assert config({"name": "StepLR", "args": {"step_size": 3}}).every == "epoch"
    assert config({"name": "OneCycleLR", "args": {"cycle_momentum": False}}).every == "step"
    assert config({"name": "OneCycleLR", "every": "epoch", "args": {"cycle_momentum": False}}).every == "epoch"
    assert {name for name in OURS if lookup("schedule", name).needs_metric} == {"plateau"}


def test_every_decides_what_is_counted():
    per_step, per_epoch = Cosine(every="step").build(10, 4, 1.0), Cosine(every="epoch").build(10, 4, 1.0)
    assert per_step(5) == pytest.approx(0.5)
    assert per_epoch(3) == pytest.approx(0.0, abs=1e-15), "ten steps of four per epoch are three epochs"
    assert Cosine().length(8, 4) == 8 and Cosine(every="epoch").length(8, 4) == 2


def test_constant():
    schedule = Constant().build(10, 5, 0.3)
    assert [schedule(i) for i in (0, 9, 100)] == [0.3] * 3


# --- warm-up


@pytest.mark.parametrize("total", [10, 100, 537])
def test_warmup_cosine_at_its_boundaries(total):
    lr = 0.3
    schedule = WarmupCosine().build(total, 5, lr)
    warmup = total // 10
    assert schedule(0) == 0.0
    assert schedule(warmup - 1) == pytest.approx(lr * (warmup - 1) / warmup, rel=1e-15)
    assert schedule(warmup) == pytest.approx(lr, rel=1e-15)
    last = 0.1 + 0.45 * (1 + math.cos(math.pi * (total - 1 - warmup) / (total - warmup)))
    assert schedule(total - 1) == pytest.approx(lr * last, rel=1e-12)
    assert schedule(total) == pytest.approx(lr * 0.1, rel=1e-12)


@examples
@given(st.integers(2, 2000), st.integers(0, 40), st.floats(0, 1), st.floats(1e-6, 10))
def test_warmup_formulas(total, percent, floor, lr):
    warmup = percent * total // 100
    share = percent / 100
    for cls, shape in ((WarmupCosine, lambda u: 0.5 * (1 + math.cos(math.pi * u))), (WarmupLinear, lambda u: 1 - u)):
        schedule = cls(warmup=share, floor=floor).build(total, 1, lr)
        for s in {0, max(warmup - 1, 0), warmup, (warmup + total) // 2, total - 1}:
            factor = s / warmup if s < warmup else floor + (1 - floor) * shape((s - warmup) / (total - warmup))
            assert schedule(s) == pytest.approx(lr * factor, rel=1e-12, abs=1e-15)


def test_warmup_length_is_exact_for_decimal_shares_and_whole_for_integers():
    assert WarmupCosine(warmup=0.29).warmup_length(100) == 29
    assert WarmupCosine(warmup=0.1).warmup_length(19) == 1
    assert WarmupCosine(warmup=7).warmup_length(100) == 7
    assert WarmupCosine(warmup=0).build(10, 1, 1.0)(0) == 1.0
    longer = WarmupLinear(warmup=20).build(10, 1, 1.0)
    assert [longer(s) for s in (0, 5, 9)] == [0.0, 0.25, 0.45], "a run shorter than its warm-up only warms up"


@pytest.mark.parametrize("bad", [{"warmup": -1}, {"warmup": 1.0}, {"warmup": True}, {"floor": 1.1}, {"floor": -0.1}])
def test_warmup_refuses(bad):
    with pytest.raises(ValidationError):
        WarmupCosine(**bad)


# --- torch's twins


@pytest.mark.parametrize(("size", "gamma"), [(1, 0.5), (3, 0.1), (50, 0.9)])
def test_step_equals_torch(size, gamma):
    schedule = Step(size=size, gamma=gamma).build(20, 1, 0.3)
    expected = torch_rates(lr_scheduler.StepLR, 20, 0.3, step_size=size, gamma=gamma)
    assert [schedule(i) for i in range(21)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_cosine_equals_torch(floor):
    schedule = Cosine(floor=floor).build(40, 10, 0.3)
    expected = torch_rates(lr_scheduler.CosineAnnealingLR, 40, 0.3, T_max=40, eta_min=floor * 0.3)
    assert [schedule(i) for i in range(41)] == pytest.approx(expected, rel=1e-9, abs=1e-15)


@examples
@given(
    st.lists(st.floats(-2, 2) | st.just(math.nan), max_size=40),
    st.sampled_from(["min", "max"]),
    st.fixed_dictionaries(
        {
            "factor": st.sampled_from([0.1, 0.5, 0.9]),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0.0, 1e-4, 0.1]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0.0, 0.05]),
        }
    ),
)
def test_plateau_equals_torch_to_the_bit(values, mode, args):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **args)
    schedule = Plateau(**args).build(100, 10, 0.3, mode)
    assert schedule(0, []) == 0.3
    for i, value in enumerate(values, start=1):
        scheduler.step(value)
        assert schedule(i, values[:i]) == optimizer.param_groups[0]["lr"]


def test_plateau_counts_evaluations_and_waits_for_more_than_patience():
    schedule = Plateau(patience=1, factor=0.5).build(100, 10, 1.0, "max")
    assert [schedule(0, [0.5] * n) for n in range(6)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    with pytest.raises(ValidationError, match="every"):
        Plateau(every="step")


@pytest.mark.parametrize("value", TORCH, ids=lambda value: value["name"])
def test_a_class_of_torch_gives_its_own_rates_to_the_bit(value):
    schedule = config({**value, "every": "step"}).build(20, 5, 0.3)
    expected = torch_rates(getattr(lr_scheduler, value["name"]), 20, 0.3, **value["args"])
    assert [schedule(i) for i in range(21)] == expected
    assert schedule(7) == expected[7]


def test_one_cycle_spans_the_run_and_peaks_at_the_optimizers_rate():
    schedule = config({"name": "OneCycleLR", "args": {"cycle_momentum": False}}).build(50, 5, 0.2)
    expected = torch_rates(lr_scheduler.OneCycleLR, 50, 0.2, max_lr=0.2, total_steps=50, cycle_momentum=False)
    assert [schedule(i) for i in range(51)] == expected
    assert max(expected) == pytest.approx(0.2)
    too_short = config({"name": "OneCycleLR", "args": {"total_steps": 10, "cycle_momentum": False}})
    with pytest.raises(ConfigError, match=r"total_steps is 10 but the run has 50 steps"):
        too_short.build(50, 5, 0.2)


def test_cyclic_starts_at_the_optimizers_rate():
    cyclic = config({"name": "CyclicLR", "args": {"max_lr": 0.5, "step_size_up": 3, "cycle_momentum": False}})
    assert cyclic.build(10, 5, 0.1)(0) == pytest.approx(0.1)
    assert cyclic.build(10, 5, 0.1)(3) == pytest.approx(0.5)


def test_wrong_use_of_torch_classes_is_told_in_one_line():
    assert "unknown to StepLR; allowed: step_size, gamma" in message({"name": "StepLR", "args": {"step": 3}})
    assert "args lacks T_max, which CosineAnnealingLR needs" in message("CosineAnnealingLR")
    assert "args.cycle_momentum must be false for OneCycleLR" in message("OneCycleLR")
    assert "CyclicLR" in message({"name": "CyclicLR", "args": {"max_lr": 1.0, "cycle_momentum": True}})
    assert "use schedule.name=plateau" in message("ReduceLROnPlateau")
    assert "Python function" in message("LambdaLR")
    assert "scheduler objects" in message("SequentialLR")
    assert "spells it 'StepLR'" in message("steplr")
    assert "refuses" in message({"name": "StepLR", "args": {"step_size": 0}})
    assert "refuses" in message({"name": "StepLR", "args": {"step_size": "three"}})
    assert "not known" in message("LRScheduler")
    assert "did you mean 'cosine'" in message("cosin")


def test_torch_schedules_leave_no_warning_and_compare_by_their_keys():
    a = TorchSchedule(name="StepLR", args={"step_size": 2})
    a.build(10, 5, 0.1)(9)
    assert a == TorchSchedule(name="StepLR", args={"step_size": 2})
    assert a.lr(4, 10, 1.0) == pytest.approx(0.01)


# --- hyperbolic


@st.composite
def cases(draw):
    length = draw(st.integers(1, 300))
    lr0 = draw(st.floats(1e-4, 1.0))
    return {
        "N": length,
        "U": length * draw(st.floats(1.0, 20.0)),
        "lr0": lr0,
        "lr_inf": lr0 * draw(st.floats(1e-6, 0.9)),
        "x": draw(st.integers(0, length)),
    }


@examples
@given(cases())
def test_hyperbolic_formulas(c):
    big_n, u, lr0, lr_inf, x = c["N"], c["U"], c["lr0"], c["lr_inf"], c["x"]

    def h(at):
        return math.sqrt((big_n - at) / u * (2 - (big_n + at) / u))

    options = {"upper_bound": u, "infimum": lr_inf}
    linear = Hyperbolic(**options).build(big_n, 1, lr0)
    geometric = ExpHyperbolic(**options).build(big_n, 1, lr0)
    assert linear(x) == pytest.approx(lr0 + (lr0 - lr_inf) * (h(x) - h(0)), rel=1e-9)
    assert geometric(x) == pytest.approx(lr0 * (lr0 / lr_inf) ** (h(x) - h(0)), rel=1e-9)
    for schedule in (linear, geometric):
        assert schedule(0) == lr0
        assert lr_inf * (1 - 1e-9) <= schedule(big_n) <= schedule(x) <= lr0
        if x:
            assert schedule(x) < schedule(x - 1)
        assert schedule(big_n + 10) == schedule(big_n)


@pytest.mark.parametrize("cls", [Hyperbolic, ExpHyperbolic])
def test_hyperbolic_reaches_the_infimum_when_the_run_is_as_long_as_the_bound(cls):
    assert cls(upper_bound=50, infimum=1e-4).build(50, 1, 0.1)(50) == pytest.approx(1e-4)


@pytest.mark.parametrize("cls", [Hyperbolic, ExpHyperbolic])
def test_hyperbolic_length_is_the_runs_or_max_iter(cls):
    by_run = cls(upper_bound=100).build(200, 10, 0.1)
    fixed = cls(upper_bound=100, max_iter=20).build(600, 10, 0.1)
    assert [by_run(e) for e in range(21)] == [fixed(e) for e in range(21)]
    assert cls(upper_bound=100, max_iter=20).depends_on_total is False


@pytest.mark.parametrize("cls", [Hyperbolic, ExpHyperbolic])
def test_hyperbolic_refuses_what_has_no_meaning(cls):
    with pytest.raises(ValidationError, match=r"upper_bound is 10.0, below max_iter 20; give at least 20"):
        cls(upper_bound=10.0, max_iter=20)
    with pytest.raises(ConfigError) as caught:
        cls(upper_bound=10, infimum=0.1).build(20, 1, 0.1)
    assert len(caught.value.problems) == 2
    assert "schedule.upper_bound is 10, below the run's 20 epochs; give at least 20" in caught.value.problems[0]
    assert "schedule.infimum is 0.1; give a rate below optim.lr, which is 0.1" in caught.value.problems[1]
