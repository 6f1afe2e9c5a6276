"""NaN and Inf injected at a chosen step: `diverged`, a message that says where, and never a checkpoint that holds them."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import loopwright
from loopwright.engine.loss import Loss
from loopwright.engine.outcome import Outcome
from loopwright.engine.period import Period, StepInfo, Update
from loopwright.engine.state import clip_gradients, gradient_norm
from loopwright.engine.task import At, Direction, Split, Sums
from loopwright.experiment import run
from loopwright.record.index import Index
from loopwright.streams import Streams
from support.cli import command, train
from support.interruptions import Signal
from support.tasks import Adversaries, Gan, Plain, recipe

BAD = 9  # the third step of the second epoch; checkpoints of steps 2, 4, 6 and 8 are behind it
GRADIENT = "look for a sqrt, log, norm or division at 0 in the model or the loss"
SMALLER = "try a smaller optim.lr or train.clip_norm=1.0"


class Spoil(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0] * ctx.factor, None


class Spoilt(Plain):
    """Not finite at a step: the loss, a part of it, the gradient of the bias, a metric."""

    metrics: Mapping[str, Direction] = {"loss": "min", "within": "max"}

    def __init__(self, where: str, value: float = math.nan, step: int = BAD) -> None:
        super().__init__(4, Streams(3))
        self.where, self.value, self.at_step = where, value, step

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        assert isinstance(model, nn.Linear)
        x, y = batch
        now = at.step == self.at_step
        bias = Spoil.apply(model.bias, self.value) if now and self.where == "gradient" else model.bias
        mean = F.mse_loss(F.linear(x, model.weight, bias), y)
        penalty = model.weight.square().mean() * (self.value if now and self.where in ("loss", "part") else 1.0)
        parts = {"fit": (mean.detach() * len(y), len(y)), "penalty": (penalty.detach() * len(y), len(y))}
        yield Loss(mean + penalty, len(y), parts if self.where == "part" else {})

    def measure(self, model: nn.Module, batch: Any, at: At) -> Sums:
        x, y = batch
        within = self.value if self.where == "metric" and at.step >= self.at_step else 0.5
        return {"loss": ((model(x) - y).square().sum(), len(y)), "within": (within * len(y), len(y))}


class SpoiltGan(Gan):
    """A gradient of one of two groups that is not finite at a step, whose losses are."""

    def __init__(self, group: str) -> None:
        super().__init__(4, Streams(3))
        self.group = group

    def losses(self, model: nn.Module, batch: Any, at: At) -> Iterator[Loss]:
        assert isinstance(model, Adversaries)
        hurt = getattr(model, self.group)[2].bias
        hook = hurt.register_hook(lambda grad: grad * math.inf) if at.step == BAD else None
        yield from super().losses(model, batch, at)
        if hook is not None:
            hook.remove()


def diverged(task: Any, out: Path, name: str = "Plain", **tree: Any) -> Outcome:
    """Train to a divergence with checkpoints every two steps, and check all that must hold of any of them."""
    record = {"checkpoint_every": "2 steps", "keep_last": 9, **tree.pop("record", {})}
    outcome = run(recipe(name, record=record, **tree), out=out, task=task)
    assert (outcome.status, outcome.exit_code, outcome.value) == ("diverged", 4, math.inf)
    assert "\n" not in outcome.reason and outcome.test is None and outcome.run is not None
    path = Path(outcome.run)
    assert json.loads((path / "result.json").read_text())["reason"] == outcome.reason
    with (path / "steps.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(1, outcome.steps + 1))
    committed = Index.read(path / "checkpoints")
    assert committed.entries
    for entry in committed.entries:
        assert_finite(committed.load(entry)["model_state_dict"])
    assert_finite(torch.load(path / "model.pt", weights_only=True))
    return outcome


def assert_finite(weights: Mapping[str, Tensor]) -> None:
    assert all(bool(torch.isfinite(held).all()) for held in weights.values())


def newest(outcome: Outcome) -> int:
    last = Index.read(Path(outcome.run or "") / "checkpoints").last
    assert last is not None
    return last.step


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_loss(tmp_path: Path, value: float, clip: float | None) -> None:
    outcome = diverged(Spoilt("loss", value), tmp_path, train={"clip_norm": clip})
    norm = r" \(gradient norm [0-9.e+-]+ in step 8\)" if clip else ""
    assert re.fullmatch(
        rf"the loss \(main\) is {value} in step 9 of epoch 2 at lr 0.05{norm}; {SMALLER}, and look for NaN in the data",
        outcome.reason,
    )
    assert (outcome.steps, newest(outcome)) == (8, 8)


def test_loss_part_is_named(tmp_path: Path) -> None:
    outcome = diverged(Spoilt("part"), tmp_path)
    assert outcome.reason.startswith("the loss (main, penalty) is nan in step 9 of epoch 2 at lr 0.05; ")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("settings", "done"),
    [
        ({}, 9),  # nobody looks at the norm: the update is made, and what comes next shows it
        ({"train": {"clip_norm": 1.0}}, 8),
        ({"record": {"grad_norm": True}}, 9),  # an observation
        ({"record": {"checkpoint_every": "3 steps"}}, 9),  # a checkpoint is due right after the bad update
        ({"record": {"checkpoint_every": "1 steps"}}, 9),
    ],
)
def test_gradient_with_a_finite_loss(tmp_path: Path, value: float, settings: dict[str, Any], done: int) -> None:
    outcome = diverged(Spoilt("gradient", value), tmp_path, **settings)
    assert re.match(
        rf"the gradient of bias \(group main\) is -?{value} in step 9 of epoch 2 at lr 0.05; {GRADIENT}", outcome.reason
    )
    assert outcome.steps == done
    assert newest(outcome) == (6 if settings.get("record", {}).get("checkpoint_every") == "3 steps" else 8)


def test_gradient_in_the_last_step_of_an_epoch_is_found_before_the_evaluation(tmp_path: Path) -> None:
    task = Spoilt("gradient", step=12)
    measured: list[int] = []
    evaluate = task.evaluate

    def watched(model: nn.Module, split: Split, at: At) -> dict[str, float | None] | None:
        measured.append(at.step)
        assert_finite(model.state_dict())
        return evaluate(model, split, at)

    task.evaluate = watched  # type: ignore[method-assign]
    outcome = diverged(task, tmp_path)
    assert outcome.reason.startswith("the gradient of bias (group main) is nan in step 12 of epoch 2 at lr 0.05; ")
    assert measured == [6] and (outcome.epochs, outcome.steps, newest(outcome)) == (2, 12, 10)
    with (Path(outcome.run or "") / "metrics.csv").open() as file:
        assert [row["val_loss"] != "" for row in csv.DictReader(file)] == [True, False]


def test_gradient_when_a_signal_comes_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    asked = recipe("Plain", record={"checkpoint_every": "2 steps"})
    outcome = run(asked, out=tmp_path, task=Spoilt("gradient"), hooks=[Signal(BAD)])
    assert (outcome.status, outcome.steps, newest(outcome)) == ("diverged", 9, 8)
    assert "gradient of bias (group main) is nan in step 9" in outcome.reason


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("group", ["critic", "generator"])
def test_gradient_of_one_of_two_groups(tmp_path: Path, group: str, clip: float | None) -> None:
    outcome = diverged(SpoiltGan(group), tmp_path, "Gan", train={"clip_norm": clip})
    assert re.match(
        rf"the gradient of {group}\.2\.bias \(group {group}\) is -?(inf|nan) in step 9 of epoch 2 at lr 0.05; ",
        outcome.reason,
    )
    assert newest(outcome) == 8


def test_gradient_of_an_accumulated_batch(tmp_path: Path) -> None:
    outcome = diverged(Spoilt("gradient"), tmp_path, train={"accumulate": 2})
    assert outcome.reason.startswith("the gradient of bias (group main) is nan in step 9 of epoch 2 ")


def test_finite_gradients_whose_squares_overflow_are_clipped_and_train_on(tmp_path: Path) -> None:
    """Clipping multiplies by limit / inf = 0 where the norm is taken for infinite: the update would be lost."""
    outcome = run(recipe("Plain"), out=tmp_path / "a", task=Spoilt("gradient", 1e30))
    clipped = run(recipe("Plain", train={"clip_norm": 1.0}), out=tmp_path / "b", task=Spoilt("gradient", 1e30))
    assert (outcome.status, clipped.status) == ("completed", "completed")
    assert outcome.weights_sha256 != clipped.weights_sha256
    with (Path(clipped.run or "") / "steps.csv").open() as file:
        norms = [float(row["grad_norm"]) for row in csv.DictReader(file)]
    assert len(norms) == 18 and 1e28 < norms[BAD - 1] < 1e32


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("optimizer", ["adam", "Rprop"])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_recording_the_norm_changes_no_outcome(tmp_path: Path, value: float, optimizer: str, where: str) -> None:
    """Rprop takes the sign of a gradient, so that it survives one that is not finite."""
    outcomes = [
        run(
            recipe("Plain", optim={"name": optimizer, "lr": 0.05}, record={"grad_norm": observed}),
            out=tmp_path / str(observed),
            task=Spoilt(where, value, step=1),
        )
        for observed in (False, True)
    ]
    one, other = ((o.status, o.reason, o.steps, o.weights_sha256, o.value) for o in outcomes)
    assert one == other
    survives = value == 1e30 or (where == "gradient" and optimizer == "Rprop")
    assert one[0] == ("completed" if survives else "diverged")
    with (Path(outcomes[1].run or "") / "metrics.csv").open() as file:
        assert all({"train_grad_norm", "train_grad_norm_max"} <= {*row} for row in csv.DictReader(file))


def test_a_period_without_a_finite_norm_has_its_columns_all_the_same() -> None:
    period = Period()
    period.add(StepInfo(1, 1, 0.1, [Update("main", 2.0, 4)], math.inf))
    period.drain()
    assert period.means() == {"train_loss": 2.0, "train_grad_norm": None, "train_grad_norm_max": None}
    period.add(StepInfo(2, 1, 0.1, [Update("main", 2.0, 4)], 3.0))
    period.drain()
    assert period.means() == {"train_loss": 2.0, "train_grad_norm": 3.0, "train_grad_norm_max": 3.0}


# Gradients, the norm by hand, and the length to clip to.
LARGE: list[tuple[torch.dtype, list[list[float]], float]] = [
    (torch.float32, [[3e20, 0.0], [4e20]], 5e20),
    (torch.float32, [[3e38, 3e38, 3e38], [3e38]], 6e38),  # beyond float32 itself
    (torch.float32, [[-1e25, 0.0]], 1e25),
    (torch.float64, [[3e200, 0.0], [4e200]], 5e200),
    (torch.float16, [[60000.0, 60000.0], [60000.0, 60000.0]], 120000.0),  # a half holds 65504
    (torch.bfloat16, [[3e20], [4e20]], 5e20),
]


@pytest.mark.parametrize(("dtype", "grads", "by_hand"), LARGE, ids=str)
@pytest.mark.parametrize("limit", [1.0, 1e-6])
def test_large_gradients_are_clipped_to_the_right_length(
    dtype: torch.dtype, grads: list[list[float]], by_hand: float, limit: float
) -> None:
    params = [nn.Parameter(torch.zeros(len(values), dtype=dtype)) for values in grads]
    for p, values in zip(params, grads, strict=True):
        p.grad = torch.tensor(values, dtype=dtype)
    kept = [p.grad for p in params if p.grad is not None]
    norm = gradient_norm(kept)
    rounding = {torch.float16: 1e-3, torch.bfloat16: 1e-2}.get(dtype, 1e-6)
    assert not math.isfinite(norm.torchs.item()) and float(norm.value) == pytest.approx(by_hand, rel=rounding)
    clip_gradients(params, limit, norm)
    for grad, values in zip(kept, grads, strict=True):
        if dtype is torch.float16 and limit == 1e-6:
            continue  # smaller than what a half can hold well
        assert grad.double().tolist() == pytest.approx([value / by_hand * limit for value in values], rel=2 * rounding)


def test_ordinary_gradients_have_the_bits_of_torchs_own_clipping() -> None:
    values = torch.linspace(-2, 3, 7)
    ours, theirs = nn.Parameter(torch.zeros(7)), nn.Parameter(torch.zeros(7))
    ours.grad, theirs.grad = values.clone(), values.clone()
    norm = gradient_norm([ours.grad])
    clip_gradients([ours], 0.5, norm)
    assert torch.equal(nn.utils.clip_grad_norm_([theirs], 0.5), norm.value) and torch.equal(ours.grad, theirs.grad)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so_in_the_norm(value: float) -> None:
    assert not math.isfinite(gradient_norm([torch.tensor([1.0, value])]).value.item())
    assert not math.isfinite(gradient_norm([torch.tensor([1.0, value], dtype=torch.float64)]).value.item())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_monitored_metric(tmp_path: Path, value: float) -> None:
    outcome = run(recipe("Noisy", stop={"monitor": "within"}), out=tmp_path, task=Watched(value))
    assert outcome.status == "diverged" and outcome.epochs == 2
    assert outcome.reason == (
        f"the metric (val_within) is {value} in step 12 of epoch 2 at lr 0.05; "
        "look at how it is computed, or let stop.monitor follow another one"
    )
    assert outcome.best is not None and outcome.best["step"] == newest(outcome) == 6


class Watched(Spoilt):
    monitor = "within"

    def __init__(self, value: float) -> None:
        super().__init__("metric", value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_metric_that_nothing_follows_may_be_anything(tmp_path: Path, value: float) -> None:
    outcome = run(recipe("Noisy"), out=tmp_path, task=Spoilt("metric", value))
    assert outcome.status == "completed" and outcome.steps == 18
    with (Path(outcome.run or "") / "metrics.csv").open() as file:
        rows = [row["val_within"] for row in csv.DictReader(file)]
    assert rows == ["0.5", repr(value), repr(value)]


class Masked(nn.Module):
    """An attention mask is a buffer of -inf on purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_infinite_buffer_is_no_divergence(tmp_path: Path) -> None:
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    data = (x, x.sum(1, keepdim=True))
    recorded = {"checkpoint_every": "1 steps"}
    outcome = loopwright.fit(Masked, nn.MSELoss(), train=data, val=data, epochs=2, out=tmp_path, record=recorded)
    assert outcome.status == "completed"


def test_given_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model, x = nn.Linear(3, 1), torch.ones(8, 3)
    with torch.no_grad():
        model.weight[0, 1] = math.nan
    outcome = loopwright.fit(model, nn.MSELoss(), train=(x, x[:, :1]), epochs=2, out=tmp_path)
    assert outcome.status == "diverged" and outcome.steps == 0
    assert outcome.reason.startswith("the weight weight is nan in step 0 of epoch 1")


def test_on_the_command_line_one_line_and_4(tmp_path: Path) -> None:
    ended = train(tmp_path, "optim=sgd", "optim.lr=1e30", "train.epochs=3", code=4)
    assert ended.json["status"] == "diverged" and "Traceback" not in ended.err
    assert ended.json["reason"] in ended.err


def test_dry_run_that_diverges_exits_with_4(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("a,y\n" + "".join(f"{i}e37,{i}e37\n" for i in range(1, 31)))
    ended = command(
        "train", "task=regression", "task.data=csv", f"task.data.path={file}", "task.data.target=y", "--dry-run",
        "task.data.standardize=false",
    )  # fmt: skip
    assert ended.code == 4 and len(ended.errors) == 1 and "in step 1 of epoch 1" in ended.errors[0]
