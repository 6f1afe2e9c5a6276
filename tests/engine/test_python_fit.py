"""`loopwright.fit`: an own module and own data, with everything that a recipe gets."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import loopwright
from loopwright import ConfigError, DataError, Outcome
from loopwright.record.index import Index
from loopwright.streams import global_state
from support.compare import assert_same, timeless, trajectory
from support.interruptions import Fail, Signal, Start, Stopped, failed_at, interrupted_at, starter
from support.tasks import Augmented, EveryOther, Streamed, data

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

X, Y = data("train")
XV, YV = data("val")
XT, YT = data("test")
IN_MEMORY = {"record": {"save": False}}
QUIET: dict[str, Any] = {"plots": "none", "record": {"code": False}, "device": "cpu"}


def mae(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).abs().mean()


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))


def fit(model: Any = net, **given: Any) -> Outcome:
    given = {"train": (X, Y), "val": (XV, YV), "epochs": 3, "batch_size": 4, **QUIET, **given}
    return loopwright.fit(model, nn.MSELoss(), **given)


def test_ten_lines(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1))
    outcome = loopwright.fit(
        model,
        nn.MSELoss(),
        train=(X, Y),
        val=(XV, YV),
        epochs=20,
        batch_size=128,
        optimizer="adam",
        lr=1e-2,
        metrics={"mae": mae},
        seed=0,
        out=tmp_path,
        **QUIET,
    )
    assert outcome.status == "completed" and (outcome.epochs, outcome.steps) == (20, 20)
    assert outcome.best is not None and outcome.last is not None and outcome.run is not None
    assert outcome.best["val_loss"] < 3.0 and outcome.best["val_loss"] <= outcome.last["val_loss"]  # type: ignore[operator]
    with torch.no_grad():  # the module was trained in place and holds the last weights
        assert float((model(XV) - YV).square().mean()) == pytest.approx(outcome.last["val_loss"])
        assert float((model(XV) - YV).abs().mean()) == pytest.approx(outcome.last["val_mae"])
    run = Path(outcome.run)
    assert run.parent == tmp_path / "fit"
    assert {path.name for path in run.iterdir()} >= {
        "config.yaml",
        "metrics.csv",
        "steps.csv",
        "result.json",
        "model.pt",
    }
    assert json.loads((run / "result.json").read_text())["best"] == outcome.best
    assert len((run / "steps.csv").read_text().splitlines()) == 21


def test_without_a_record_nothing_is_written_and_everything_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recorded = fit(test=(XT, YT), out=tmp_path / "runs")
    files = sorted(tmp_path.rglob("*"))
    quiet = fit(test=(XT, YT), **IN_MEMORY)
    assert sorted(tmp_path.rglob("*")) == files
    assert quiet.run is None and recorded.run is not None
    for name in ("status", "reason", "monitor", "mode", "test", "value", "epochs", "steps", "weights_sha256", "curves"):
        assert getattr(quiet, name) == getattr(recorded, name), name
    for name in ("best", "last"):
        assert timeless(getattr(quiet, name)) == timeless(getattr(recorded, name))


def test_a_function_is_built_under_the_seed_and_a_module_taken_as_it_is(tmp_path: Path) -> None:
    torch.rand(3)
    first = fit(**IN_MEMORY)
    torch.rand(3)
    assert fit(**IN_MEMORY).weights_sha256 == first.weights_sha256 != fit(seed=1, **IN_MEMORY).weights_sha256
    model = net()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    outcome = fit(model, out=tmp_path)
    assert outcome.weights_sha256 != first.weights_sha256
    assert not torch.equal(model.state_dict()["0.weight"], weights["0.weight"])
    # The weights that came from outside are kept: a replay starts from them.
    index = Index.read(Path(outcome.run or "") / "checkpoints")
    initial = index.tagged("initial")
    assert initial is not None and initial.step == 0
    kept = index.load(initial)["model_state_dict"]
    assert all(torch.equal(kept[name], value) for name, value in weights.items())


def copy_of(weights: dict[str, Tensor]) -> nn.Module:
    model = net()
    model.load_state_dict(weights)
    return model


def test_two_fits_have_the_same_content_whatever_was_drawn_before(tmp_path: Path) -> None:
    weights = net().state_dict()
    for name, model in (("function", lambda: net), ("module", lambda: copy_of(weights))):
        runs = []
        for number in range(2):
            torch.rand(number + 1)
            random.random()
            np.random.rand(2)
            runs.append(fit(model(), test=(XT, YT), out=tmp_path / name / str(number)).run)
        assert_same(*runs, sessions=True)


def test_resume_goes_on_or_returns_what_is_finished(tmp_path: Path) -> None:
    whole = fit(out=tmp_path / "whole")
    stopped = fit(out=tmp_path / "stopped", hooks=[Signal(8)])
    assert stopped.status == "interrupted" and stopped.steps == 8
    ended = fit(out=tmp_path / "stopped", resume=True)
    assert ended.run == stopped.run and ended.status == "completed"
    assert_same(whole.run, ended.run)
    again = fit(out=tmp_path / "stopped", resume=True)
    assert (again.run, again.weights_sha256, again.best) == (ended.run, ended.weights_sha256, ended.best)
    assert fit(out=tmp_path / "stopped", resume=True, epochs=4).run != ended.run
    assert fit(out=tmp_path / "stopped", resume=True, train=(X + 1, Y)).run != ended.run


def test_a_finished_run_gives_a_fresh_module_its_last_weights(tmp_path: Path) -> None:
    weights = net().state_dict()
    first, second = copy_of(weights), copy_of(weights)
    ended = fit(first, out=tmp_path)
    assert fit(second, out=tmp_path, resume=True).run == ended.run
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def loaders(kind: str) -> Any:
    if kind == "tensors":
        return X, Y
    if kind == "0 workers":
        return DataLoader(Augmented(), batch_size=4, shuffle=True)
    if kind == "2 workers":
        return DataLoader(Augmented(), batch_size=4, shuffle=True, num_workers=2)
    if kind == "drop last":
        return DataLoader(Augmented(), batch_size=4, shuffle=True, drop_last=True)
    if kind == "custom sampler":
        return DataLoader(Augmented(), batch_size=3, sampler=EveryOther(22))
    if kind == "iterable":
        return Streamed()
    assert kind == "dataset"
    return Augmented()


KINDS = ["tensors", "dataset", "0 workers", "2 workers", "drop last", "custom sampler", "iterable"]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_resume_with_the_users_data(kind: str, tmp_path: Path) -> None:
    def start(name: str) -> Start:
        def run(*, resume: bool, hooks: Any) -> Outcome:
            return fit(train=loaders(kind), out=tmp_path / name, resume=resume, hooks=hooks)

        return starter(run)

    whole = start("whole")()
    assert_same(whole.run, interrupted_at(start("signals"), 1, 5, 9).run)
    if kind != "2 workers":
        assert_same(whole.run, failed_at(start("failures"), ("on_step_end", 7), ("on_epoch_end", 2)).run)
        assert_same(whole.run, interrupted_at(start("at the end of an epoch"), whole.steps // 3).run)


def test_a_given_module_is_resumed_exactly_too(tmp_path: Path) -> None:
    weights = net().state_dict()
    whole = fit(copy_of(weights), out=tmp_path / "whole")
    start = starter(lambda **given: fit(copy_of(weights), out=tmp_path / "stopped", **given))
    assert_same(whole.run, interrupted_at(start, 2, 9).run)
    failing = starter(lambda **given: fit(copy_of(weights), out=tmp_path / "failed", **given))
    assert_same(whole.run, failed_at(failing, ("on_step_end", 3), ("on_validation_end", 2)).run)


def test_the_number_of_workers_does_not_matter(tmp_path: Path) -> None:
    runs = [fit(train=loaders(kind), out=tmp_path / kind).run for kind in ("0 workers", "2 workers", "dataset")]
    assert trajectory(runs[0]) == trajectory(runs[1]) == trajectory(runs[2])


@pytest.mark.parametrize(
    "form",
    [
        lambda x, y: (x, y),
        lambda x, y: [x, y],
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: (x.numpy(), y),
        lambda x, y: TensorDataset(x, y),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=4, shuffle=len(x) == len(X)),
    ],
    ids=["tensors", "a list", "arrays", "mixed", "TensorDataset", "DataLoader"],
)
def test_the_form_of_the_data_does_not_matter(form: Any) -> None:
    expected = fit(test=(XT, YT), **IN_MEMORY)
    outcome = fit(train=form(X, Y), val=form(XV, YV), test=form(XT, YT), **IN_MEMORY)
    assert outcome.weights_sha256 == expected.weights_sha256
    assert outcome.test is not None and expected.test is not None
    assert outcome.test["last"]["loss"] == pytest.approx(expected.test["last"]["loss"])


def test_the_test_split_is_measured_with_the_last_and_the_best_weights(tmp_path: Path) -> None:
    model = net()
    outcome = fit(model, test=(XT, YT), stop={"monitor": "loss", "mode": "max"}, out=tmp_path)
    assert outcome.test is not None and outcome.best is not None and outcome.best["epoch"] == 1
    model.eval()
    with torch.no_grad():
        assert outcome.test["last"]["loss"] == pytest.approx(float((model(XT) - YT).square().mean()))
        model.load_state_dict(torch.load(Path(outcome.run or "") / "model.pt", weights_only=True))
        assert outcome.test["best"]["loss"] == pytest.approx(float((model(XT) - YT).square().mean()))
    assert outcome.test["best"] != outcome.test["last"]
    assert fit(**IN_MEMORY).test is None


def test_one_tensor_is_its_own_target() -> None:
    outcome = fit(lambda: nn.Linear(3, 3), train=X, val=XV, **IN_MEMORY)
    assert outcome.status == "completed" and outcome.best is not None


def test_several_inputs_and_batches_that_are_dicts() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, a: Any, b: Tensor | None = None) -> Tensor:
            return self.layer(a["x"]) if isinstance(a, dict) else self.layer(a + b)

    assert fit(Sum, train=(X, X, Y), val=(XV, XV, YV), **IN_MEMORY).status == "completed"

    class Pairs(torch.utils.data.Dataset[dict[str, Tensor]]):
        def __len__(self) -> int:
            return 22

        def __getitem__(self, index: int) -> dict[str, Tensor]:
            return {"x": X[index], "y": Y[index]}

    outcome = loopwright.fit(
        Sum, lambda p, batch: (p - batch["y"]).square().mean(), train=Pairs(), epochs=1, batch_size=4, **IN_MEMORY
    )
    losses, counts = outcome.curves["train_loss"], [4, 4, 4, 4, 4, 2]
    assert outcome.last is not None
    assert outcome.last["train_loss"] == pytest.approx(sum(a * n for a, n in zip(losses, counts, strict=True)) / 22)  # type: ignore[operator]


def test_own_metrics_and_their_directions() -> None:
    def per_sample(predicted: Tensor, target: Tensor) -> Tensor:
        return (predicted - target).abs()[:, 0]

    def within(predicted: Tensor, target: Tensor) -> float:
        return float(((predicted - target).abs() < 1).double().mean())

    val = DataLoader(TensorDataset(XV, YV), batch_size=3)
    metrics: Any = {"mean": mae, "each": per_sample, "within": (within, "max")}
    outcome = fit(val=val, metrics=metrics, stop={"monitor": "within"}, epochs=5, **IN_MEMORY)
    assert (outcome.monitor, outcome.mode) == ("val_within", "max")
    assert outcome.last is not None and outcome.best is not None
    assert outcome.last["val_mean"] == pytest.approx(outcome.last["val_each"])  # by sample, whatever the batch
    assert outcome.best["val_within"] == max(v for v in outcome.curves["within"] if v is not None)
    lowest = fit(val=val, metrics=metrics, stop={"monitor": "val_each", "mode": "min"}, epochs=5, **IN_MEMORY)
    assert lowest.best is not None and lowest.best["val_each"] == min(v for v in lowest.curves["each"] if v is not None)


def test_any_key_of_a_recipe_can_be_given() -> None:
    base = fit(**IN_MEMORY)
    assert fit(stop={"patience": 1, "min_delta": 100.0}, **IN_MEMORY).status == "early_stopped"
    assert fit(stop={"gate": {"loss": 1e9}}, **IN_MEMORY).status == "gate_passed"
    changed: list[dict[str, Any]] = [
        {"schedule": "cosine"},
        {"schedule": {"name": "step", "size": 1}},
        {"optimizer": "sgd"},
        {"optimizer": {"name": "adam", "betas": [0.5, 0.9]}},
        {"lr": 0.3},
        {"clip_norm": 0.01},
        {"accumulate": 2, "batch_size": 11},
        {"overfit": 4},
    ]
    hashes = {fit(**given, **IN_MEMORY).weights_sha256 for given in changed}
    assert len(hashes) == len(changed) and base.weights_sha256 not in hashes
    assert len(fit(validate_every="2 steps", **IN_MEMORY).curves["loss"]) > 3


def test_without_a_val_split_the_training_loss_is_followed() -> None:
    outcome = fit(val=None, **IN_MEMORY)
    assert (outcome.monitor, outcome.mode) == ("train_loss", "min") and outcome.best is not None
    assert outcome.value == outcome.last["train_loss"]  # type: ignore[index]
    assert fit(val=None, stop={"patience": 1, "min_delta": 100.0}, **IN_MEMORY).status == "early_stopped"


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"stop": {"monitor": "mae"}, "metrics": {"mae": mae}}, ConfigError, "say which way is better"),
        ({"stop": {"monitor": "val_mae"}, "metrics": {"mae": mae}}, ConfigError, "say which way is better"),
        ({"stop": {"monitor": "accuracy"}}, ConfigError, "the task measures: val_loss"),
        ({"val": None, "stop": {"monitor": "loss"}}, ConfigError, "there is no val split"),
        ({"epochs": -1}, ConfigError, "`train.epochs` is -1"),
        ({"optimizer": "adamm"}, ConfigError, "did you mean 'adam'"),
        ({"patience": 3}, ConfigError, "did you mean `stop.patience`"),
        ({"precision": "fp8"}, ConfigError, "`train.precision` is 'fp8'"),
        ({"train": "data.csv"}, DataError, "give tensors, arrays, a tuple of them, a Dataset or a DataLoader"),
        ({"train": (X, Y[:5])}, DataError, "equally many samples"),
        ({"train": (X[:0], Y[:0])}, DataError, "the train data have no samples"),
        ({"val": (XV[:0], YV[:0])}, DataError, "the val data have no samples"),
        ({"train": None}, DataError, "there is no training data"),
    ],
)
def test_wrong_use_is_named(given: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error) as caught:
        fit(out=tmp_path, **given)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def settings() -> tuple[Any, ...]:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    return (
        handlers,
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize("ends", ["well", "badly", "interrupted", "refused"])
def test_the_callers_process_is_left_as_it_was(ends: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    np.random.randn()
    random.seed(5)
    random.gauss(0, 1)
    before, state = settings(), global_state()
    hooks = {"badly": [Fail("on_step_end", 4)], "interrupted": [Signal(4, signal.SIGINT)]}.get(ends, [])
    expected = {"badly": Stopped, "refused": DataError}.get(ends)
    given: Any = {"train": "nothing"} if ends == "refused" else {"train": loaders("0 workers"), "test": (XT, YT)}
    if expected is None:
        assert fit(out=tmp_path, hooks=hooks, threads=2, **given).status in ("completed", "interrupted")
    else:
        with pytest.raises(expected):
            fit(out=tmp_path, hooks=hooks, threads=2, **given)
    after = global_state()
    assert all(repr(after[name]) == repr(state[name]) for name in state)
    assert settings() == before


def test_it_works_from_a_thread(tmp_path: Path) -> None:
    before = settings()
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(fit(out=tmp_path / "thread")))
    thread.start()
    thread.join()
    assert_same(outcomes[0].run, fit(out=tmp_path / "main").run)
    assert settings() == before


def test_it_never_exits_and_never_prints(capfd: pytest.CaptureFixture[str]) -> None:
    assert fit(lambda: nn.Linear(3, 1), train=(X * torch.nan, Y), **IN_MEMORY).status == "diverged"
    assert capfd.readouterr().out == ""
