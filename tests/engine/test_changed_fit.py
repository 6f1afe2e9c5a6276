"""`fit(resume=...)` after something of the call has changed, and after nothing has but training itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

import loopwright
from loopwright import ConfigError, Outcome, RunError
from loopwright.content import comparison
from loopwright.record.read import read_json
from support.compare import assert_same
from support.interruptions import Signal

X = torch.linspace(-1, 1, 60).reshape(20, 3)
Y = X.sum(1, keepdim=True).square()
CLASSES = (Y[:, 0] > 0.5).long()


def linear() -> nn.Module:
    return nn.Linear(3, 1)


def fit(loss: Any = None, model: Any = linear, **given: Any) -> Outcome:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "lr": 0.01, "plots": "none", "device": "cpu"}
    data = {"train": (X, Y), "val": (X, Y)}
    record = {"code": False, "checkpoint_every": "1 steps", **given.pop("record", {})}
    return loopwright.fit(model, loss or nn.MSELoss(), **{**data, **settings, "resume": True, **given}, record=record)


def differs(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.message for record in caplog.records if "a new one starts" in record.message]
    caplog.clear()
    return [line.partition("differs in: ")[2] for line in lines]


def test_another_weight_of_the_loss_is_another_run_with_its_own_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def two() -> nn.Module:
        return nn.Linear(3, 2)

    data = {"train": (X, CLASSES), "val": (X, CLASSES), "model": two}
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 50.0]))
    first = fit(nn.CrossEntropyLoss(), out=tmp_path, **data)
    second = fit(weighted, out=tmp_path, **data)
    alone = fit(weighted, out=tmp_path / "alone", **data)
    assert second.run != first.run and second.last is not None and alone.last is not None
    assert second.last["val_loss"] == alone.last["val_loss"] and second.weights_sha256 == alone.weights_sha256
    assert differs(caplog) == ["the loss: `weight` was None, is now [1.0, 50.0]"]
    # Both are found again.
    assert fit(nn.CrossEntropyLoss(), out=tmp_path, **data).run == first.run
    assert fit(weighted, out=tmp_path, **data).run == second.run


def test_what_differs_is_said_of_the_nearest_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = fit(nn.HuberLoss(delta=1.0), out=tmp_path)
    fit(nn.L1Loss(), out=tmp_path, lr=0.5, batch_size=5)
    caplog.clear()
    fit(nn.HuberLoss(delta=2.0), out=tmp_path)
    assert first.run is not None
    (line,) = [record.message for record in caplog.records if "a new one starts" in record.message]
    assert f"the nearest of the same name, {Path(first.run).name}, differs in: the loss: `delta` was 1.0" in line


def test_an_interrupted_run_does_not_go_on_under_another_loss(tmp_path: Path) -> None:
    stopped = fit(nn.HuberLoss(delta=1.0), out=tmp_path, hooks=[Signal(7)])
    other = fit(nn.HuberLoss(delta=0.1), out=tmp_path)
    assert stopped.status == "interrupted" and other.run != stopped.run
    assert_same(other.run, fit(nn.HuberLoss(delta=0.1), out=tmp_path / "alone").run)
    whole = fit(nn.HuberLoss(delta=1.0), out=tmp_path / "whole")
    ended = fit(nn.HuberLoss(delta=1.0), out=tmp_path)
    assert ended.run == stopped.run
    assert_same(whole.run, ended.run)


def test_resume_with_a_path_goes_on_in_spite_of_a_change_and_records_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = fit(nn.HuberLoss(delta=1.0), out=tmp_path, hooks=[Signal(7)])
    path = Path(stopped.run or "")
    assert (read_json(path / "environment.json") or {})["bits_promised"] is True
    ended = fit(nn.HuberLoss(delta=0.1), out=tmp_path, lr=0.02, resume=path)
    assert (ended.run, ended.status, ended.steps) == (str(path), "completed", 15)
    environment = read_json(path / "environment.json") or {}
    assert environment["bits_promised"] is False
    (change,) = environment["changes"]
    assert change["step"] == 7
    assert change["what"] == [
        "optim.lr: 0.01 -> 0.02; bits are no longer promised",
        "the loss: `delta` was 1.0, is now 0.1; bits are no longer promised",
    ]
    said = [record.message for record in caplog.records if "no longer promised" in record.message]
    assert said == change["what"]
    assert len((path / "steps.csv").read_text().splitlines()) == 16
    # The unchanged call still means this run, which is finished otherwise than it began; a child promises no more than it.
    caplog.clear()
    assert fit(nn.HuberLoss(delta=1.0), out=tmp_path).run == str(path)
    (line,) = [record.message for record in caplog.records if "did not end as it began" in record.message]
    assert all(what in line for what in change["what"])
    child = fit(nn.HuberLoss(delta=1.0), out=tmp_path, epochs=4, resume=path)
    assert (read_json(Path(child.run or "") / "environment.json") or {})["bits_promised"] is False


def test_resume_with_a_path_and_nothing_changed_is_exact(tmp_path: Path) -> None:
    whole = fit(out=tmp_path / "whole")
    stopped = fit(out=tmp_path, hooks=[Signal(7)])
    ended = fit(out=tmp_path, resume=stopped.run)
    assert_same(whole.run, ended.run)
    environment = read_json(Path(ended.run or "") / "environment.json") or {}
    assert environment["bits_promised"] is True and "changes" not in environment


def test_a_finished_run_named_by_its_path_goes_further_as_a_child_or_is_returned(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = fit(out=tmp_path)
    assert fit(nn.L1Loss(), out=tmp_path, resume=first.run).weights_sha256 == first.weights_sha256
    assert any("has changed: the loss: was MSELoss, is now L1Loss" in record.message for record in caplog.records)
    before = sorted((path, path.stat().st_mtime_ns) for path in Path(first.run or "").rglob("*") if path.is_file())
    further = fit(out=tmp_path, epochs=5, resume=first.run)
    after = sorted((path, path.stat().st_mtime_ns) for path in Path(first.run or "").rglob("*") if path.is_file())
    assert before == after
    assert further.run != first.run and (further.epochs, further.steps) == (5, 25)
    assert further.weights_sha256 == fit(out=tmp_path / "whole", epochs=5).weights_sha256
    assert (read_json(Path(further.run or "") / "environment.json") or {})["parent"] == str(
        Path(first.run or "").resolve()
    )


def test_a_path_that_is_no_run_of_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a run: it has no config\.yaml"):
        fit(out=tmp_path, resume=tmp_path)
    recipe = loopwright.train("experiment=self_test", "train.epochs=1", "plots=none", out=tmp_path)
    assert isinstance(recipe, Outcome)
    with pytest.raises(RunError, match=r"a run of task=regression; loopwright\.resume goes on with it"):
        fit(out=tmp_path, resume=recipe.run)
    stopped = fit(out=tmp_path, hooks=[Signal(7)])
    with pytest.raises(ConfigError, match=r"record\.save=false writes no run"):
        fit(out=tmp_path, resume=stopped.run, record={"save": False})


CALLS = 0


class Counting(nn.Module):
    """A loss that moves on in every way: an attribute, one that appears, a cache, a global, a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.seen = 0, {}
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, p: Tensor, t: Tensor) -> Tensor:
        global CALLS
        CALLS += 1
        self.calls += 1
        self.seen[self.calls] = len(p)
        self.latest = self.calls
        with torch.no_grad():
            self.scale += 0.01
        return (p - t).square().mean()


class Turning(Sampler[int]):
    """Counts its epochs under a name of its own."""

    def __init__(self) -> None:
        self.turn = 0

    def __len__(self) -> int:
        return len(X)

    def __iter__(self) -> Iterator[int]:
        self.turn += 1
        return iter(range(len(X)))


class Remembering(Dataset[Any]):
    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        self.memory[index] = X[index]
        return X[index], Y[index]


def test_the_same_call_in_the_same_process_is_the_same_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything that a training moves is as it was, as far as the identity goes: also the weights of a given module."""
    counts: list[int] = []

    def metric(p: Tensor, t: Tensor) -> Tensor:
        counts.append(len(p))
        return (p - t).abs().mean()

    loss, sampler, dataset, model = Counting(), Turning(), Remembering(), linear()

    def again(**given: Any) -> Outcome:
        loader = DataLoader(dataset, batch_size=4, sampler=sampler)
        return fit(loss, model, train=loader, metrics={"mae": metric}, out=tmp_path, **given)

    weights = {name: value.clone() for name, value in model.state_dict().items()}
    stopped = again(hooks=[Signal(7)])
    assert stopped.status == "interrupted" and loss.calls > 0 and len(counts) == 1
    ended = again()
    assert (ended.run, ended.status, ended.steps) == (stopped.run, "completed", 15) and len(counts) == 3
    calls = CALLS
    finished = again()
    assert finished.run == stopped.run and calls == CALLS
    assert not torch.equal(model.weight, weights["weight"])
    assert differs(caplog) == []
    # Another call begins from what stands there now, and is known by that as well.
    other = again(lr=0.5)
    assert other.run != stopped.run and len(differs(caplog)) == 1
    assert again(lr=0.5).run == other.run and differs(caplog) == []
    # What training did not move is what it is.
    loss.calls = 1000
    assert again().run != stopped.run
    (line,) = differs(caplog)
    assert "`calls` was " in line and ", is now 1000" in line


def test_a_module_that_was_trained_begins_a_new_run_from_where_it_is(tmp_path: Path) -> None:
    """The identity of a new run is that of the weights that it begins with."""
    model = linear()
    first = fit(model=model, out=tmp_path / "a")
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    second = fit(model=model, out=tmp_path / "b")
    assert second.weights_sha256 != first.weights_sha256
    fresh = linear()
    fresh.load_state_dict(trained)
    assert fit(model=fresh, out=tmp_path / "b").run == second.run


def test_an_attribute_set_to_what_training_left_in_another_object_is_a_change(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    one = fit(first, out=tmp_path)
    second.calls = first.calls
    assert fit(second, out=tmp_path).run != one.run


SCRIPT = """
import sys, torch
from torch import nn
from loopwright.content.arguments import Arguments, Given

class Loss(nn.Module):
    def __init__(self):
        super().__init__()
        self.names = {"a", "b", "c", "d"}
        self.table = {"x": 1, "y": 2} if sys.argv[1] == "1" else {"y": 2, "x": 1}
    def forward(self, p, t):
        return (p - t).abs().mean() if str(p) not in {"e", "f", "g"} else p

def make():
    return nn.Linear(2, 1)

arguments = Arguments(Given(make, Loss(), {"m": lambda p, t: p}, (torch.ones(4, 2), torch.ones(4, 1)), None, None), str)
torch.manual_seed(0)
arguments.built(make())
print(arguments.now.digest())
"""


def test_no_address_hash_seed_or_order_of_a_dictionary_counts() -> None:
    found = set()
    for seed in (0, 1):
        environment = {**os.environ, "PYTHONHASHSEED": str(seed)}
        words = [sys.executable, "-c", SCRIPT, str(seed)]
        ended = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        found.add(ended.stdout)
    assert len(found) == 1


def test_a_run_of_another_python_is_found_without_its_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = fit(lambda p, t: (p - t).abs().mean(), out=tmp_path, hooks=[Signal(7)])
    path = Path(stopped.run or "")
    file = path / "task" / comparison.FILE
    facts = json.loads(file.read_text())
    file.write_text(json.dumps({**facts, "python": "3.99"}))
    other = fit(lambda p, t: (p - t).square().mean(), out=tmp_path)
    assert other.run == stopped.run
    (line,) = [record.message for record in caplog.records if "recorded under Python" in record.message]
    assert line.startswith(f"{path} was recorded under Python 3.99: that its code is the same cannot be checked under ")
    # What is no code counts all the same.
    assert fit(nn.MSELoss(), out=tmp_path).run != stopped.run


def test_a_finished_recipe_says_that_registered_code_has_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = ("experiment=self_test", "train.epochs=1", "plots=none", "record.code=false")
    first = loopwright.train(*recipe, out=tmp_path)
    assert isinstance(first, Outcome)
    file = Path(first.run or "") / "environment.json"
    environment = json.loads(file.read_text())
    assert not [record for record in caplog.records if "code has changed" in record.message]
    environment["source_sha256"]["loopwright/models/mlp.py"] = "0" * 16
    file.write_text(json.dumps(environment))
    again = loopwright.train(*recipe, out=tmp_path, resume=True)
    assert isinstance(again, Outcome) and again.run == first.run
    (line,) = [record.message for record in caplog.records if "code has changed" in record.message]
    assert line == f"code has changed since {first.run} was trained: loopwright/models/mlp.py"


def test_a_child_whose_checkpoint_did_not_fit_is_not_taken_for_the_training_itself(tmp_path: Path) -> None:
    def unbiased() -> nn.Module:
        return nn.Linear(3, 1, bias=False)

    first = fit(out=tmp_path)
    assert first.run is not None
    with pytest.raises(RunError, match=r"Unexpected key\(s\) in state_dict: \"bias\""):
        fit(out=tmp_path, model=unbiased, epochs=4, resume=first.run)
    assert fit(out=tmp_path, model=unbiased, epochs=4).steps == 20


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimiser": "adam"}, "did you mean `optimizer`?"),
        ({"epoch": 3}, "did you mean `epochs`?"),
        ({"clipnorm": 1.0}, "did you mean `clip_norm`?"),
        ({"stop": 5}, "`stop` is 5; it should be a mapping of keys"),
        ({"metrics": [len]}, "`metrics` is a list; it should be a mapping of names to functions or objects"),
        ({"metrics": {"x": 3}}, "`metrics` has 'x': 3; it should be a function of (prediction, target)"),
    ],
)
def test_a_mistake_in_an_argument_names_the_argument_and_leaves_no_run(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        fit(out=tmp_path, **given)
    assert said in str(error.value) and not list(tmp_path.iterdir())


def test_gradient_norms_left_out_when_a_run_goes_on_do_not_enter_their_mean(tmp_path: Path) -> None:
    whole = fit(out=tmp_path / "whole", record={"grad_norm": True}, epochs=1)
    norms = [float(row.split(",")[-1]) for row in (Path(str(whole.run)) / "steps.csv").read_text().splitlines()[1:]]
    for extra in (0, 1):  # interrupted once, or twice
        out = tmp_path / str(extra)
        fit(out=out, record={"grad_norm": True}, epochs=1, hooks=[Signal(2)])
        if extra:
            fit(out=out, epochs=1, hooks=[Signal(3)])
        last = fit(out=out, epochs=1).last
        assert last is not None and last["train_grad_norm"] == sum(norms[:2]) / 2
