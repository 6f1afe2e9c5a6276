"""What a run refuses in one line: data that changed under it, an operation whose bits may differ."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import loopwright
from loopwright.engine.hooks import Hook, Info
from loopwright.record.read import find_runs


class StopAt(Hook):
    """Ends the training with an exception, as a crash would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, info: Info) -> None:
        if info.step == self.step:
            raise KeyboardInterrupt


def write_table(path: Path, slope: float) -> None:
    rows = [f"{i / 10},{slope * i / 10}" for i in range(60)]
    path.write_text("x,y\n" + "\n".join(rows) + "\n")


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path):
    table = tmp_path / "table.csv"
    write_table(table, 2.0)
    recipe = ("task=regression", "task.data=csv", f"task.data.path={table}", "task.data.target=y", "name=t")
    recipe += ("train.epochs=3", "train.batch_size=8", "record.checkpoint_every=1 steps", "plots=none")
    with pytest.raises(KeyboardInterrupt):
        loopwright.train(*recipe, out=tmp_path / "runs", hooks=[StopAt(4)])
    run = find_runs(tmp_path / "runs")[-1].path
    write_table(table, 3.0)
    with pytest.raises(loopwright.RunError, match=r"data of .* have changed"):
        loopwright.resume(run)
    write_table(table, 2.0)
    assert loopwright.resume(run).status == "completed"


class Puts(nn.Module):
    """A module with an operation that has no deterministic form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.zeros(4).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))
        return self.linear(x)


def test_an_operation_without_a_deterministic_form_is_named(tmp_path: Path):
    data = (torch.ones(8, 3), torch.ones(8, 1))
    with pytest.raises(loopwright.ConfigError, match=r"put_.* has no deterministic form; .*deterministic=false"):
        loopwright.fit(Puts, nn.MSELoss(), train=data, epochs=1, out=tmp_path)
    outcome = loopwright.fit(Puts, nn.MSELoss(), train=data, epochs=1, out=tmp_path, deterministic=False)
    assert outcome.status == "completed"


def test_going_on_without_a_checkpoint_says_that_it_begins_again(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    outcome = loopwright.train("experiment=self_test", "train.epochs=1", "plots=none", out=tmp_path)
    assert outcome.run is not None and "begins again" not in caplog.text
    shutil.rmtree(Path(outcome.run) / "checkpoints")
    for name in ("result.json", "model.pt"):
        (Path(outcome.run) / name).unlink()
    with caplog.at_level("INFO", logger="loopwright"):
        again = loopwright.train("experiment=self_test", "train.epochs=1", "plots=none", out=tmp_path, resume=True)
    assert again.run == outcome.run and "no checkpoint was written before it ended" in caplog.text


def test_leftovers_of_a_kill_after_the_result_are_swept(tmp_path: Path):
    """A process killed between its result and the release of its lock leaves the lock, and those it took over."""
    outcome = loopwright.train("experiment=self_test", "train.epochs=1", "plots=none", out=tmp_path)
    assert outcome.run is not None
    run = Path(outcome.run)
    before = sorted(path.name for path in run.iterdir())
    (run / ".lock").mkdir()
    (run / ".lock.gone-0123").mkdir()
    (run / ".lock.gone-0123" / "beat").write_text("")
    again = loopwright.train("experiment=self_test", "train.epochs=1", "plots=none", out=tmp_path, resume=True)
    assert again.run == outcome.run
    assert sorted(path.name for path in run.iterdir()) == before
    (run / ".lock.gone-4567").mkdir()
    assert loopwright.resume(run).weights_sha256 == outcome.weights_sha256
    assert sorted(path.name for path in run.iterdir()) == before
